"""Windows under work: submitted in order, collected in order, found again after a crash."""

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

#: Seconds between two looks at how far a job is.
LOOK_S: Final = 0.5

#: Seconds between two tries to reach Redis.
RETRY_S: Final = 0.5

#: Seconds that a Redis which does not answer is tried again; after that the run ends, to be gone on with.
OUTAGE_S: Final = 60.0

#: Seconds after which a job that nobody has begun is worth a look at the workers.
LONELY_S: Final = 3.0

#: Characters of metadata held for windows under work, beyond which no third one is begun.
OPEN_CARRIED: Final = 32_000_000

#: How often a window is submitted again that Redis has lost.
MAX_RESUBMISSIONS: Final = 20

#: The way out when the model has changed under a run.
CHANGED: Final = "Go on with workers of the model that began it, or rebuild with the new one (rebuild)."


@dataclass(slots=True)
class _Open:
    window: Window
    job_id: str
    losses: int = 0
    #: Texts of it that were done when it was last looked at.
    texts_done: int = 0


class Pipeline:
    """The open windows of one run."""

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
        """Read what an earlier run has left.

        Args:
            queue: where windows go.
            ledger: where the ids of their jobs are noted.
            index: what their vectors must be of.
            meter: told how much is under work, and while waiting why nothing moves; it may raise Stopped.
            sink: its name.
            dimensions: components to keep; None: all.
        """
        self._queue = queue
        self._ledger = ledger
        self._index = index
        self._meter = meter
        self._sink = sink
        self._dimensions = dimensions
        self._open: deque[_Open] = deque()
        self._left_over = ledger.jobs()
        #: Windows to be submitted before what is left over then is nobody's.
        self._expected = len(self._left_over)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def oldest_job(self) -> str:
        """Id of the oldest window's job."""
        return self._open[0].job_id

    def wants_more(self) -> bool:
        """Return whether another window should be submitted before the oldest one is collected."""
        if len(self._open) > 1 and sum(item.window.carried for item in self._open) > OPEN_CARRIED:
            return False
        return self._insist(self._queue.backlog).wants_more(len(self._open))

    def submit(self, window: Window) -> bool:
        """Store a window's job. False: there is no room, and collecting the open windows makes some."""
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
        """Delete the jobs of an earlier run that this one has not gone on with."""
        while self._left_over:
            job_id = self._left_over.pop()
            self._insist(partial(self._queue.delete, job_id))
            self._ledger.drop_job(job_id)

    def collect(self) -> tuple[Window, EmbeddingReply]:
        """Wait for the oldest window, and return it with its vectors. It stays open until ``close``.

        Raises:
            SinkMismatchError: its vectors are of another model by now.
            JobCancelledError: somebody cancelled it; the next run embeds it.
            BrokerUnavailableError: Redis was away for a minute.
        """
        item = self._open[0]
        while True:
            try:
                self._wait(item)
                reply = self._insist(partial(self._queue.reply, item.job_id))
                self._check(reply)
                return item.window, reply
            except ResultExpiredError:  # Redis lost it; its texts are still here
                item.losses += 1
                item.texts_done = 0
                self._count()
                if item.losses > MAX_RESUBMISSIONS:
                    raise
                self._store(item, waits=True)

    def close(self) -> None:
        """Forget the oldest window, which is committed."""
        item = self._open.popleft()
        self._count()
        self._insist(partial(self._queue.delete, item.job_id))

    def leave(self) -> None:
        """Leave the windows that workers have begun to the next run, which finds them done; stop the others."""
        with suppress(BrokerUnavailableError):  # then the next run finds them all
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
                self._insist(store)
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
            events = self._insist(partial(self._queue.news, item.job_id, cursor))
            if events.over is JobState.CANCELLED:
                self._insist(partial(self._queue.delete, item.job_id))  # or the next run would find it cancelled again
                raise JobCancelledError(item.job_id)
            if events.over is not None:
                return
            is_begun = cursor != "0-0" or bool(events.chunks)
            cursor = events.cursor
            if time.monotonic() - looked_s < LOOK_S:
                continue
            if not is_begun and not warning and time.monotonic() - began_s > LONELY_S:
                warning = self._loneliness()
            self._look_at_jobs()
            self._count()
            self._meter.look("" if is_begun else warning)
            looked_s = time.monotonic()

    def _count(self) -> None:
        self._meter.windows = len(self._open)
        self._meter.texts = sum(len(item.window.pending) for item in self._open)
        self._meter.texts_done = sum(item.texts_done for item in self._open)

    def _look_at_jobs(self) -> None:
        """Read how far the open windows are, from the oldest one on to the first of which nothing is done."""
        for item in self._open:
            if item.texts_done < len(item.window.pending):
                item.texts_done = self._insist(partial(self._texts_done, item.job_id))
            if not item.texts_done:
                return

    def _texts_done(self, job_id: str) -> int:
        try:
            return self._queue.status(job_id).texts_done
        except ResultExpiredError:  # it is submitted again when it is collected
            return 0

    def _loneliness(self) -> str:
        served = self._insist(self._queue.served)
        if served.is_live:
            return ""
        return f"waiting: no worker serves {served.model}; start one with EMBEDMILL_MODEL={served.model}"

    def _check(self, reply: EmbeddingReply) -> None:
        ours, theirs = self._index.fingerprint, reply.fingerprint
        if any(r.reason == Reason.MODEL_CHANGED for r in reply.rejected) or theirs not in ("", ours):
            raise SinkMismatchError(self._sink, f"fingerprint {ours} and now {theirs}", CHANGED)

    def _insist(self, call: Callable[[], T]) -> T:
        """Call, and call again while Redis is away."""
        give_up_s = time.monotonic() + OUTAGE_S
        while True:
            try:
                return call()
            except BrokerUnavailableError as error:
                if time.monotonic() > give_up_s:
                    raise
                self._meter.look(f"waiting for Redis: {error.reason}")
                time.sleep(RETRY_S)
