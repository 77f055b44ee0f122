"""How a run goes, and how it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


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
    #: Of the first one, the reason for people; "": there are none.
    first_reject: str = ""
    #: What people should know besides: where the version before this one is kept, why nothing was deleted.
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "notes"} | {
            "notes": list(self.notes)
        }
