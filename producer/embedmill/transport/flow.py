"""What client and worker say to Redis, without a connection.

A flow is a generator: it yields ``RoundTrip``s, is sent their replies, and returns its result. ``sync.py`` drives
flows over a blocking connection and ``aio.py`` over an asyncio one, so that both clients are the same code. What goes
wrong is thrown into the flow, which may clean up with further ``RoundTrip``s.
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
    """Commands for one round trip."""

    commands: Sequence[Command]
    #: Seconds that Redis itself may hold the last reply back. A driver short of connections may answer by itself
    #: after that time, with None for each command: no news.
    block_s: float = 0.0
    #: Seconds that an unreachable Redis is tried again; None: as long as the driver does by itself.
    outage_s: float | None = None
    #: Seconds by which this may outlast the flow's deadline: for cleaning up after it.
    grace_s: float = 0.0
    #: A command that Redis refuses gives its error in the reply's place and hides no other reply.
    keeps_errors: bool = False


@dataclass(frozen=True, slots=True)
class Offload:
    """A computation too long for an event loop: the asyncio driver runs it in a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds to do nothing in."""

    seconds: float


Flow = Generator[RoundTrip | Offload | Sleep, Any, T]


def evalsha(name: str, keys: Sequence[str], *args: str | bytes | int | float) -> Command:
    """Return the call of a script."""
    return ("EVALSHA", script(name).sha, len(keys), *keys, *args)
