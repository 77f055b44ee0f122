"""Flows: the conversations of client and worker with Redis, independent of a connection.

A flow is a generator. It yields steps such as ``RoundTrip``, is sent their replies, and returns its result. ``sync.py``
runs flows over blocking connections and ``aio.py`` over asyncio ones, so both clients share their code. Errors are
thrown into the flow, which may clean up with further round trips.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from embedmill.protocol.scripts import script

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Commands that are sent to Redis in one round trip."""

    commands: Sequence[Command]
    #: Seconds that Redis may block before the last reply. A transport without a free connection may itself answer
    #: after that time, with None for each command, which means no news.
    block_s: float = 0.0
    #: Seconds that an unreachable Redis is tried again; None: the transport's default.
    outage_s: float | None = None
    #: Seconds that this round trip may take after the flow's deadline, for cleaning up.
    grace_s: float = 0.0
    #: Whether an error that Redis returns for a command stands in the place of its reply instead of being raised.
    keeps_errors: bool = False


@dataclass(frozen=True, slots=True)
class Offload:
    """A computation that would block an event loop for too long; the asyncio transport runs it in a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause of the flow."""

    seconds: float


Flow = Generator[RoundTrip | Offload | Sleep, Any, T]


def evalsha(name: str, keys: Sequence[str], *args: str | bytes | int | float) -> Command:
    """Return the command that calls a script."""
    return ("EVALSHA", script(name).sha, len(keys), *keys, *args)
