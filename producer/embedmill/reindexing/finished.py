"""What has become of a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedmill.protocol.vectors import Vectors
from embedmill.reindexing.planner import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Of a window: positions that are done, their vectors, and those that have none."""

    window: Window
    #: (n, columns), row i for ``window.pending[i]``; blank where there is none.
    vectors: Vectors
    #: Position → reason, detail.
    rejected: dict[int, tuple[str, str]]
    #: Positions that are not done: only after a stop.
    missing: frozenset[int] = frozenset()
    tokens: int = 0
    #: Texts that were cut at the model's limit.
    truncated: int = 0

    @property
    def positions(self) -> npt.NDArray[np.intp]:
        """Positions that have a vector, (n,)."""
        count = len(self.window.pending)
        return np.array([i for i in range(count) if i not in self.missing and i not in self.rejected], np.intp)
