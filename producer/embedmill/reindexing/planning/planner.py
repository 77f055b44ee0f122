"""The planner: skips unchanged records and gathers new and changed ones into windows, one job each."""

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

#: Most texts and characters of a window, which is one job, one write to the sink and one commit. They are constant, so
#: that a run that resumes cuts the same windows and finds the jobs of the run before it.
WINDOW_TEXTS: Final = 4_096
WINDOW_CHARS: Final = 1_000_000

#: Most bytes of a window's vectors and characters of its metadata; a window of one text may exceed them.
WINDOW_BYTES: Final = 8 << 20
WINDOW_CARRIED: Final = 8_000_000

#: Characters of metadata up to which a window keeps them twice: as JSON, and in the record.
TWICE_CHARS: Final = 1_000

#: Most records, and characters of them, that are looked up in the ledger at a time.
BATCH_RECORDS: Final = 1_000
BATCH_CHARS: Final = 4_000_000

#: Unreadable parts of a source that a run names; it counts all of them.
SHOWN_PARTS: Final = 10

#: Reason of a record whose id an earlier record has.
DUPLICATE_ID: Final = "duplicate_id"
DUPLICATE: Final = (
    "an earlier record has this id; name a field with unique values (--id-field), or give files with the same name by "
    "their paths relative to a common folder"
)


#: Records with their metadata as JSON; a ``BadRecord`` with "".
Batch = list[tuple[Record | BadRecord, str]]


@dataclass(frozen=True, slots=True)
class Pending:
    """A text to embed."""

    number: int
    record: Record
    metadata: str = field(repr=False)
    digest: bytes
    #: Id of the write of the row that the sink has for this id; None if it has none.
    old_write_id: int | None


@dataclass(slots=True, kw_only=True)
class Window:
    """Texts that become one job."""

    write_id: int
    #: Whether only the metadata of its texts have changed, so that their rows keep their vectors.
    keeps_vectors: bool = False
    pending: list[Pending] = field(default_factory=list)
    chars: int = 0
    #: Characters of the metadata.
    carried: int = 0

    def add(self, pending: Pending) -> None:
        """Add a text."""
        self.pending.append(pending)
        self.chars += len(pending.record.text)
        self.carried += len(pending.metadata)

    @property
    def texts(self) -> list[str]:
        """The texts, in the source's order."""
        return [p.record.text for p in self.pending]

    def job_id(self, index: Index, sink: str) -> str:
        """Return the id of its job, which is the same whenever window, index and sink are the same."""
        hashed = hashlib.blake2b(f"{sink}\n{index.identity}\n".encode(), digest_size=16)
        for p in self.pending:
            hashed.update(p.digest + p.record.id.encode() + b"\n")
        return f"reindex-{hashed.hexdigest()}"


class Planner:
    """A reader of one source that plans what to embed."""

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
            counts: updated here: ``read``, ``skipped`` and ``unread``.
            reject: called with id, reason and detail of each record without a vector.
            row_bytes: bytes per vector.
            can_update_metadata: whether the sink can replace the metadata of rows and keep their vectors.
            retry_rejected: embed texts again that were rejected before, although they are unchanged.
        """
        self.seen = SeenRows()
        #: Whether part of the source was unreadable, so that a missing id is not proof of deletion.
        self.has_unreadable = False
        #: Messages about the first unreadable parts of the source.
        self.unread: list[str] = []
        #: Ids of rows to delete, because the record is invalid now and the text of the old vector is gone.
        self.outdated: list[str] = []
        self._ledger = ledger
        self._counts = counts
        self._reject = reject
        self._can_update_metadata = can_update_metadata
        self._retries = retry_rejected
        self._window_texts = max(1, min(WINDOW_TEXTS, WINDOW_BYTES // row_bytes))
        self._next_number = ledger.next_number()
        self._next_write_id = ledger.next_write_id()
        #: Row numbers of ids that were not in the ledger when they were looked up.
        self._new: dict[str, int] = {}
        self._committed: list[str] = []
        self._documents = OpenDocuments()

    def windows(self, source: Source, tick: Callable[[], None]) -> Iterator[Window]:
        """Return the windows to write. ``tick`` is called before each batch of up to a thousand records."""
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
        """Return the documents whose parts are all in the sink once ``kept`` is; texts in ``lost`` have no vector."""
        for pending in lost:
            self._documents.drop(pending.record.parent)
        self._documents.done(pending.record.parent for pending in kept)
        return self._documents.take_whole()

    def committed(self, window: Window) -> None:
        """Forget the row numbers of a window's new ids, which are in the ledger now."""
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
        """Read records; of a split source, the parts of documents that are not completely in the sink."""
        if not isinstance(source, SplitSource):
            yield from _batches(source)
            return
        for documents in _batches(source.documents):
            self._ledger.note_documents(self._documents.take_whole())
            yield []  # keeps ``tick`` called during a long run of unchanged documents
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
        """Skip a document whose parts are all in the sink. Return False if it must be split."""
        numbers = self._ledger.parts(document)
        if not numbers or any(number in self.seen for number in numbers):
            return False
        for number in numbers:
            self.seen.add(number)
        self._counts.read += len(numbers)
        self._counts.skipped += len(numbers)
        return True

    def _changed(self, batch: Batch) -> Iterator[tuple[Pending, bool]]:
        for id in self._committed:  # only now: the batch before was looked up before these ids were committed
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
                self._skip(item, found)
                continue
            old_write_id = found.write_id if found else None
            keeps_vector = bool(
                self._can_update_metadata and found and old_write_id is not None and has_same_text(found.digest, hashed)
            )
            if len(metadata) > TWICE_CHARS:  # a copy without them saves memory, but not for short ones
                item = Record(id=item.id, text=item.text, parent=item.parent)  # noqa: PLW2901
            yield Pending(number, item, metadata, hashed, old_write_id), keeps_vector

    def _number(self, id: str) -> int:
        number = self._new.get(id)
        if number is None:
            number = self._new[id] = self._next_number
            self._next_number += 1
        return number

    def _skip(self, record: Record, known: Known) -> None:
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
        is_kept = bad.reason == UNREADABLE  # the text may be unchanged
        for number, id in self._ledger.rows_under(bad.id):
            if self.seen.add(number) and not is_kept:
                self.outdated.append(id)


def _batches(source: Iterable[Record | BadRecord]) -> Iterator[Batch]:
    """Read batches of records with their metadata as JSON, whose length also limits a batch."""
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
    """Count the records, given with their metadata as JSON, that a run would skip."""
    known = ledger.look_up(record.id for record in records)
    return sum(
        record.id in known and known[record.id].digest == digest(record.text, carried)
        for record, carried in zip(records, metadata, strict=True)
    )


@runtime_checkable
class SplitSource(Protocol):
    """A source whose records are the parts of documents."""

    @property
    def documents(self) -> Source:
        """The source of the documents."""
        ...

    @property
    def settings(self) -> str:
        """Everything besides a document that determines its parts."""
        ...

    def parts(self, record: Record) -> Iterator[Record | BadRecord]:
        """Split one document."""
        ...


def document_of(record: Record, metadata_json: str, settings: str) -> Document:
    """Return the ledger's entry for a document, with no parts yet."""
    hashed = hashlib.blake2b(digest(record.text, metadata_json), digest_size=16)
    hashed.update(settings.encode())
    return Document(id=record.id, digest=hashed.digest(), n_parts=0)


@dataclass(slots=True)
class _Open:
    document: Document
    left: int


class OpenDocuments:
    """Documents some of whose parts are not in the sink yet."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._whole: list[Document] = []

    def begin(self, document: Document) -> None:
        """Start to count the parts of a document."""
        self._open[document.id] = _Open(document, document.n_parts)

    def drop(self, parent: str) -> None:
        """Forget a document: one of its parts has no vector, so the next run must split it again."""
        self._open.pop(parent, None)

    def done(self, parents: Iterable[str]) -> None:
        """Count, for each entry, one part of that document as written to the sink."""
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
        """Return the documents whose last part was counted since the last call."""
        whole, self._whole = self._whole, []
        return whole
