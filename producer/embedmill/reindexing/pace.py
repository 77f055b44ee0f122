"""How much of a run may be under work at a time. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Windows that are under work whatever else waits: one of them, and one behind it.
MIN_WINDOWS: Final = 2

#: Windows under work at most: their texts are in this process, their vectors in Redis.
MAX_WINDOWS: Final = 32

#: Seconds of work that the lane should hold, everybody's counted: so the workers of a large mill never run dry, and
#: several reindexers, who all count the same tokens, share what there is.
HORIZON_S: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the bulk lane."""

    #: Estimated tokens not yet embedded.
    tokens: int
    #: Tokens a second that the lane drains.
    tokens_per_s: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.tokens / self.tokens_per_s if self.tokens_per_s > 0 else float("inf")


def wants_more(n_open: int, backlog: Backlog) -> bool:
    """Say whether another window should be submitted behind those that are open."""
    if n_open < MIN_WINDOWS:
        return True
    return n_open < MAX_WINDOWS and backlog.seconds < HORIZON_S
