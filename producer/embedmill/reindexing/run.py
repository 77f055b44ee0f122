"""One run: moves records from the source through the queue into the sink, and commits each window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np

from embedmill.errors import some
from embedmill.protocol.vectors import Vectors
from embedmill.reindexing.index import Index
from embedmill.reindexing.pipeline import Pipeline
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.planning.missing import vanished
from embedmill.reindexing.planning.planner import Pending, Planner, Window
from embedmill.reindexing.planning.ways import Deletes, hidden
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.report import ProgressMeter, ReindexReport, Stopped
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.reindexing.sources.base import Source, notes_of, ways_of
from embedmill.reply import EmbeddingReply, Rejected

#: Most ids deleted from the sink at a time.
DELETE_IDS: Final = 1_000

#: Most vanished ids collected at a time.
VANISHED_IDS: Final = 100_000


class Run:
    """A run that brings one sink up to date with one source."""

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        ledger: Ledger,
        index: Index,
        rejects: Rejects,
        pipeline: Pipeline,
        meter: ProgressMeter,
        retry_rejected: bool,
        delete_missing: Deletes,
    ) -> None:
        self.notes: list[str] = []
        self._first_reject = ""
        self._source = source
        self._sink = sink
        self._ledger = ledger
        self._index = index
        self._rejects = rejects
        self._pipeline = pipeline
        self._meter = meter
        self._counts = meter.counts
        self._deletes_missing = delete_missing
        #: Whether missing rows were deleted, so that all rows of the sink come from this way of reading.
        self.has_deleted_missing = False
        self._planner = Planner(
            ledger,
            meter.counts,
            self._reject,
            row_bytes=index.row_bytes,
            can_update_metadata=sink.can_update_metadata,
            retry_rejected=retry_rejected,
        )

    def execute(self) -> bool:
        """Bring the sink up to date. Return False if the run was stopped before its end.

        Raises:
            EmbedError: the run failed. Committed windows stay, and the next run resumes after them.
        """
        try:
            for window in self._planner.windows(self._source, self._meter.look):
                if window.keeps_vectors:
                    self._update_metadata(window)
                else:
                    self._submit(window)
            self._pipeline.drop_left_overs()
            while len(self._pipeline):
                self._collect()
            self._sweep()
        except Stopped:
            self._pipeline.leave()
            return False
        self._sink.finish(self._ledger)
        self._meter.look()
        return True

    def report(self, sink: str, *, is_whole: bool, rows: int) -> ReindexReport:
        """Return the report of the run."""
        counts = self._counts
        return ReindexReport(
            sink=sink,
            model=self._index.model,
            fingerprint=self._index.fingerprint,
            is_whole=is_whole,
            read=counts.read,
            added=counts.added,
            updated=counts.updated,
            skipped=counts.skipped,
            deleted=counts.deleted,
            rejected=counts.rejected,
            truncated=counts.truncated,
            unread=counts.unread,
            tokens=counts.tokens,
            elapsed_s=round(self._meter.elapsed_s, 3),
            rows=rows,
            rejects=str(self._rejects.path) if counts.rejected else "",
            first_reject=self._first_reject,
            notes=(*self._planner.unread, *self.notes, *notes_of(self._source)),
        )

    def _submit(self, window: Window) -> None:
        self._meter.look()
        self._meter.begin()
        while not self._pipeline.submit(window):
            self._collect()
        while not self._pipeline.wants_more():
            self._collect()

    def _collect(self) -> None:
        self._commit(*self._pipeline.collect())
        self._pipeline.close()
        self._meter.look()

    def _update_metadata(self, window: Window) -> None:
        """Write the new metadata of rows that keep their vectors."""
        nothing = np.empty((len(window.pending), 0), dtype=self._index.dtype.numpy)
        write_ids = [p.old_write_id for p in window.pending if p.old_write_id is not None]
        self._sink.update_metadata(self._rows(window.write_id, window.pending, nothing), write_ids)
        entries = [_entry(p, window.write_id) for p in window.pending]
        self._ledger.commit(window.write_id, entries, "", self._planner.whole_by(window.pending, ()))
        self._planner.committed(window)
        self._counts.updated += len(window.pending)
        self._meter.look()

    def _rows(self, write_id: int, pending: Sequence[Pending], vectors: Vectors) -> Rows:
        return Rows(
            write_id=write_id,
            ids=[p.record.id for p in pending],
            vectors=vectors,
            metadata=[p.metadata for p in pending],
            digests=[p.digest for p in pending],
            texts=[p.record.text for p in pending] if self._index.with_text else None,
        )

    def _commit(self, window: Window, reply: EmbeddingReply) -> None:
        why = {r.index: r for r in reply.rejected}
        kept = [i for i in range(len(window.pending)) if i not in why]
        pending, lost = [window.pending[i] for i in kept], [window.pending[i] for i in why]
        if pending:
            vectors = reply.vectors[kept] if lost else reply.vectors
            self._sink.write(self._rows(window.write_id, pending, vectors))
        outdated = [p.record.id for p in lost if p.old_write_id is not None]
        if outdated:  # the new text has no vector, and the old text is gone
            self._sink.delete(outdated)
        entries = [_entry(p, window.write_id, why.get(i)) for i, p in enumerate(window.pending)]
        self._ledger.commit(window.write_id, entries, self._pipeline.oldest_job, self._planner.whole_by(pending, lost))
        self._planner.committed(window)
        for i, rejected in sorted(why.items()):
            self._reject(window.pending[i].record.id, rejected.reason, rejected.detail)
        updated = sum(p.old_write_id is not None for p in pending)
        self._counts.updated += updated
        self._counts.added += len(pending) - updated
        self._counts.deleted += len(outdated)
        self._counts.tokens += int(reply.token_counts.sum())
        self._counts.truncated += int(reply.truncated.sum())
        self._rejects.flush()

    def _sweep(self) -> None:
        """Delete outdated rows, vanished parts of documents and, with ``delete_missing``, all vanished rows."""
        deletes_missing = bool(self._deletes_missing)
        if deletes_missing and self._planner.has_unreadable:
            self.notes.append("some records could not be read, so no missing rows were deleted")
            deletes_missing = False
        if deletes_missing and not self._counts.read:
            self.notes.append("the source has no records, so no missing rows were deleted")
            deletes_missing = False
        before, now = self._ledger.reading(), ways_of(self._source)
        if self._deletes_missing is True and (tables := hidden(before, now)):
            self.notes.append(
                f"tables that were read before have no text field now, so no missing rows were deleted: {some(tables)}"
            )
            deletes_missing = False
        self.has_deleted_missing = deletes_missing
        self._delete(self._planner.outdated)
        while gone := list(
            islice(vanished(self._ledger.all_rows(), self._planner.seen, all_missing=deletes_missing), VANISHED_IDS)
        ):
            self._delete(gone)

    def _delete(self, gone: Sequence[str]) -> None:
        for start in range(0, len(gone), DELETE_IDS):
            ids = gone[start : start + DELETE_IDS]
            self._sink.delete(ids)
            self._ledger.forget(ids)
            self._counts.deleted += len(ids)
            self._meter.look()

    def _reject(self, id: str, reason: str, detail: str) -> None:
        self._counts.rejected += 1
        self._first_reject = self._first_reject or detail
        self._rejects.add(id, reason, detail)


def _entry(pending: Pending, write_id: int, rejected: Rejected | None = None) -> Entry:
    return Entry(
        number=pending.number,
        id=pending.record.id,
        parent=pending.record.parent,
        digest=pending.digest,
        write_id=None if rejected else write_id,
        reason=rejected.reason if rejected else "",
        detail=rejected.detail if rejected else "",
    )
