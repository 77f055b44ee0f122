"""The blocking connection to Redis: drives flows, keeps deadlines, maps every foreign error.

Safe in threads and after a fork: connections come from redis-py's pool, which knows its process.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from embedmill.errors import BrokerUnavailableError, QueueError, QueueFullError, SettingsError
from embedmill.flows import Ask, Command, Compute, Flow, Pause
from embedmill.redis_url import FILE_OPTIONS, SentinelAddress, is_sentinel, mask_url, read_sentinel
from embedmill.scripts import text_of
from embedmill.settings import ClientSettings

T = TypeVar("T")

#: Seconds that an unreachable Redis is tried again before a call gives up, unless its timeout is shorter.
OUTAGE_S: Final = 5.0

#: Seconds one reply may take beyond what was asked of Redis itself.
REPLY_S: Final = 5.0

#: Pauses between tries, doubling.
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5

#: Connections a client: each thread that waits holds one. What a Redis takes by default; redis-py would take 100.
MAX_CONNECTIONS: Final = 10_000

RETRYABLE: Final = (ConnectionError, TimeoutError, BusyLoadingError, OSError)

#: What trying again does not mend. Caught first: to redis-py they are ConnectionErrors too.
REFUSALS: Final = (AuthenticationError, AuthorizationError)


class _Deadline(threading.local):
    """When the call that this thread is in must be over, on the monotonic clock."""

    at_s: float = float("inf")

    def left_s(self, at_most: float) -> float:
        return max(0.001, min(at_most, self.at_s - time.monotonic()))


_deadline = _Deadline()


def _in_time(base: type[Any]) -> type[Any]:
    """Give a connection class that connects and reads within the deadline of the call that uses it."""

    def left_s(_: Any) -> float:
        return _deadline.left_s(REPLY_S)

    def ignore(_: Any, value: float | None) -> None:
        """The deadline decides."""

    timeout = property(left_s, ignore)
    return type(f"InTime{base.__name__}", (base,), {"socket_timeout": timeout, "socket_connect_timeout": timeout})


_CONNECTIONS: Final = {
    "redis": _in_time(Connection),
    "rediss": _in_time(SSLConnection),
    "unix": _in_time(UnixDomainSocketConnection),
    "redis+sentinel": _in_time(SentinelManagedConnection),
    "rediss+sentinel": _in_time(SentinelManagedSSLConnection),
}

#: Seconds that one sentinel is waited for; there are others.
SENTINEL_S: Final = 1.0


def make_pool(settings: ClientSettings) -> ConnectionPool:
    """Make an empty pool of connections that keep the caller's deadline.

    Raises:
        SettingsError: the URL has an option that redis-py does not take, or names a file that is not there.
    """
    url = settings.redis_url
    connection_class = _CONNECTIONS[url.partition(":")[0]]
    options = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "max_connections": MAX_CONNECTIONS}
    try:
        if is_sentinel(url):
            address = read_sentinel(url)
            told = _checked(url, parse_url(address.direct_url))
            sentinel = Sentinel(address.hosts, sentinel_kwargs=sentinel_options(address, told))
            pool: ConnectionPool = SentinelConnectionPool(
                address.master, sentinel, connection_class=connection_class, **master_options(told), **options
            )
        else:
            _checked(url, parse_url(url))
            pool = ConnectionPool.from_url(url, decode_responses=False, **options)
            pool.connection_class = connection_class
        pool.make_connection()  # connects to nothing, but refuses what it does not know
    except SettingsError:
        raise
    except (ValueError, TypeError):
        reason = "an option after its ? is unknown or has an unreadable value"
        raise SettingsError("EMBEDMILL_REDIS_URL", mask_url(url), reason) from None
    return pool


def master_options(told: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a connection to the master is made with, whatever its address."""
    return {name: value for name, value in told.items() if name not in ("host", "port", "connection_class")}


def sentinel_options(address: SentinelAddress, told: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a connection to a sentinel is made with: its own login, the master's TLS, and little patience."""
    tls = {name: value for name, value in told.items() if name.startswith("ssl_")}
    timeouts = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    once = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    return {**address.sentinel_login, **tls, **timeouts, **once, **({"ssl": True} if address.tls else {})}


def _checked(url: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the options back if the files that they name are there."""
    for name in FILE_OPTIONS:
        if name in told and not Path(told[name]).is_file():
            raise SettingsError("EMBEDMILL_REDIS_URL", mask_url(url), f"{name} names no file: {told[name]}")
    return told


class Link:
    """A pool of connections that runs flows."""

    def __init__(self, settings: ClientSettings) -> None:
        self._url_masked = mask_url(settings.redis_url)
        self._pool = make_pool(settings)

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()
        if isinstance(self._pool, SentinelConnectionPool):
            for sentinel in self._pool.sentinel_manager.sentinels:
                sentinel.close()

    def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Drive a flow to its result.

        Args:
            flow: what to say.
            timeout_s: seconds for the whole flow.
            outage_s: seconds that an unreachable Redis is tried again, where the flow does not say.

        Raises:
            BrokerUnavailableError: no answer within ``timeout_s``, or unreachable for ``outage_s``.
            QueueFullError: Redis is at its memory limit.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    replies = self._do(step, deadline_s, outage_s)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(replies)
        except StopIteration as end:
            value: T = end.value
            return value

    def _do(self, step: Ask | Compute | Pause, deadline_s: float, outage_s: float) -> Any:
        match step:
            case Compute():
                return step.run()
            case Pause():
                return time.sleep(step.seconds)
        return self._ask(step, deadline_s, outage_s)

    def _ask(self, ask: Ask, deadline_s: float, outage_s: float) -> list[Any]:
        patience_s = outage_s if ask.outage_s is None else ask.outage_s
        deadline_s = max(deadline_s, time.monotonic() + ask.grace_s)
        give_up_s = min(deadline_s, time.monotonic() + patience_s)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._exchange(ask, deadline_s)
            except REFUSALS as error:
                raise refused(self._url_masked, error) from None
            except RETRYABLE as error:
                if is_distrust(error) or time.monotonic() + pause_s >= give_up_s:
                    raise unavailable(self._url_masked, error) from None
            except RedisError as error:
                raise refused(self._url_masked, error) from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _exchange(self, ask: Ask, deadline_s: float) -> list[Any]:
        _deadline.at_s = deadline_s
        try:
            connection: Any = self._pool.get_connection()
            try:
                connection.update_current_socket_timeout(_deadline.left_s(REPLY_S + ask.block_s))
                replies = _send(connection, ask.commands)
                for i, reply in enumerate(replies):
                    if isinstance(reply, NoScriptError):
                        (replies[i],) = _send(connection, [with_text(ask.commands[i])])
            except BaseException:
                connection.disconnect()
                raise
            finally:
                self._pool.release(connection)
        finally:
            _deadline.at_s = float("inf")
        if not ask.keeps_errors:
            raise_first_error(replies)
        return replies


def _send(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_read(connection) for _ in commands]


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def with_text(command: Command) -> Command:
    """Give the EVAL of a script that Redis does not know by its sha1."""
    return ("EVAL", text_of(str(command[1])), *command[2:])


def raise_first_error(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def is_distrust(error: BaseException) -> bool:
    """Say whether a server's certificate was refused: trying again does not mend that."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def unavailable(url_masked: str, error: BaseException) -> BrokerUnavailableError:
    """Say that Redis did not answer."""
    if is_distrust(error):
        reason = "its TLS certificate is not trusted or is made out to another name; name the authority by ssl_ca_certs"
        return BrokerUnavailableError(url_masked, reason)
    if "WRONG_VERSION_NUMBER" in str(error):
        return BrokerUnavailableError(url_masked, "it does not speak TLS on this port; use redis:// if that is right")
    late = isinstance(error, TimeoutError | builtins.TimeoutError)
    reason = "no answer in time" if late else "cannot be reached"
    return BrokerUnavailableError(
        url_masked, f"{reason} ({type(error).__name__}); is it running, and is the URL right?"
    )


def refused(url_masked: str, error: RedisError) -> QueueError:
    """Map what Redis refuses; its message may quote a command's arguments and is not passed on."""
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:200]:
        return QueueFullError("Redis", 0, 0, "it has reached its maxmemory")
    if isinstance(error, REFUSALS):
        return BrokerUnavailableError(url_masked, "it refuses the user or password of the URL")
    code = str(error).split(" ", 1)[0][:32]
    return BrokerUnavailableError(url_masked, f"it refused a command ({type(error).__name__}: {code})")
