"""How far a reindexer is: a bar on a terminal, a line now and then in a log, or JSON events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from embedmill.safe.printable import printable
from embedmill_worker.cli.terminal import is_rich, say

if TYPE_CHECKING:
    from embedmill.reindexing import Progress

Show = Callable[["Progress", str], None]

#: Seconds between two lines, and between two events.
LINE_S: Final = 10.0
EVENT_S: Final = 1.0


@contextmanager
def shown(*, as_json: bool) -> Iterator[Show]:
    """Return the callback that shows progress."""
    if as_json:
        yield _Seldom(EVENT_S, _event)
    elif is_rich(sys.stderr):
        with _bar() as show:
            yield show
    else:
        yield _Seldom(LINE_S, _line)


def line(progress: Progress) -> str:
    """Return one line for people."""
    counts = progress.counts
    parts = [f"{progress.embedded:,} embedded", f"{progress.texts_per_s:,.0f} texts/s", f"{counts.tokens:,} tokens"]
    parts += [f"{counts.skipped:,} unchanged"] if counts.skipped else []
    parts += [f"{counts.rejected:,} rejected"] if counts.rejected else []
    parts += [f"{progress.texts_in_flight:,} under work"] if progress.texts_in_flight else []
    parts += [f"{duration(progress.eta_s)} left"] if progress.eta_s is not None else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds for people, as in ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600:,} h {whole % 3_600 // 60} min"


class _Seldom:
    """Shows what it is given, but not more often than every so many seconds, and each warning once."""

    def __init__(self, period_s: float, show: Show) -> None:
        self._period_s = period_s
        self._show = show
        self._shown_s = time.monotonic()
        self._warning = ""

    def __call__(self, progress: Progress, warning: str) -> None:
        is_news = warning not in ("", self._warning)
        if is_news or time.monotonic() - self._shown_s >= self._period_s:
            self._shown_s = time.monotonic()
            self._warning = warning or self._warning
            self._show(progress, warning)


def _line(progress: Progress, warning: str) -> None:
    say(warning or line(progress))


def _event(progress: Progress, warning: str) -> None:
    fields = {name: value for name, value in asdict(progress).items() if name != "counts"}
    event = {"event": "progress", **asdict(progress.counts), **fields}
    print(json.dumps(event | {"warning": warning} if warning else event), flush=True)


@contextmanager
def _bar() -> Iterator[Show]:
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.BarColumn(bar_width=24), bars.TextColumn("{task.description}"), bars.TimeElapsedColumn())
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        warnings: set[str] = set()

        def show(progress: Progress, warning: str) -> None:
            if warning and warning not in warnings:
                warnings.add(warning)
                console.print(f"embedmill: {printable(warning)}", markup=False, highlight=False)
            total = None if progress.fraction is None else 1.0
            bar.update(task, description=line(progress), total=total, completed=progress.fraction)

        yield show
