"""From records to windows: what is unchanged is passed over, what is new or changed is gathered for one job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, runtime_checkable

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.index import Index
from embedmill.reindexing.metadata import to_json
from embedmill.reindexing.planning.ledger import Document, Known, Ledger
from embedmill.reindexing.planning.missing import SeenRows
from embedmill.reindexing.record import BadRecord, Record, digest, has_same_text
from embedmill.reindexing.report import Counts
from embedmill.reindexing.sources.base import UNFIT, UNREADABLE, Source, batches

#: Most texts and characters of a window, which is one job, one write to the sink and one commit. They do not change
#: from run to run: a run that goes on cuts the same windows and so finds the jobs of the run before it.
WINDOW_TEXTS: Final = 4_096
WINDOW_CHARS: Final = 1_000_000

#: Most bytes of a window's vectors and most characters of its metadata, unless it is of one text.
WINDOW_BYTES: Final = 8 << 20
WINDOW_CARRIED: Final = 8_000_000

#: Most characters of a record's metadata that a window may hold twice: as JSON, and as they came.
TWICE_CHARS: Final = 1_000

#: Records looked up in the ledger at a time, and the most characters that they may hold together.
BATCH_RECORDS: Final = 1_000
BATCH_CHARS: Final = 4_000_000

#: Parts of a source that could not be read and that a run names; it counts them all.
SHOWN_PARTS: Final = 10

#: Reason of a record whose id another one before it has.
DUPLICATE_ID: Final = "duplicate_id"
DUPLICATE: Final = (
    "another record before it has this id; name the field that tells them apart (--id-field), or files of one name by "
    "their paths from a folder above them"
)


#: Records with their metadata as JSON, and what should have been some with nothing.
Batch = list[tuple[Record | BadRecord, str]]


@dataclass(frozen=True, slots=True)
class Pending:
    """A text to embed."""

    number: int
    record: Record
    metadata: str = field(repr=False)
    digest: bytes
    #: The write that put the sink's older row of this id; None: it has none.
    old_write_id: int | None


@dataclass(slots=True, kw_only=True)
class Window:
    """Texts that become one job."""

    write_id: int
    #: Only their metadata have changed: they keep their vectors.
    keeps_vectors: bool = False
    pending: list[Pending] = field(default_factory=list)
    chars: int = 0
    #: Characters of the metadata.
    carried: int = 0

    def add(self, pending: Pending) -> None:
        """Put a text in."""
        self.pending.append(pending)
        self.chars += len(pending.record.text)
        self.carried += len(pending.metadata)

    @property
    def texts(self) -> list[str]:
        """Its texts, in the source's order."""
        return [p.record.text for p in self.pending]

    def job_id(self, index: Index, sink: str) -> str:
        """Return its job's id: the same for the same window of the same sink."""
        hashed = hashlib.blake2b(f"{sink}\n{index.identity}\n".encode(), digest_size=16)
        for p in self.pending:
            hashed.update(p.digest + p.record.id.encode() + b"\n")
        return f"reindex-{hashed.hexdigest()}"


class Planner:
    """Reads a source once."""

    def __init__(
        self,
        ledger: Ledger,
        counts: Counts,
        reject: Callable[[str, str, str], None],
        *,
        row_bytes: int,
        can_update_metadata: bool = False,
        retry_rejected: bool = False,
    ) -> None:
        """Prepare to read a source.

        Args:
            ledger: what the sink holds.
            counts: counted up here: ``read``, ``skipped``.
            reject: takes id, reason and detail of what has no vector.
            row_bytes: of one vector.
            can_update_metadata: the sink gives rows new metadata without their vectors.
            retry_rejected: embed again what was rejected before, though it is unchanged.
        """
        self.seen = SeenRows()
        #: Some of the source could not be read: whatever seems to have vanished may be that.
        self.has_unreadable = False
        #: Parts of the source that could not be read, the first ones, for people.
        self.unread: list[str] = []
        #: Ids of rows whose records can no longer be kept: the text that their vectors belong to is gone.
        self.outdated: list[str] = []
        self._ledger = ledger
        self._counts = counts
        self._reject = reject
        self._can_update_metadata = can_update_metadata
        self._retries = retry_rejected
        self._window_texts = max(1, min(WINDOW_TEXTS, WINDOW_BYTES // row_bytes))
        self._next_number = ledger.next_number()
        self._next_write_id = ledger.next_write_id()
        #: Numbers of ids that were not in the ledger when they were looked up.
        self._new: dict[str, int] = {}
        self._committed: list[str] = []
        self._documents = OpenDocuments()

    def windows(self, source: Source, tick: Callable[[], None]) -> Iterator[Window]:
        """Return the windows of what is to be written; tick: called before every thousand records."""
        filling: dict[bool, Window] = {}
        for batch in self._batches(source):
            tick()
            for pending, keeps_vector in self._changed(batch):
                window = filling.get(keeps_vector)
                if window is not None and self._is_full(window, pending):
                    yield filling.pop(keeps_vector)
                    window = None
                if window is None:
                    window = filling[keeps_vector] = self._window(keeps_vectors=keeps_vector)
                window.add(pending)
        yield from filling.values()
        self._ledger.note_documents(self._documents.take_whole())

    def whole_by(self, kept: Sequence[Pending], lost: Sequence[Pending]) -> list[Document]:
        """Return the documents that are whole in the sink when these texts are; lost: those that have no vector."""
        for pending in lost:
            self._documents.drop(pending.record.parent)
        self._documents.done(pending.record.parent for pending in kept)
        return self._documents.take_whole()

    def committed(self, window: Window) -> None:
        """Forget the numbers of a window's new ids, which are in the ledger now."""
        self._committed.extend(pending.record.id for pending in window.pending)

    def _window(self, *, keeps_vectors: bool) -> Window:
        self._next_write_id += 1
        return Window(write_id=self._next_write_id - 1, keeps_vectors=keeps_vectors)

    def _is_full(self, window: Window, pending: Pending) -> bool:
        return (
            len(window.pending) == self._window_texts
            or window.chars + len(pending.record.text) > WINDOW_CHARS
            or window.carried + len(pending.metadata) > WINDOW_CARRIED
        )

    def _batches(self, source: Source) -> Iterator[Batch]:
        """Read records, or the parts of documents that are not whole in the sink."""
        if not isinstance(source, SplitSource):
            yield from _batches(source)
            return
        for documents in _batches(source.documents):
            self._ledger.note_documents(self._documents.take_whole())
            yield []  # so that a long row of unchanged documents is heard of
            yield from _batches(part for item, metadata in documents for part in self._parts(source, item, metadata))

    def _parts(self, source: SplitSource, item: Record | BadRecord, metadata: str) -> Iterator[Record | BadRecord]:
        if isinstance(item, BadRecord):
            yield item
            return
        document = document_of(item, metadata, source.settings)
        if self._is_whole(document):
            return
        parts = list(source.parts(item))
        self._documents.begin(replace(document, n_parts=len(parts)))
        yield from parts

    def _is_whole(self, document: Document) -> bool:
        """Pass over a document whose parts are all in the sink; False: it has to be split."""
        numbers = self._ledger.parts(document)
        if not numbers or any(number in self.seen for number in numbers):
            return False
        for number in numbers:
            self.seen.add(number)
        self._counts.read += len(numbers)
        self._counts.skipped += len(numbers)
        return True

    def _changed(self, batch: Batch) -> Iterator[tuple[Pending, bool]]:
        for id in self._committed:  # not before: the batch under work was looked up before they were committed
            self._new.pop(id, None)
        self._committed.clear()
        known = self._ledger.look_up(item.id for item, _ in batch if isinstance(item, Record))
        self._counts.read += len(batch)
        for item, metadata in batch:
            if isinstance(item, BadRecord):
                self._note_bad(item)
                continue
            found = known.get(item.id)
            number = found.number if found else self._number(item.id)
            if not self.seen.add(number):
                self._documents.drop(item.parent)
                self._reject(item.id, DUPLICATE_ID, DUPLICATE)
                continue
            hashed = digest(item.text, metadata)
            if found and found.digest == hashed and not (found.reason and self._retries):
                self._pass_over(item, found)
                continue
            old_write_id = found.write_id if found else None
            keeps_vector = bool(
                self._can_update_metadata and found and old_write_id is not None and has_same_text(found.digest, hashed)
            )
            if len(metadata) > TWICE_CHARS:  # else a copy without them takes longer than it saves
                item = Record(id=item.id, text=item.text, parent=item.parent)  # noqa: PLW2901
            yield Pending(number, item, metadata, hashed, old_write_id), keeps_vector

    def _number(self, id: str) -> int:
        number = self._new.get(id)
        if number is None:
            number = self._new[id] = self._next_number
            self._next_number += 1
        return number

    def _pass_over(self, record: Record, known: Known) -> None:
        if known.reason:
            self._documents.drop(record.parent)
            self._reject(record.id, known.reason, known.detail or "")
        else:
            if record.parent:
                self._documents.done([record.parent])
            self._counts.skipped += 1

    def _note_bad(self, bad: BadRecord) -> None:
        self._reject(bad.id, bad.reason, bad.detail)
        if bad.is_partial:
            self._counts.unread += 1
            self.unread += [bad.detail] if len(self.unread) < SHOWN_PARTS else []
        if bad.is_anonymous:
            self.has_unreadable = True
            return
        is_kept = bad.reason == UNREADABLE  # the text may be as it was
        for number, id in self._ledger.rows_under(bad.id):
            if self.seen.add(number) and not is_kept:
                self.outdated.append(id)


def _batches(source: Iterable[Record | BadRecord]) -> Iterator[Batch]:
    """Read some records at a time, with their metadata as JSON: by its length a batch is bounded, too."""
    return batches(_with_metadata(source), _chars, most=BATCH_RECORDS, most_size=BATCH_CHARS)


def _chars(entry: tuple[Record | BadRecord, str]) -> int:
    item, metadata = entry
    return len(metadata) + (len(item.text) if isinstance(item, Record) else 0)


def _with_metadata(source: Iterable[Record | BadRecord]) -> Iterator[tuple[Record | BadRecord, str]]:
    for item in source:
        if isinstance(item, BadRecord):
            yield item, ""
            continue
        try:
            metadata = to_json(item.metadata)
        except InvalidRequestError as error:
            yield BadRecord(id=item.id, reason=UNFIT, detail=str(error), is_anonymous=False), ""
        else:
            yield item, metadata


def unchanged(ledger: Ledger, records: Sequence[Record], metadata: Sequence[str]) -> int:
    """Count the records, of this metadata as JSON, that a run would pass over."""
    known = ledger.look_up(record.id for record in records)
    return sum(
        record.id in known and known[record.id].digest == digest(record.text, carried)
        for record, carried in zip(records, metadata, strict=True)
    )


@runtime_checkable
class SplitSource(Protocol):
    """A source whose records are cut into parts."""

    @property
    def documents(self) -> Source:
        """The source of what is cut."""
        ...

    @property
    def settings(self) -> str:
        """What parts depend on besides their documents."""
        ...

    def parts(self, record: Record) -> Iterator[Record | BadRecord]:
        """Cut one record."""
        ...


def document_of(record: Record, metadata_json: str, settings: str) -> Document:
    """Return what a ledger knows a record by."""
    hashed = hashlib.blake2b(digest(record.text, metadata_json), digest_size=16)
    hashed.update(settings.encode())
    return Document(id=record.id, digest=hashed.digest(), n_parts=0)


@dataclass(slots=True)
class _Open:
    document: Document
    left: int


class OpenDocuments:
    """Documents of which some parts are not in the sink yet."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._whole: list[Document] = []

    def begin(self, document: Document) -> None:
        """Wait for all parts of a document."""
        self._open[document.id] = _Open(document, document.n_parts)

    def drop(self, parent: str) -> None:
        """Forget a document: one of its parts has no vector, and the next run has to see it again."""
        self._open.pop(parent, None)

    def done(self, parents: Iterable[str]) -> None:
        """Count a part of each of these documents as being in the sink."""
        if not self._open:
            return
        for parent in parents:
            found = self._open.get(parent)
            if found is None:
                continue
            found.left -= 1
            if not found.left:
                self._whole.append(self._open.pop(parent).document)

    def take_whole(self) -> list[Document]:
        """Return the documents that have become whole since the last call."""
        whole, self._whole = self._whole, []
        return whole
