"""Windows of texts through the queue: one under work, the next one queued behind it."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self

from embedmill import EmbeddingClient, EmbeddingReply, EmbedError, Job, ResultTimeoutError
from embedmill_worker.cli.inputs import Window
from embedmill_worker.cli.terminal import Progress, say

#: Seconds between two looks at a job.
LOOK_S: Final = 0.5

#: Seconds for reading the vectors of a window that is done.
FETCH_S: Final = 120.0

#: Seconds that a reply outlives this process, should it be killed.
TTL_S: Final = 600.0

#: Reason of a line that holds no text.
UNREADABLE_LINE: Final = "unreadable_line"


class Bulk:
    """Jobs of one run; those that are open when it is left are deleted, which stops their work."""

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

    def __exit__(self, *error: object) -> None:
        while self._open:
            _, job = self._open.popleft()
            with suppress(EmbedError):
                job.delete()

    def run(self, windows: Iterable[Window]) -> Iterator[tuple[Window, EmbeddingReply]]:
        """Give the windows' replies in order."""
        for window in windows:
            self._submit(window)
            if len(self._open) == 2:
                yield self._collect()
        while self._open:
            yield self._collect()

    def _submit(self, window: Window) -> None:
        # Named here, so that an interrupt while it is being stored leaves nothing behind either.
        job = self._client.job(uuid.uuid4().hex)
        self._open.append((window, job))
        self._client.submit(window.texts, job_id=job.id, ttl_s=TTL_S, **self._options)
        self._progress.update(self._done)

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
        while True:
            left_s = self._deadline_s - time.monotonic()
            try:
                job.wait(max(0.001, min(LOOK_S, left_s)))
                return
            except ResultTimeoutError as error:
                if left_s <= LOOK_S:
                    raise ResultTimeoutError(
                        job.id, self._timeout_s or 0.0, f"{error.hint} It was cancelled."
                    ) from None
                self._warn(error)
            self._progress.update(self._done + job.status().texts_done)

    def _warn(self, error: ResultTimeoutError) -> None:
        """Say once that nobody works."""
        if not self._has_warned and error.hint.startswith("No worker"):
            say(f"waiting: {error.hint}")
            self._has_warned = True
