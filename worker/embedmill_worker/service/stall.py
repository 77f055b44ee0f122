"""Notices that a worker has stopped to consume. A core without I/O: told of each beat, asked for a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: Seconds in which work waits, children idle and nothing begins, after which a worker is stalled.
STALL_AFTER_S: Final = 12.0

#: Seconds beyond its time limit after which a task that still runs shows that limits are not kept.
OVERDUE_AFTER_S: Final = 12.0

#: Seconds that a stalled worker says so before it ends itself.
STALL_GRACE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker's main process sees at one beat."""

    at_s: float
    children: int
    #: Tasks that children have begun since the start.
    begun: int
    #: Tasks under work: id → time limit in seconds; 0: none.
    active: Mapping[str, float]
    #: Tasks taken from Redis that no child has begun.
    taken: int
    #: Messages in this worker's queues; None: Redis did not answer.
    waiting: int | None


class StallWatch:
    """Compares beats."""

    def __init__(self) -> None:
        self._begun = -1
        self._idle_since_s: float | None = None
        self._first_seen_s: dict[str, float] = {}

    def judge(self, beat: Beat) -> str:
        """Take a beat; gives why the worker is stalled, or ""."""
        self._first_seen_s = {task: self._first_seen_s.get(task, beat.at_s) for task in beat.active}
        for task, limit_s in beat.active.items():
            over_s = beat.at_s - self._first_seen_s[task] - limit_s
            if limit_s and over_s > OVERDUE_AFTER_S:
                return f"a task has run {over_s:.0f} s beyond its limit of {limit_s:.0f} s"
        # A Redis that does not answer says nothing about this worker.
        has_work = beat.waiting is not None and beat.waiting + beat.taken > 0
        if not has_work or len(beat.active) >= beat.children or beat.begun != self._begun:
            self._begun, self._idle_since_s = beat.begun, None
            return ""
        if self._idle_since_s is None:
            self._idle_since_s = beat.at_s
        idle_s = beat.at_s - self._idle_since_s
        if idle_s < STALL_AFTER_S:
            return ""
        return f"{beat.waiting} messages wait and {beat.taken} are taken, but no child has begun one for {idle_s:.0f} s"
