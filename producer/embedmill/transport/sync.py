"""The blocking transport: it runs flows over connections to Redis, keeps deadlines and maps redis-py's errors.

It is safe in threads and after a fork, as connections come from redis-py's pool, which knows its process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.sentinel import SentinelConnectionPool

from embedmill.errors import ClientClosedError
from embedmill.protocol.scripts import text_of
from embedmill.settings import ClientSettings
from embedmill.transport.failures import (
    REFUSALS,
    RETRYABLE,
    is_untrusted_certificate,
    raise_first_error,
    refused,
    unavailable,
)
from embedmill.transport.flow import Command, Flow, Offload, RoundTrip, Sleep, T
from embedmill.transport.pools import REPLY_S, deadline, make_pool
from embedmill.urls import mask_url

#: Seconds that an unreachable Redis is tried again before a call gives up, unless its timeout is shorter.
OUTAGE_S: Final = 5.0

#: First and longest pause in seconds between two attempts; each pause is twice the one before.
FIRST_PAUSE_S: Final = 0.02

LONGEST_PAUSE_S: Final = 0.5


class RedisTransport:
    """A runner of flows over pooled blocking connections."""

    def __init__(self, settings: ClientSettings) -> None:
        self._url_masked = mask_url(settings.redis_url)
        self._pool = make_pool(settings)
        self.is_closed = False

    def close(self) -> None:
        """Close the idle connections and take no more flows; running flows end at their next step.

        They raise ClientClosedError. Until then they keep their connections, as redis-py fails if another thread closes
        a connection while it reads.
        """
        self.is_closed = True
        self._pool.disconnect(inuse_connections=False)
        if isinstance(self._pool, SentinelConnectionPool):
            for sentinel in self._pool.sentinel_manager.sentinels:
                sentinel.close()

    def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Run a flow to its result.

        Args:
            flow: the flow.
            timeout_s: seconds for the whole flow.
            outage_s: seconds that an unreachable Redis is tried again, unless a round trip has its own.

        Raises:
            ClientClosedError: the transport was closed, before the flow or during it.
            BrokerUnavailableError: Redis did not answer within ``timeout_s``, or was unreachable for ``outage_s``.
            KeyConflictError: another program has written to one of embedmill's keys.
            QueueFullError: Redis has reached its maxmemory.
        """
        if self.is_closed:
            raise ClientClosedError
        try:
            return self._drive(flow, time.monotonic() + timeout_s, outage_s)
        finally:
            if self.is_closed:
                self._pool.disconnect(inuse_connections=False)  # the connection that this flow has returned

    def _drive(self, flow: Flow[T], deadline_s: float, outage_s: float) -> T:
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

    def _do(self, step: RoundTrip | Offload | Sleep, deadline_s: float, outage_s: float) -> Any:
        match step:
            case Offload():
                return step.run()
            case Sleep():
                return time.sleep(step.seconds)
        return self._ask(step, deadline_s, outage_s)

    def _ask(self, ask: RoundTrip, deadline_s: float, outage_s: float) -> list[Any]:
        patience_s = outage_s if ask.outage_s is None else ask.outage_s
        deadline_s = max(deadline_s, time.monotonic() + ask.grace_s)
        give_up_s = min(deadline_s, time.monotonic() + patience_s)
        pause_s = FIRST_PAUSE_S
        while True:
            check_open(ask, is_closed=self.is_closed)
            try:
                return self._exchange(ask, deadline_s)
            except REFUSALS as error:
                raise refused(self._url_masked, error) from None
            except RETRYABLE as error:
                if is_untrusted_certificate(error) or time.monotonic() + pause_s >= give_up_s:
                    raise unavailable(self._url_masked, error) from None
            except RedisError as error:
                raise refused(self._url_masked, error) from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _exchange(self, ask: RoundTrip, deadline_s: float) -> list[Any]:
        deadline.at_s = deadline_s
        try:
            connection: Any = self._pool.get_connection()
            try:
                connection.update_current_socket_timeout(deadline.left_s(REPLY_S + ask.block_s))
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
            deadline.at_s = float("inf")
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


def check_open(ask: RoundTrip, *, is_closed: bool) -> None:
    """Raise ClientClosedError if the client was closed, unless the flow is cleaning up."""
    if is_closed and not ask.grace_s:
        raise ClientClosedError


def with_text(command: Command) -> Command:
    """Return the EVAL for an EVALSHA whose script Redis does not have."""
    return ("EVAL", text_of(str(command[1])), *command[2:])
