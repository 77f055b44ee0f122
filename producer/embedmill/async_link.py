"""The asyncio connection to Redis: ``link.py`` awaited."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final
from weakref import WeakKeyDictionary

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from embedmill.flows import Ask, Compute, Flow
from embedmill.link import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    OUTAGE_S,
    REFUSALS,
    REPLY_S,
    RETRYABLE,
    T,
    make_pool,
    raise_first_error,
    refused,
    unavailable,
    with_text,
)
from embedmill.settings import ClientSettings, mask_url

#: Connections a client: each call that waits for vectors holds one.
MAX_CONNECTIONS: Final = 128


class AsyncLink:
    """A pool of connections that runs flows without blocking the event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        make_pool(settings)  # only to refuse its options now
        self._url = settings.redis_url
        self._url_masked = mask_url(settings.redis_url)
        #: By event loop, and the process in which the loop runs: a connection belongs to one of each.
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, Any]] = WeakKeyDictionary()

    async def close(self) -> None:
        """Close all connections of the running event loop."""
        pid, pool = self._pools.pop(asyncio.get_running_loop(), (0, None))
        if pid == os.getpid():
            await pool.disconnect()

    async def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Drive a flow to its result; see ``Link.run``."""
        deadline_s = _now_s() + timeout_s
        try:
            step = next(flow)
            while True:
                try:
                    if isinstance(step, Compute):
                        replies = await asyncio.to_thread(step.run)
                    else:
                        replies = await self._ask(step, deadline_s, outage_s)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(replies)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _ask(self, ask: Ask, deadline_s: float, outage_s: float) -> list[Any]:
        patience_s = outage_s if ask.outage_s is None else ask.outage_s
        deadline_s = max(deadline_s, _now_s() + ask.grace_s)
        give_up_s = min(deadline_s, _now_s() + patience_s)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout_at(min(deadline_s, _now_s() + REPLY_S + ask.block_s)):
                    return await self._exchange(ask)
            except REFUSALS as error:
                raise refused(self._url_masked, error) from None
            except RETRYABLE as error:
                if _now_s() + pause_s >= give_up_s:
                    raise unavailable(self._url_masked, error) from None
            except RedisError as error:
                raise refused(self._url_masked, error) from None
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _exchange(self, ask: Ask) -> list[Any]:
        pool = self._pool()
        connection: Any = await pool.get_connection()
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
        raise_first_error(replies)
        return replies

    def _pool(self) -> Any:
        """Give the pool of this event loop and process."""
        loop = asyncio.get_running_loop()
        pid, pool = self._pools.get(loop, (0, None))
        if pid != os.getpid():
            pool = BlockingConnectionPool.from_url(
                self._url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
                max_connections=MAX_CONNECTIONS,
                timeout=None,
                socket_timeout=None,
                socket_connect_timeout=REPLY_S,
            )
            self._pools[loop] = (os.getpid(), pool)
        return pool


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
