"""Windows in flight: submitted in order, collected in order, found again after a crash."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from embedmill.errors import (
    BrokerUnavailableError,
    JobCancelledError,
    QueueFullError,
    ResultExpiredError,
    SinkMismatchError,
)
from embedmill.protocol.records import JobState
from embedmill.reindexing.report import ProgressMeter
from embedmill.reply import EmbeddingReply, Reason

if TYPE_CHECKING:
    from embedmill.reindexing.bulk_queue import BulkQueue
    from embedmill.reindexing.index import Index
    from embedmill.reindexing.planning.ledger import Ledger
    from embedmill.reindexing.planning.planner import Window

T = TypeVar("T")

#: Seconds between two looks at the progress of jobs.
LOOK_S: Final = 0.5

#: Seconds between two attempts to reach Redis.
RETRY_S: Final = 0.5

#: Seconds to keep trying while Redis does not answer; then the run fails, and the next one resumes it.
OUTAGE_S: Final = 60.0

#: Seconds after which a job that no worker has begun causes a look at which workers are live.
LONELY_S: Final = 3.0

#: Characters of metadata in the open windows above which no window is opened unless fewer than two are open.
OPEN_CARRIED: Final = 32_000_000

#: How often a window that Redis has lost is submitted again.
MAX_RESUBMISSIONS: Final = 20

#: The hint when the model has changed during a run.
CHANGED: Final = "Go on with workers of the model that began it, or rebuild with the new one (rebuild)."


@dataclass(slots=True)
class _Open:
    window: Window
    job_id: str
    losses: int = 0
    #: Texts that were done at the last look.
    texts_done: int = 0


class Pipeline:
    """The open windows of one run: submitted and not yet committed."""

    def __init__(
        self,
        queue: BulkQueue,
        ledger: Ledger,
        index: Index,
        meter: ProgressMeter,
        *,
        sink: str,
        dimensions: int | None,
    ) -> None:
        """Read the ids of the jobs that an earlier run has left.

        Args:
            queue: takes the jobs of the windows.
            ledger: records the ids of these jobs.
            index: the model and options of the vectors.
            meter: receives the progress and, while the run waits, a warning that says for what; may raise Stopped.
            sink: name of the sink.
            dimensions: components to keep; None keeps all.
        """
        self._queue = queue
        self._ledger = ledger
        self._index = index
        self._meter = meter
        self._sink = sink
        self._dimensions = dimensions
        self._open: deque[_Open] = deque()
        #: Windows closed so far.
        self._n_closed = 0
        self._left_over = ledger.jobs()
        #: Windows still to be submitted before unmatched jobs of an earlier run are deleted.
        self._expected = len(self._left_over)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def oldest_job(self) -> str:
        """Job id of the oldest open window."""
        return self._open[0].job_id

    def wants_more(self) -> bool:
        """Return whether another window should be submitted before the oldest one is collected."""
        if len(self._open) > 1 and sum(item.window.carried for item in self._open) > OPEN_CARRIED:
            return False
        return self._retry(self._queue.backlog).wants_more(len(self._open), self._n_closed)

    def submit(self, window: Window) -> bool:
        """Submit a window's job. Return False if the queue is full: collecting the open windows makes room."""
        item = _Open(window, window.job_id(self._index, self._sink))
        if item.job_id in self._left_over:
            self._left_over.remove(item.job_id)
        else:
            self._ledger.note_job(item.job_id)
        if not self._store(item, waits=not self._open):
            return False
        self._open.append(item)
        self._count()
        self._expected -= 1
        if self._expected <= 0:
            self.drop_left_overs()
        return True

    def drop_left_overs(self) -> None:
        """Delete the jobs of an earlier run that match no window of this one."""
        while self._left_over:
            job_id = self._left_over.pop()
            self._retry(partial(self._queue.delete, job_id))
            self._ledger.drop_job(job_id)

    def collect(self) -> tuple[Window, EmbeddingReply]:
        """Wait for the oldest window, and return it with its vectors. It stays open until ``close``.

        Raises:
            SinkMismatchError: its vectors are from another model, as the workers changed theirs.
            JobCancelledError: its job was cancelled; the next run submits it again.
            ResultExpiredError: Redis has lost its job too often.
            BrokerUnavailableError: Redis was unavailable for a minute.
        """
        item = self._open[0]
        while True:
            try:
                self._wait(item)
                reply = self._retry(partial(self._queue.reply, item.job_id))
                self._check(reply)
                return item.window, reply
            except ResultExpiredError:  # Redis lost the job; its texts are still in memory
                item.losses += 1
                item.texts_done = 0
                self._count()
                if item.losses > MAX_RESUBMISSIONS:
                    raise
                self._store(item, waits=True)

    def close(self) -> None:
        """Close the oldest window, which is committed, and delete its job."""
        item = self._open.popleft()
        self._n_closed += 1
        self._count()
        self._retry(partial(self._queue.delete, item.job_id))

    def leave(self) -> None:
        """Delete the jobs that no worker has begun. The others continue, and the next run finds their vectors."""
        with suppress(BrokerUnavailableError):  # without Redis nothing is deleted, and the next run finds all jobs
            for item in self._open:
                if self._is_begun(item.job_id):
                    continue
                self._queue.delete(item.job_id)
                self._ledger.drop_job(item.job_id)

    def _is_begun(self, job_id: str) -> bool:
        try:
            return self._queue.status(job_id).state is not JobState.QUEUED
        except ResultExpiredError:
            return False

    def _store(self, item: _Open, *, waits: bool) -> bool:
        store = partial(
            self._queue.submit,
            item.job_id,
            item.window.texts,
            self._index,
            dimensions=self._dimensions,
            waits=waits,
        )
        while True:
            try:
                self._retry(store)
            except QueueFullError as error:
                if not waits:
                    return False
                self._meter.look(f"waiting for room: {error.queue} is full")
            else:
                return True

    def _wait(self, item: _Open) -> None:
        began_s, looked_s = time.monotonic(), 0.0
        cursor, warning = "0-0", ""
        while True:
            events = self._retry(partial(self._queue.news, item.job_id, cursor))
            if events.over is JobState.CANCELLED:
                self._retry(partial(self._queue.delete, item.job_id))  # else the next run would find it cancelled, too
                raise JobCancelledError(item.job_id)
            if events.over is not None:
                return
            is_begun = cursor != "0-0" or bool(events.chunks)
            cursor = events.cursor
            if time.monotonic() - looked_s < LOOK_S:
                continue
            if not is_begun and not warning and time.monotonic() - began_s > LONELY_S:
                warning = self._no_worker_warning()
            self._look_at_jobs()
            self._count()
            self._meter.look("" if is_begun else warning)
            looked_s = time.monotonic()

    def _count(self) -> None:
        self._meter.windows = len(self._open)
        self._meter.texts = sum(len(item.window.pending) for item in self._open)
        self._meter.texts_done = sum(item.texts_done for item in self._open)

    def _look_at_jobs(self) -> None:
        """Read the progress of the open windows, oldest first, up to the first one with no text done."""
        for item in self._open:
            if item.texts_done < len(item.window.pending):
                item.texts_done = self._retry(partial(self._texts_done, item.job_id))
            if not item.texts_done:
                return

    def _texts_done(self, job_id: str) -> int:
        try:
            return self._queue.status(job_id).texts_done
        except ResultExpiredError:  # ``collect`` submits it again
            return 0

    def _no_worker_warning(self) -> str:
        served = self._retry(self._queue.served)
        if served.is_live:
            return ""
        return f"waiting: no worker serves {served.model}; start one with EMBEDMILL_MODEL={served.model}"

    def _check(self, reply: EmbeddingReply) -> None:
        ours, theirs = self._index.fingerprint, reply.fingerprint
        if any(r.reason == Reason.MODEL_CHANGED for r in reply.rejected) or theirs not in ("", ours):
            raise SinkMismatchError(self._sink, f"fingerprint {ours} and now {theirs}", CHANGED)

    def _retry(self, call: Callable[[], T]) -> T:
        """Call a function, again and again while Redis is unavailable, for up to a minute."""
        give_up_s = time.monotonic() + OUTAGE_S
        while True:
            try:
                return call()
            except BrokerUnavailableError as error:
                if time.monotonic() > give_up_s:
                    raise
                self._meter.look(f"waiting for Redis: {error.reason}")
                time.sleep(RETRY_S)
