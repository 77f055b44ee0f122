"""Ctrl-C and SIGTERM as a question that is asked between two steps; the second one ends the command at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from embedmill_worker.cli.terminal import say


class Stopping:
    """While this is open, the first signal is noted only."""

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        """Say whether somebody wants the command to end."""
        return self._is_asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        say("stopping: what is finished is kept (once more ends it at once)")
