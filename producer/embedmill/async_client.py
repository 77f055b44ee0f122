"""The asyncio client. Methods and arguments are those of ``client.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self

from embedmill.errors import ClientClosedError
from embedmill.jobs import dead_letters, listing
from embedmill.jobs.coalescer import Coalescer
from embedmill.jobs.coalescing import BatchKey
from embedmill.jobs.dead_letters import Letters
from embedmill.jobs.listing import JobList
from embedmill.jobs.operations import (
    CALL_TIMEOUT_S,
    LAST_MOMENT_S,
    JobOperations,
    PartReader,
    accepted,
    shown,
)
from embedmill.jobs.request import SubmitOptions, check_job_id, check_lane, check_texts
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.keys import Lane
from embedmill.protocol.options import EmbedOptions, InputType
from embedmill.protocol.records import JobStatus
from embedmill.protocol.vectors import DtypeName, Vectors
from embedmill.reply import EmbeddingReply, ReplyPart
from embedmill.settings import DEFAULT_TIMEOUT_S, ClientSettings
from embedmill.transport.aio import AsyncRedisTransport
from embedmill.transport.flow import Flow, T


class AsyncEmbeddingClient:
    """An asyncio client with the methods of ``EmbeddingClient``; it never blocks the event loop.

    >>> async with AsyncEmbeddingClient() as client:
    ...     vectors = await client.embed(["Selamat pagi", "good morning"])
    """

    def __init__(
        self,
        redis_url: str | None = None,
        model: str | None = None,
        *,
        namespace: str | None = None,
        tenant: str | None = None,
        max_queued_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Read the settings as ``EmbeddingClient`` does; the first call connects.

        Raises:
            SettingsError: a setting has a value that cannot work.
        """
        self.settings = ClientSettings.from_env(
            redis_url, model, namespace, tenant=tenant, max_queued_tokens=max_queued_tokens, timeout_s=timeout_s
        )
        #: The flows behind every method, the transport that runs them, and the jobs that small calls share: for
        #: operations without a method here.
        self.operations = JobOperations(self.settings)
        self.transport = AsyncRedisTransport(self.settings)
        self.coalescer = Coalescer(self.operations, self.transport)

    def __repr__(self) -> str:
        return shown(self, self.settings, is_closed=self.transport.is_closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """The dead letters: texts that the workers gave up."""
        return AsyncDeadLetters(self)

    #: Alias of ``dead_letters``, its older name.
    dead = dead_letters

    @property
    def jobs(self) -> AsyncJobs:
        """The jobs that Redis holds, those of other clients included."""
        return AsyncJobs(self)

    async def close(self) -> None:
        """Close the connections of the running event loop. Waiting calls, and all later ones, raise ClientClosedError.

        Calls of ``embed`` in this event loop have ended when this returns.
        """
        self.transport.is_closed = True
        await self.coalescer.close()
        await self.transport.close()

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        input_type: InputType | None = None,
        dimensions: int | None = None,
        dtype: DtypeName = "float32",
        truncate: bool = True,
        lane: Lane = "interactive",
        timeout_s: float | None = None,
        block: bool = False,
    ) -> Vectors:
        """Embed texts and wait for their vectors; see ``EmbeddingClient.embed``.

        Small concurrent calls share jobs (see ``coalescing.py``), but each has its own result or error. Cancelling
        the awaiting task cancels the work, unless other calls share the job.

        Raises:
            ClientClosedError: the client was closed, before the call or during it.
            QueueFullError: the queue has no room, or too many texts already wait in this client.
        """
        options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
        kind = BatchKey(model=model, lane=check_lane(lane), options=options, block=block)
        return accepted(await self.coalescer.embed(texts, kind, self.operations.seconds(timeout_s)))

    async def submit(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        input_type: InputType | None = None,
        dimensions: int | None = None,
        dtype: DtypeName = "float32",
        truncate: bool = True,
        lane: Lane = "bulk",
        tenant: str | None = None,
        job_id: str | None = None,
        ttl_s: float = 86_400,
        deadline_s: float | None = None,
        block: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncJob:
        """Store a job of up to 65,536 texts without waiting for its vectors; see ``EmbeddingClient.submit``."""
        options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
        how = SubmitOptions(
            model=model,
            lane=lane,
            tenant=tenant,
            job_id=job_id,
            ttl_s=ttl_s,
            deadline_s=deadline_s,
            block=block,
        )
        block_s = self.operations.seconds(timeout_s) if block else 0.0
        flow = self.operations.submit(check_texts(texts), options, how, block_s)
        return AsyncJob(self, await self._run(flow, CALL_TIMEOUT_S + block_s))

    def job(self, job_id: str) -> AsyncJob:
        """Return the job with this id; see ``EmbeddingClient.job``."""
        if self.transport.is_closed:
            raise ClientClosedError
        return AsyncJob(self, check_job_id(job_id))

    async def _run(self, flow: Flow[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        return await self.transport.run(flow, timeout_s=timeout_s + LAST_MOMENT_S)


class AsyncJob:
    """A ``Job`` with awaitable methods."""

    def __init__(self, client: AsyncEmbeddingClient, job_id: str) -> None:
        self.id = job_id
        self._client = client
        self._operations = client.operations

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"

    async def status(self) -> JobStatus:
        """Return the job's state and progress; see ``Job.status``."""
        return await self._client._run(self._operations.status(self.id))

    async def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Wait until the job is done and return its status; see ``Job.wait``."""
        timeout_s = self._operations.seconds(timeout_s)
        return await self._client._run(self._operations.wait(self.id, timeout_s), timeout_s)

    async def result(self, timeout_s: float | None = None) -> EmbeddingReply:
        """Wait until the job is done and return all its vectors; see ``Job.result``."""
        timeout_s = self._operations.seconds(timeout_s)
        return await self._client._run(self._operations.result(self.id, timeout_s), timeout_s)

    async def iter_results(self) -> AsyncIterator[ReplyPart]:
        """Yield each chunk's vectors as chunks complete; see ``Job.iter_results``."""
        reader = PartReader(self._operations, self.id)
        while not reader.is_over:
            for part in await self._client._run(reader.next_parts()):
                yield part

    async def cancel(self) -> bool:
        """Cancel the job; see ``Job.cancel``."""
        return await self._client._run(self._operations.cancel(self.id))

    async def delete(self) -> bool:
        """Delete the job and its vectors; see ``Job.delete``."""
        return await self._client._run(self._operations.delete(self.id))


class AsyncDeadLetters:
    """``DeadLetters`` with awaitable methods."""

    def __init__(self, client: AsyncEmbeddingClient) -> None:
        self._client = client

    async def list(self, *, limit: int = 100) -> Letters:
        """Return the newest letters; see ``DeadLetters.list``."""
        return await self._client._run(dead_letters.list_newest(self._client.operations.keys, limit))

    async def get(self, letter_id: str) -> DeadLetter:
        """Return one letter; see ``DeadLetters.get``."""
        return await self._client._run(dead_letters.read(self._client.operations.keys, letter_id))

    async def requeue(self, letter_id: str, text: str | None = None) -> AsyncJob:
        """Submit a letter's text again; see ``DeadLetters.requeue``."""
        return self._client.job(await self._client._run(dead_letters.requeue(self._client.operations, letter_id, text)))

    async def drop(self, letter_id: str) -> bool:
        """Delete a letter; see ``DeadLetters.drop``."""
        return await self._client._run(dead_letters.drop(self._client.operations.keys, letter_id))

    async def drop_all(self) -> int:
        """Delete all letters; see ``DeadLetters.drop_all``."""
        return await self._client._run(dead_letters.drop_all(self._client.operations.keys))


class AsyncJobs:
    """``Jobs`` with an awaitable method."""

    def __init__(self, client: AsyncEmbeddingClient) -> None:
        self._client = client

    async def list(self, *, limit: int = 100, state: str | None = None) -> JobList:
        """Return the newest jobs; see ``Jobs.list``."""
        return await self._client._run(listing.find(self._client.operations.keys, limit, state))
