"""The asyncio transport: it runs flows like ``sync.py``, without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError

from embedmill.errors import ClientClosedError
from embedmill.settings import ClientSettings
from embedmill.transport.failures import (
    REFUSALS,
    RETRYABLE,
    is_untrusted_certificate,
    raise_first_error,
    refused,
    unavailable,
)
from embedmill.transport.flow import Flow, Offload, RoundTrip, Sleep, T
from embedmill.transport.pools import REPLY_S, make_pool, master_options, sentinel_options
from embedmill.transport.sync import FIRST_PAUSE_S, LONGEST_PAUSE_S, OUTAGE_S, check_open, with_text
from embedmill.urls import is_sentinel, mask_url, read_sentinel

#: Connections of a client: some for calls that wait for vectors, which hold one each, and some for all other calls, so
#: that these never queue behind waits. A wait that finds no free connection ends without news; the flow then reads the
#: record instead.
WAITING_CONNECTIONS: Final = 112
BRIEF_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """Connections of one event loop in one process."""

    pid: int
    connections: Any
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WAITING_CONNECTIONS))
    brief: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BRIEF_CONNECTIONS))


class AsyncRedisTransport:
    """A runner of flows over pooled connections that does not block the event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        make_pool(settings)  # only to raise SettingsError for bad options now
        self._url = settings.redis_url
        self._url_masked = mask_url(settings.redis_url)
        #: Pool of each event loop. A connection belongs to one loop and one process.
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self.is_closed = False

    async def close(self) -> None:
        """Close the connections of the running event loop and take no more flows.

        Flows that are running, in any event loop, end with ClientClosedError at their next step.
        """
        self.is_closed = True
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close all connections of the running event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None and pool.pid == os.getpid():
            await pool.connections.disconnect()
            if isinstance(pool.connections, SentinelConnectionPool):
                await pool.connections.sentinel_manager.aclose()

    async def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Run a flow to its result; see ``RedisTransport.run``."""
        if self.is_closed:
            raise ClientClosedError
        deadline_s = _now_s() + timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    replies = await self._do(step, deadline_s, outage_s)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(replies)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _do(self, step: RoundTrip | Offload | Sleep, deadline_s: float, outage_s: float) -> Any:
        match step:
            case Offload():
                return await asyncio.to_thread(step.run)
            case Sleep():
                return await asyncio.sleep(step.seconds)
        return await self._ask(step, deadline_s, outage_s)

    async def _ask(self, ask: RoundTrip, deadline_s: float, outage_s: float) -> list[Any]:
        patience_s = outage_s if ask.outage_s is None else ask.outage_s
        deadline_s = max(deadline_s, _now_s() + ask.grace_s)
        give_up_s = min(deadline_s, _now_s() + patience_s)
        pause_s = FIRST_PAUSE_S
        while True:
            check_open(ask, is_closed=self.is_closed)
            try:
                if ask.block_s:
                    return await self._wait(ask, deadline_s)
                async with asyncio.timeout_at(deadline_s), self._pool().brief:
                    return await self._exchange(ask, deadline_s)
            except REFUSALS as error:
                raise refused(self._url_masked, error) from None
            except RETRYABLE as error:
                if is_untrusted_certificate(error) or _now_s() + pause_s >= give_up_s:
                    raise unavailable(self._url_masked, error) from None
            except RedisError as error:
                raise refused(self._url_masked, error) from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _wait(self, ask: RoundTrip, deadline_s: float) -> list[Any]:
        slots = self._pool().waiting
        try:
            async with asyncio.timeout(ask.block_s):
                await slots.acquire()
        except TimeoutError:
            return [None] * len(ask.commands)
        try:
            return await self._exchange(ask, deadline_s)
        finally:
            slots.release()

    async def _exchange(self, ask: RoundTrip, deadline_s: float) -> list[Any]:
        async with asyncio.timeout_at(min(deadline_s, _now_s() + REPLY_S + ask.block_s)):
            return await self._speak(ask)

    async def _speak(self, ask: RoundTrip) -> list[Any]:
        pool = self._pool().connections
        try:
            connection: Any = await pool.get_connection()
        except ConnectionError as error:  # redis.asyncio wraps errors raised while connecting
            raise (error.__cause__ if isinstance(error.__cause__, REFUSALS) else error) from None
        try:
            replies = await _send(connection, ask.commands)
            for i, reply in enumerate(replies):
                if isinstance(reply, NoScriptError):
                    (replies[i],) = await _send(connection, [with_text(ask.commands[i])])
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        if not ask.keeps_errors:
            raise_first_error(replies)
        return replies

    def _pool(self) -> _Pool:
        """Return the pool of this event loop and process."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or pool.pid != os.getpid():
            pool = self._pools[loop] = _Pool(pid=os.getpid(), connections=_make_connections(self._url))
        return pool


def _make_connections(url: str) -> Any:
    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": WAITING_CONNECTIONS + BRIEF_CONNECTIONS,
        "socket_timeout": None,
        "socket_connect_timeout": REPLY_S,
    }
    if not is_sentinel(url):
        return ConnectionPool.from_url(url, decode_responses=False, **options)
    address = read_sentinel(url)
    parsed = parse_url(address.direct_url)
    sentinels = sentinel_options(address, parsed) | {"retry": options["retry"]}
    kind = SentinelManagedSSLConnection if address.tls else SentinelManagedConnection
    manager = Sentinel(address.hosts, sentinel_kwargs=sentinels)
    return SentinelConnectionPool(address.master, manager, connection_class=kind, **master_options(parsed), **options)


async def _send(connection: Any, commands: Any) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await _read(connection) for _ in commands]


async def _read(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _now_s() -> float:
    return asyncio.get_running_loop().time()
