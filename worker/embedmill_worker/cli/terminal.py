"""Output for people (messages, tables and progress, plain unless on a terminal), and a Ctrl-C that stops gracefully."""

from __future__ import annotations

import importlib.util
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, Final, Protocol, Self

from embedmill.safe.printable import printable

#: Control characters that messages and texts may contain.
LAYOUT: Final = "\n\t"

#: Most characters in a table's cell.
MAX_CELL_CHARS: Final = 1_000

#: Seconds that the current step, such as a read from a pipe, may still take once the command should stop.
STEP_S: Final = 10.0


def say(message: str) -> None:
    """Write one line to stderr."""
    print(f"embedmill: {printable(message, keep=LAYOUT)}", file=sys.stderr, flush=True)


class _MessageHandler(logging.Handler):
    """Handler that writes log lines like other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show_log() -> None:
    """Write the INFO lines of the worker's modules to stderr, because fetching and measuring a model takes a while."""
    logger = logging.getLogger("embedmill_worker")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _MessageHandler) for handler in logger.handlers):
        logger.addHandler(_MessageHandler())


def is_rich(stream: IO[str]) -> bool:
    """Return whether the stream is a terminal and rich is installed to draw on it."""
    return stream.isatty() and importlib.util.find_spec("rich") is not None


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, max_rows: int | None = None) -> None:
    """Write a table to stdout, numbers right-aligned. Rows beyond ``max_rows`` are counted, not shown."""
    left_out = 0 if max_rows is None else len(rows) - max_rows
    rows = rows[:max_rows]
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    if is_rich(sys.stdout):
        from rich.console import Console
        from rich.table import Table

        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for name, is_number in zip(columns, numeric, strict=True):
            drawn.add_column(name, justify="right" if is_number else "left", overflow="fold")
        for row in cells:
            drawn.add_row(*row)
        Console(markup=False).print(drawn)
        _count(left_out)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        line = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(line).rstrip())
    _count(left_out)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(str(value), limit=MAX_CELL_CHARS)


def _count(left_out: int) -> None:
    if left_out > 0:
        print(f"… and {left_out:,} more; use --json to see all of them")


class Progress(Protocol):
    """Progress of some work."""

    def update(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` are done, of ``total`` if that is known."""


class _Silence:
    def update(self, done: int, total: int | None = None) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def update(self, done: int, total: int | None = None) -> None:
        options = {} if total is None else {"total": total}
        self._bar.update(self._task, completed=done, **options)


@contextmanager
def progress(what: str, total: int | None = None, *, unit: str = "texts", is_shown: bool = True) -> Iterator[Progress]:
    """Show progress on stderr if that is a terminal, else nothing; ``bytes`` as the unit are shown as such."""
    if not is_shown or not is_rich(sys.stderr):
        yield _Silence()
        return
    from rich import progress as bars
    from rich.console import Console

    amount: bars.ProgressColumn = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), amount, bars.TimeElapsedColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task(what, total=total))


class Stopping:
    """Context manager in which the first Ctrl-C or SIGTERM is a request, which interrupts only if it is not polled."""

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        """Return whether the command should stop."""
        if self._is_asked:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return self._is_asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        signal.setitimer(signal.ITIMER_REAL, STEP_S)
        say("stopping after the current step; finished work is kept (press Ctrl-C again to stop at once)")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        say(f"the current step did not end within {STEP_S:.0f} s and was interrupted; committed work is kept")
        raise KeyboardInterrupt
