"""What people see: messages, tables and progress; plain wherever there is no terminal."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol


def say(message: str) -> None:
    """Write one line to stderr."""
    print(f"embedmill: {message}", file=sys.stderr, flush=True)


class _Said(logging.Handler):
    """Writes log lines as other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        say(printable(record.getMessage()))


def show_log() -> None:
    """Write what the worker's modules log from INFO on to stderr: what is fetched, made and measured takes its time."""
    logger = logging.getLogger("embedmill_worker")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Said) for handler in logger.handlers):
        logger.addHandler(_Said())


def printable(text: str) -> str:
    """Give a text that moves no cursor: control characters as escapes, but for line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def is_rich(stream: IO[str]) -> bool:
    """Say whether the stream is a terminal and rich is there to draw on it."""
    return stream.isatty() and importlib.util.find_spec("rich") is not None


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table to stdout; numbers are put to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
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
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        line = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(line).rstrip())


class Progress(Protocol):
    """How far something is."""

    def update(self, done: int, total: int | None = None) -> None:
        """Say that ``done`` are done, of ``total`` if that is known by now."""


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
    """Show progress on a terminal's stderr and nothing elsewhere; unit: ``texts`` or ``bytes``."""
    if not is_shown or not is_rich(sys.stderr):
        yield _Silence()
        return
    from rich import progress as bars
    from rich.console import Console

    amount: bars.ProgressColumn = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), amount, bars.TimeElapsedColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task(what, total=total))
