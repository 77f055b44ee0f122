"""Windows of texts as jobs in the queue: one runs while the next one waits behind it."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self

from embedmill.client import EmbeddingClient, Job
from embedmill.errors import BrokerUnavailableError, EmbedError, QueueFullError, ResultTimeoutError
from embedmill.protocol.records import JobState
from embedmill.reindexing.bulk_queue import FETCH_S, ROOM_S
from embedmill.reindexing.pipeline import LONELY_S
from embedmill.reply import EmbeddingReply
from embedmill.status import read_status
from embedmill_worker.cli.commands.embed_files import Window
from embedmill_worker.cli.terminal import Progress, say

#: Seconds between two requests for a job's status: the first pause, which doubles up to the longest.
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.5

#: Seconds that jobs outlive this process if it is killed.
TTL_S: Final = 600.0

#: Reason for rejecting a line that holds no text.
UNREADABLE_LINE: Final = "unreadable_line"


class Bulk:
    """Jobs of one run. Jobs that are still open on exit are deleted, which stops their work."""

    def __init__(
        self, client: EmbeddingClient, options: Mapping[str, Any], *, timeout_s: float | None, progress: Progress
    ) -> None:
        self._client = client
        self._options = options
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s if timeout_s else float("inf")
        self._progress = progress
        self._done = 0
        self._open: deque[tuple[Window, Job]] = deque()
        self._has_warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # If Redis is down, the jobs expire after TTL_S; trying to delete them would only keep the user waiting.
        while self._open and not isinstance(error, BrokerUnavailableError):
            _, job = self._open.popleft()
            with suppress(EmbedError):
                job.delete()

    def run(self, windows: Iterable[Window]) -> Iterator[tuple[Window, EmbeddingReply]]:
        """Yield each window with its reply, in order."""
        for window in windows:
            while not self._submit(window):  # the open job takes some of the room, so it is fetched and deleted first
                yield self._collect()
            if len(self._open) == 2:
                yield self._collect()
        while self._open:
            yield self._collect()

    def _submit(self, window: Window) -> bool:
        """Submit a window; return False if there is not enough room while another job is open."""
        # The id is chosen here, so that the job can be deleted even if its submission is interrupted.
        job = self._client.job(uuid.uuid4().hex)
        self._open.append((window, job))
        while True:
            left_s = self._deadline_s - time.monotonic()
            try:
                self._client.submit(
                    window.texts,
                    job_id=job.id,
                    ttl_s=TTL_S,
                    block=len(self._open) == 1,
                    timeout_s=max(FIRST_PAUSE_S, min(ROOM_S, left_s)),
                    **self._options,
                )
            except QueueFullError as error:
                if len(self._open) > 1:
                    self._open.pop()
                    return False
                if left_s < ROOM_S:
                    raise
                self._warn(f"waiting until there is room: {error.queue} is full")
            else:
                self._progress.update(self._done)
                return True

    def _collect(self) -> tuple[Window, EmbeddingReply]:
        window, job = self._open[0]
        self._wait(job)
        reply = job.result(FETCH_S)
        job.delete()
        self._open.popleft()
        self._done += len(window.texts)
        self._progress.update(self._done)
        rejected = tuple(
            replace(r, reason=UNREADABLE_LINE, detail=window.problems[r.index]) if r.index in window.problems else r
            for r in reply.rejected
        )
        return window, replace(reply, rejected=rejected)

    def _wait(self, job: Job) -> None:
        began_s = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while not (status := job.status()).state.is_over:
            now_s = time.monotonic()
            if now_s >= self._deadline_s:
                raise ResultTimeoutError(job.id, self._timeout_s or 0.0, "It was cancelled.")
            if status.state is JobState.QUEUED and now_s - began_s > LONELY_S and not self._is_served(status.model):
                self._warn(
                    f"waiting, because no worker serves {status.model}; start one with EMBEDMILL_MODEL={status.model}"
                )
            self._progress.update(self._done + status.texts_done)
            time.sleep(min(pause_s, self._deadline_s - now_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _is_served(self, model: str) -> bool:
        return self._has_warned or read_status(self._client.settings).serves(model)

    def _warn(self, why: str) -> None:
        """Report once why the work waits."""
        if not self._has_warned:
            self._has_warned = True
            say(why)
