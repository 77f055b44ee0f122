"""One run: from the source through the queue into the sink, with a commit a window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import numpy as np

from embedmill.protocol.vectors import Vectors
from embedmill.reindexing.index import Index
from embedmill.reindexing.pipeline import Pipeline, Stopped, WindowResult
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.planning.missing import vanished
from embedmill.reindexing.planning.planner import Pending, Planner, Window
from embedmill.reindexing.planning.ways import Deletes, hidden, ways_of
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.report import Counts, Progress, ReindexReport
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.reindexing.sources.base import Source, notes_of
from embedmill.safe.printable import some

#: Ids deleted from the sink at a time.
DELETE_IDS: Final = 1_000

#: Vanished ids gathered at a time.
VANISHED_IDS: Final = 100_000


class Run:
    """A run over one source. ``pipeline`` is set before ``execute``."""

    pipeline: Pipeline

    def __init__(
        self,
        sink: Sink,
        ledger: Ledger,
        index: Index,
        rejects: Rejects,
        *,
        on_progress: Callable[[Progress, str], None],
        should_stop: Callable[[], bool],
        retry_rejected: bool,
        delete_missing: Deletes,
    ) -> None:
        self.counts = Counts()
        self.notes: list[str] = []
        self._first_reject = ""
        self._sink = sink
        self._ledger = ledger
        self._index = index
        self._rejects = rejects
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._deletes_missing = delete_missing
        #: What the source has not is deleted: from now on it is how the sink's rows are read.
        self.has_deleted_missing = False
        self._planner = Planner(
            ledger,
            self.counts,
            self._reject,
            row_bytes=index.row_bytes,
            can_update_metadata=sink.can_update_metadata,
            retry_rejected=retry_rejected,
        )
        self._began_s = time.monotonic()
        self._first_submit: tuple[float, float] | None = None
        self._source: Source | None = None

    def execute(self, source: Source) -> bool:
        """Do it. Return whether it came to its end; False: it was stopped.

        Raises:
            EmbedError: it cannot go on; what is committed stays, and the next run goes on from there.
        """
        self._source = source
        try:
            for window in self._planner.windows(source, self.look):
                if window.keeps_vectors:
                    self._update_metadata(window)
                else:
                    self._submit(window)
            self.pipeline.drop_left_overs()
            while len(self.pipeline):
                self._collect()
            self._sweep()
        except Stopped:
            self.pipeline.leave()
            return False
        self._sink.finish(self._ledger)
        self.look()
        return True

    def report(self, sink: str, *, is_whole: bool, rows: int) -> ReindexReport:
        """Return what has been done."""
        counts = self.counts
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
            elapsed_s=round(time.monotonic() - self._began_s, 3),
            rows=rows,
            rejects=str(self._rejects.path) if counts.rejected else "",
            first_reject=self._first_reject,
            notes=(*self._planner.unread, *self.notes, *(notes_of(self._source) if self._source else ())),
        )

    def look(self, warning: str = "") -> None:
        """Say how far the run is.

        Raises:
            Stopped: the caller wants no more.
        """
        now_s = time.monotonic()
        elapsed_s = now_s - self._began_s
        fraction = self._fraction()
        embedded = self.counts.embedded + self.pipeline.texts_done
        progress = Progress(
            counts=self.counts,
            elapsed_s=elapsed_s,
            embedded=embedded,
            texts_per_s=embedded / elapsed_s if elapsed_s > 0 else 0.0,
            fraction=fraction,
            eta_s=self._eta_s(now_s, fraction),
            texts_in_flight=self.pipeline.texts - self.pipeline.texts_done,
            windows_in_flight=len(self.pipeline),
        )
        self._on_progress(progress, warning)
        if self._should_stop():
            raise Stopped

    def _submit(self, window: Window) -> None:
        self.look()
        if self._first_submit is None:
            self._first_submit = (time.monotonic(), self._fraction() or 0.0)
        while not self.pipeline.submit(window):
            self._collect()
        while not self.pipeline.wants_more():
            self._collect()

    def _collect(self) -> None:
        finished = self.pipeline.collect()
        self._commit(finished)
        self.pipeline.close()
        self.look()

    def _update_metadata(self, window: Window) -> None:
        """Return rows whose metadata alone have changed the new ones."""
        nothing = np.empty((len(window.pending), 0), dtype=self._index.dtype.numpy)
        write_ids = [p.old_write_id for p in window.pending if p.old_write_id is not None]
        self._sink.update_metadata(self._rows(window.write_id, window.pending, nothing), write_ids)
        done = WindowResult(window=window, vectors=nothing, rejected={})
        entries = [_entry(done, i, window.write_id) for i in range(len(window.pending))]
        self._ledger.commit(window.write_id, entries, "", self._planner.whole_by(window.pending, ()))
        self._planner.committed(window)
        self.counts.updated += len(window.pending)
        self.look()

    def _rows(self, write_id: int, pending: Sequence[Pending], vectors: Vectors) -> Rows:
        return Rows(
            write_id=write_id,
            ids=[p.record.id for p in pending],
            vectors=vectors,
            metadata=[p.metadata for p in pending],
            digests=[p.digest for p in pending],
            texts=[p.record.text for p in pending] if self._index.with_text else None,
        )

    def _commit(self, finished: WindowResult) -> None:
        window, chosen = finished.window, finished.positions
        pending = [window.pending[i] for i in chosen.tolist()]
        if pending:
            vectors = finished.vectors if len(pending) == len(window.pending) else finished.vectors[chosen]
            self._sink.write(self._rows(window.write_id, pending, vectors))
        outdated = [
            window.pending[i].record.id for i in finished.rejected if window.pending[i].old_write_id is not None
        ]
        if outdated:  # the text that the old vector belongs to is gone
            self._sink.delete(outdated)
        entries = [_entry(finished, i, window.write_id) for i in range(len(window.pending))]
        documents = self._planner.whole_by(pending, [window.pending[i] for i in finished.rejected])
        self._ledger.commit(window.write_id, entries, self.pipeline.oldest_job, documents)
        self._planner.committed(window)
        for i, (reason, detail) in sorted(finished.rejected.items()):
            self._reject(window.pending[i].record.id, reason, detail)
        updated = sum(p.old_write_id is not None for p in pending)
        self.counts.updated += updated
        self.counts.added += len(pending) - updated
        self.counts.deleted += len(outdated)
        self.counts.tokens += finished.tokens
        self.counts.truncated += finished.truncated
        self._rejects.flush()

    def _sweep(self) -> None:
        """Delete parts that their documents no longer have and, if asked for, all that has vanished."""
        deletes_missing = bool(self._deletes_missing)
        if deletes_missing and self._planner.has_unreadable:
            self.notes.append("some records could not be read, so nothing was taken for missing")
            deletes_missing = False
        if deletes_missing and not self.counts.read:
            self.notes.append("the source holds no record at all, so nothing was taken for missing")
            deletes_missing = False
        before, now = self._ledger.reading(), ways_of(self._source) if self._source else []
        if self._deletes_missing is True and (tables := hidden(before, now)):
            self.notes.append(f"{some(tables)}: read before, and without a text now, so nothing was taken for missing")
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
            self.counts.deleted += len(ids)
            self.look()

    def _reject(self, id: str, reason: str, detail: str) -> None:
        self.counts.rejected += 1
        self._first_reject = self._first_reject or detail
        self._rejects.add(id, reason, detail)

    def _fraction(self) -> float | None:
        """Return the share of the source that is done with: what has been read, less what is under work."""
        read = self._source.fraction() if self._source else None
        if read is None or not self.counts.read:
            return read
        counts = self.counts
        done = counts.embedded + counts.skipped + counts.rejected + self.pipeline.texts_done
        return read * min(1.0, done / counts.read)

    def _eta_s(self, now_s: float, fraction: float | None) -> float | None:
        if fraction is None or self._first_submit is None:
            return None
        began_s, began_at = self._first_submit
        if fraction <= began_at or now_s <= began_s:
            return None
        return (now_s - began_s) * (1 - fraction) / (fraction - began_at)


def _entry(finished: WindowResult, position: int, write_id: int) -> Entry:
    pending = finished.window.pending[position]
    reason, detail = finished.rejected.get(position, ("", ""))
    return Entry(
        number=pending.number,
        id=pending.record.id,
        parent=pending.record.parent,
        digest=pending.digest,
        write_id=None if reason else write_id,
        reason=reason,
        detail=detail,
    )
