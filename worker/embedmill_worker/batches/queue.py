"""Windows as jobs of the bulk lane, whose ids are the same after a crash."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from embedmill.async_client import AsyncEmbeddingClient
from embedmill.errors import EmbedError, JobConflictError
from embedmill.protocol.records import JobState
from embedmill.reply import EmbeddingReply
from embedmill_worker.batches.windows import Window
from embedmill_worker.gateway.refusals import Kind, RefusedError

#: Seconds that a job and its vectors stay in Redis: a run that goes on within a day finds them.
TTL_S: Final = 86_400.0

#: Seconds of reading the vectors of a job that is done.
FETCH_S: Final = 120.0


class WindowQueue:
    """The jobs of one batch."""

    def __init__(self, client: AsyncEmbeddingClient, batch_id: str, model: str, tenant: str | None = None) -> None:
        self._client = client
        self._batch_id = batch_id
        self._model = model
        self._tenant = tenant

    def _job_id(self, window: Window) -> str:
        return f"{self._batch_id}-{window.name}"

    async def submit(self, window: Window) -> None:
        """Submit a window; if its job exists, do nothing.

        Raises:
            QueueError: the queue is full or does not answer.
            RequestError: the queue does not take it, JobTooLargeError if because of its size.
        """
        try:
            await self._submit(window)
        except JobConflictError:  # other texts under this name: of a file that was replaced
            await self._client.job(self._job_id(window)).delete()
            await self._submit(window)

    async def _submit(self, window: Window) -> None:
        options = window.options
        await self._client.submit(
            window.texts,
            model=self._model,
            input_type=options.input_type,
            dimensions=options.dimensions,
            truncate=options.truncate,
            lane="bulk",
            tenant=self._tenant,
            job_id=self._job_id(window),
            ttl_s=TTL_S,
        )

    async def poll(self, window: Window) -> EmbeddingReply | RefusedError | None:
        """Return the reply if it is there, or why there will be none.

        Raises:
            ResultExpiredError: the queue does not have the job.
            QueueError: it does not answer.
        """
        job = self._client.job(self._job_id(window))
        status = await job.status()
        if not status.state.is_over:
            return None
        if status.state is JobState.CANCELLED:
            return RefusedError(Kind.UNAVAILABLE, "The job of this request was cancelled in the queue")
        return await job.result(FETCH_S)

    async def discard(self, window: Window) -> None:
        """Delete the job if the queue answers; else it expires."""
        with suppress(EmbedError):
            await self._client.job(self._job_id(window)).delete()
