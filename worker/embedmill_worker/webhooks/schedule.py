"""When an attempt that failed is followed by another one. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from embedmill.errors import SettingsError

#: Seconds between two attempts, in the order in which they pass: over three days in all, as Standard Webhooks has it.
PAUSES_S: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)

#: Most pauses, and the longest one in seconds.
MAX_PAUSES: Final = 32
MAX_PAUSE_S: Final = 86_400.0

#: Share of a pause that is added to it at random, so that what failed together does not come back together.
JITTER: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The pauses between attempts. After the last one, an event is given up."""

    pauses_s: Sequence[float] = PAUSES_S

    @classmethod
    def parse(cls, value: str, source: str) -> Schedule:
        """Read seconds, separated by commas, as in ``5,300,1800``.

        Raises:
            SettingsError: they are not numbers that grow.
        """
        try:
            pauses = tuple(float(each) for each in value.split(","))
        except ValueError:
            pauses = ()
        is_growing = all(a <= b for a, b in itertools.pairwise(pauses))
        if not (0 < len(pauses) <= MAX_PAUSES and is_growing and pauses[0] > 0 and pauses[-1] <= MAX_PAUSE_S):
            reason = f"give 1 to {MAX_PAUSES} numbers of seconds up to {MAX_PAUSE_S:g} that grow, as in 5,300,1800"
            raise SettingsError(source, value[:100], reason)
        return cls(pauses_s=pauses)

    def pause_s(self, attempts: int, share: float) -> float | None:
        """Return the seconds until the next attempt; None: there is none.

        Args:
            attempts: attempts that have failed, from 1.
            share: a random number from 0 to 1.
        """
        if attempts > len(self.pauses_s):
            return None
        return self.pauses_s[attempts - 1] * (1 + JITTER * share)
