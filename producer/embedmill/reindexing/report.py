"""The progress of a run, and its final report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from embedmill.reindexing.sources.base import Source


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counters that increase during a run."""

    #: Items of the source: records and invalid ones.
    read: int = 0
    added: int = 0
    updated: int = 0
    #: Records that are unchanged since they were embedded.
    skipped: int = 0
    deleted: int = 0
    rejected: int = 0
    #: Texts that were truncated in this run.
    truncated: int = 0
    #: Files, rests of files and folders that could not be read.
    unread: int = 0
    #: Tokens of the texts that were embedded in this run.
    tokens: int = 0

    @property
    def embedded(self) -> int:
        """Number of texts that were embedded in this run."""
        return self.added + self.updated


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a run at one moment."""

    counts: Counts
    elapsed_s: float
    #: Texts embedded so far: those in the sink, and finished ones of windows in flight.
    embedded: int = 0
    #: Texts embedded per second since the run began.
    texts_per_s: float
    #: Share of the source that is finished, 0 to 1; None if unknown.
    fraction: float | None
    #: Estimated seconds that remain; None if unknown.
    eta_s: float | None
    #: Unfinished texts in flight, and windows in flight.
    texts_in_flight: int = 0
    windows_in_flight: int = 0


#: The progress before a run has begun.
NOTHING_YET: Final = Progress(counts=Counts(), elapsed_s=0.0, texts_per_s=0.0, fraction=None, eta_s=None)


class Stopped(Exception):
    """Raised to end a run because ``should_stop`` returned True."""


class ProgressMeter:
    """The counters of a run, which reports them to the caller and asks whether to stop."""

    def __init__(
        self,
        source: Source,
        on_progress: Callable[[Progress, str], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.counts = Counts()
        #: Windows in flight, their texts, and the finished ones of these texts.
        self.windows = self.texts = self.texts_done = 0
        self._source = source
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._began_s = time.monotonic()
        self._first_submit: tuple[float, float] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began_s

    def begin(self) -> None:
        """Start the clock of the estimated time, at the first call only: skipping records is faster than embedding."""
        if self._first_submit is None:
            self._first_submit = (time.monotonic(), self._fraction() or 0.0)

    def look(self, warning: str = "") -> None:
        """Report the progress, with a warning if the run is waiting.

        Raises:
            Stopped: ``should_stop`` returned True.
        """
        if self._on_progress is not None:
            self._on_progress(self._progress(), warning)
        if self._should_stop is not None and self._should_stop():
            raise Stopped

    def _progress(self) -> Progress:
        elapsed_s, fraction = self.elapsed_s, self._fraction()
        embedded = self.counts.embedded + self.texts_done
        return Progress(
            counts=self.counts,
            elapsed_s=elapsed_s,
            embedded=embedded,
            texts_per_s=embedded / elapsed_s if elapsed_s > 0 else 0.0,
            fraction=fraction,
            eta_s=self._eta_s(fraction),
            texts_in_flight=self.texts - self.texts_done,
            windows_in_flight=self.windows,
        )

    def _fraction(self) -> float | None:
        """Return the share of the source that is finished: what has been read, less what is in flight."""
        read, counts = self._source.fraction(), self.counts
        if read is None or not counts.read:
            return read
        done = counts.embedded + counts.skipped + counts.rejected + self.texts_done
        return read * min(1.0, done / counts.read)

    def _eta_s(self, fraction: float | None) -> float | None:
        if fraction is None or self._first_submit is None:
            return None
        began_s, began_at = self._first_submit
        passed_s = time.monotonic() - began_s
        return passed_s * (1 - fraction) / (fraction - began_at) if fraction > began_at and passed_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """The result of a run."""

    sink: str
    model: str
    fingerprint: str
    #: False if the run was stopped before its end.
    is_whole: bool
    read: int
    added: int
    updated: int
    skipped: int
    deleted: int
    rejected: int
    truncated: int
    unread: int
    tokens: int
    elapsed_s: float
    #: Rows that the sink holds now.
    rows: int
    #: Path of the list of rejects; "" if there are none.
    rejects: str
    #: The detail of the first reject; "" if there are none.
    first_reject: str = ""
    #: Further messages, such as where the previous version is kept or why nothing was deleted.
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all fields as values of JSON."""
        return asdict(self) | {"notes": list(self.notes)}
