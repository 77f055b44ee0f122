"""Ctrl-C and SIGTERM as a question that is asked between two steps; the second one ends the command at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

from embedmill_worker.cli.terminal import say

#: Seconds for the step that runs: one that does not end, as a read from a pipe, is interrupted then.
STEP_S: Final = 10.0


class Stopping:
    """While this is open, the first signal is noted, and ends the command only if nobody asks for it in time."""

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        """Say whether somebody wants the command to end."""
        if self._is_asked:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return self._is_asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        signal.setitimer(signal.ITIMER_REAL, STEP_S)
        say("stopping: what is finished is kept (once more ends it at once)")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        say("stopped in the middle of a step that did not end: what is committed is kept")
        raise KeyboardInterrupt
