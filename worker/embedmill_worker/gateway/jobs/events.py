"""Server-sent events of a job's progress, until the job is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final

import orjson

from embedmill_worker.gateway.jobs.entries import SeenJob
from embedmill_worker.gateway.refusals import RETRYABLE, RefusedError

MEDIA_TYPE: Final = "text/event-stream"

#: Proxies must neither keep nor delay what follows.
HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

#: Seconds between two looks at a job, and after which a line is sent if nothing has changed.
LOOK_S: Final = 0.5
KEEP_ALIVE_S: Final = 15.0

#: Looks without a change after which a comment is sent.
_QUIET_LOOKS: Final = round(KEEP_ALIVE_S / LOOK_S)

_KEEP_ALIVE: Final = b": keep-alive\n\n"


def event(name: str, number: int, value: object) -> bytes:
    """Return one event; JSON has no line ends, so its data is one line."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (name.encode(), number, orjson.dumps(value))


async def follow(
    seen: SeenJob,
    look: Callable[[], Awaitable[SeenJob]],
    shape: Callable[[SeenJob], object],
    ending: asyncio.Event,
) -> AsyncGenerator[bytes, None]:
    """Yield ``progress`` now and after each change, and ``done`` when the job is over.

    Args:
        seen: the job as it is now.
        look: reads it again.
        shape: makes the data of an event.
        ending: ends the events before the job is over, when the gateway ends.

    Raises:
        RefusedError: the job cannot be found any more.
    """
    yield b"retry: 1000\n\n"
    quiet = 0
    yield event("done" if seen.is_over else "progress", seen.n_done, shape(seen))
    while not seen.is_over and not ending.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), LOOK_S)
        shown = (seen.status, seen.n_done)
        try:
            seen = await look()
        except RefusedError as error:
            if error.kind not in RETRYABLE:
                raise
        quiet += 1
        if seen.is_over:
            yield event("done", seen.n_done, shape(seen))
        elif (seen.status, seen.n_done) != shown:
            yield event("progress", seen.n_done, shape(seen))
            quiet = 0
        elif quiet >= _QUIET_LOOKS:
            yield _KEEP_ALIVE
            quiet = 0
