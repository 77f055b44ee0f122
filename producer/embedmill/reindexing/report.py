"""How a run goes, and how it went."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from embedmill.reindexing.sources.base import Source


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counted up while a run goes on."""

    #: Records and what should have been some.
    read: int = 0
    added: int = 0
    updated: int = 0
    #: Unchanged since they were embedded.
    skipped: int = 0
    deleted: int = 0
    rejected: int = 0
    #: Texts that were embedded in this run only as far as the model reads.
    truncated: int = 0
    #: Files, rests of files and folders that could not be read.
    unread: int = 0
    #: Tokens of the texts that were embedded in this run.
    tokens: int = 0

    @property
    def embedded(self) -> int:
        """Texts that were embedded in this run."""
        return self.added + self.updated


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run at one moment."""

    counts: Counts
    elapsed_s: float
    #: Texts embedded so far: those in the sink, and those under work that are done.
    embedded: int = 0
    #: Such texts a second.
    texts_per_s: float
    #: How much of the source is done with, 0 to 1; None: nobody knows.
    fraction: float | None
    #: Seconds still to go; None: nobody knows.
    eta_s: float | None
    #: Texts that are not done, and windows, under work.
    texts_in_flight: int = 0
    windows_in_flight: int = 0


#: Before a run has begun.
NOTHING_YET: Final = Progress(counts=Counts(), elapsed_s=0.0, texts_per_s=0.0, fraction=None, eta_s=None)


class Stopped(Exception):
    """The caller wants the run to end."""


class ProgressMeter:
    """Counts what a run does, and shows it to the caller, who may stop the run."""

    def __init__(
        self,
        source: Source,
        on_progress: Callable[[Progress, str], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.counts = Counts()
        #: Windows under work, the texts in them, and those of these that are done.
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
        """Reckon what is left from the first call on: what comes before is no measure of it."""
        if self._first_submit is None:
            self._first_submit = (time.monotonic(), self._fraction() or 0.0)

    def look(self, warning: str = "") -> None:
        """Show how far the run is, and why nothing moves if nothing does.

        Raises:
            Stopped: the caller wants no more.
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
        """Return the share of the source that is done with: what has been read, less what is under work."""
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
    """What a whole run has done."""

    sink: str
    model: str
    fingerprint: str
    #: False: it was stopped before its end.
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
    #: Where the rejected ones are listed; "": there are none.
    rejects: str
    #: Why the first one was, for people; "": there are none.
    first_reject: str = ""
    #: What people should know besides: where the version before this one is kept, why nothing was deleted.
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self) | {"notes": list(self.notes)}
