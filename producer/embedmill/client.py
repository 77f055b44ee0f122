"""The blocking client: ``JobOperations`` driven over a ``RedisTransport``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from embedmill.errors import ClientClosedError
from embedmill.jobs import dead_letters, listing
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
from embedmill.jobs.request import SubmitOptions, check_job_id, check_texts
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.keys import Lane
from embedmill.protocol.options import EmbedOptions, InputType
from embedmill.protocol.records import JobStatus
from embedmill.protocol.vectors import DtypeName, Vectors
from embedmill.reply import EmbeddingReply, ReplyPart
from embedmill.settings import DEFAULT_TIMEOUT_S, ClientSettings
from embedmill.transport.flow import Flow, T
from embedmill.transport.sync import RedisTransport


class EmbeddingClient:
    """A blocking client that embeds texts through the queue.

    Threads may share it, and both sides of a fork may use it.

    >>> with EmbeddingClient() as client:
    ...     vectors = client.embed(["Selamat pagi", "good morning"])
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
        """Read the settings; the first call connects.

        Args:
            redis_url: where Redis is; None: ``EMBEDMILL_REDIS_URL``, else the Redis of a running ``embedmill up``, else
                ``redis://127.0.0.1:6379/0``.
            model: the model for calls that name none; None: ``EMBEDMILL_MODEL``, else the only model that workers
                announce.
            namespace: prefix of every key and queue; None: ``EMBEDMILL_NAMESPACE``, else ``embedmill``.
            tenant: who the work is for: workers take turns between tenants that have work; None:
                ``EMBEDMILL_TENANT``, else nobody in particular.
            max_queued_tokens: tokens of one tenant that may wait in a lane before QueueFullError, 0: no limit; None:
                ``EMBEDMILL_MAX_QUEUED_TOKENS``, else 100 million.
            timeout_s: timeout in seconds for calls that pass none.

        Raises:
            SettingsError: a setting has a value that cannot work.
        """
        self.settings = ClientSettings.from_env(
            redis_url, model, namespace, tenant=tenant, max_queued_tokens=max_queued_tokens, timeout_s=timeout_s
        )
        #: The flows behind every method and the transport that runs them, for operations without a method here.
        self.operations = JobOperations(self.settings)
        self.transport = RedisTransport(self.settings)

    def __repr__(self) -> str:
        return shown(self, self.settings, is_closed=self.transport.is_closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: texts that the workers gave up."""
        return DeadLetters(self)

    #: Alias of ``dead_letters``, its older name.
    dead = dead_letters

    @property
    def jobs(self) -> Jobs:
        """The jobs that Redis holds, those of other clients included."""
        return Jobs(self)

    def close(self) -> None:
        """Close the connections. Calls that are waiting, and all later ones, raise ClientClosedError."""
        self.transport.close()

    def embed(
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
        """Embed texts and wait for their vectors.

        Args:
            texts: any number of str. If one is not a str, nothing is sent.
            model: the model's name; None: the client's model.
            input_type: ``query`` or ``passage``, for models that expect a prefix.
            dimensions: components of each vector to keep; rows are scaled to length 1 again. None: all.
            dtype: ``float32``, ``float16``, ``int8`` or ``binary``.
            truncate: True cuts texts that are longer than the model reads, False rejects them.
            lane: ``interactive`` or ``bulk``; workers serve ``interactive`` first.
            timeout_s: seconds for the whole call, after which the work is cancelled; None: the client's timeout.
            block: whether to wait for room when the queue is full. False: raise QueueFullError at once.

        Returns:
            The vectors, (n, dimension); row i belongs to ``texts[i]``. ``binary`` packs 8 components into a uint8.

        Raises:
            ClientClosedError: the client was closed, before the call or during it.
            RequestError: the texts or options cannot be served; nothing was sent.
            TextsRejectedError: some texts have no vector; the vectors of the others are in ``error.reply``.
            ResultTimeoutError: the vectors were not complete after ``timeout_s``.
            QueueFullError: the queue has no room, or with ``block`` had none until the timeout.
            BrokerUnavailableError: Redis did not answer in time.
        """
        options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
        timeout_s = self.operations.seconds(timeout_s)
        how = SubmitOptions(model=model, lane=lane, block=block)
        return accepted(self._run(self.operations.embed(check_texts(texts), options, how, timeout_s), timeout_s))

    def submit(
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
    ) -> Job:
        """Store a job of up to 65,536 texts and return without waiting for its vectors.

        Args:
            texts: see ``embed``.
            model: see ``embed``.
            input_type: see ``embed``.
            dimensions: see ``embed``.
            dtype: see ``embed``.
            truncate: see ``embed``.
            lane: see ``embed``.
            tenant: who the job is for; None: the client's tenant.
            job_id: an id of your own; submitting the same content again under it changes nothing. None: a new id.
            ttl_s: seconds that Redis keeps the vectors once the job is done.
            deadline_s: seconds after which chunks that no worker has begun are rejected; None: never.
            block: whether to wait up to ``timeout_s`` for room when the queue is full. False: raise QueueFullError at
                once.
            timeout_s: seconds to wait for room, if ``block``; None: the client's timeout.

        Returns:
            The job, to wait for, read, cancel or delete.

        Raises:
            ClientClosedError: the client was closed, before the call or during it.
            RequestError: the texts or options cannot be served; nothing was sent.
            JobConflictError: a job with this id has other texts or options.
            QueueFullError: the queue has no room; nothing was submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
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
        return Job(self, self._run(flow, CALL_TIMEOUT_S + block_s))

    def job(self, job_id: str) -> Job:
        """Return the job with this id, whichever process submitted it. Redis is not read until a method is called.

        Raises:
            ClientClosedError: the client was closed.
            InvalidRequestError: no job can have this id.
        """
        if self.transport.is_closed:
            raise ClientClosedError
        return Job(self, check_job_id(job_id))

    def _run(self, flow: Flow[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        return self.transport.run(flow, timeout_s=timeout_s + LAST_MOMENT_S)


class Job:
    """A job in Redis, addressed by its id. Any thread and any process may call its methods."""

    def __init__(self, client: EmbeddingClient, job_id: str) -> None:
        self.id = job_id
        self._client = client
        self._operations = client.operations

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Return the job's state and progress.

        Raises:
            ResultExpiredError: the job expired, was deleted or was never submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(self._operations.status(self.id))

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Wait until the job is done and return its status.

        Args:
            timeout_s: seconds to wait; None: the client's timeout.

        Raises:
            ResultTimeoutError: the job was not done after ``timeout_s``; it goes on.
            JobCancelledError: somebody cancelled the job.
            ResultExpiredError: the job expired, was deleted or was never submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        timeout_s = self._operations.seconds(timeout_s)
        return self._client._run(self._operations.wait(self.id, timeout_s), timeout_s)

    def result(self, timeout_s: float | None = None) -> EmbeddingReply:
        """Wait until the job is done and return all its vectors; Redis keeps them until ``ttl_s`` or ``delete``.

        Args:
            timeout_s: seconds to wait; None: the client's timeout.

        Raises:
            ResultTimeoutError: the job was not done after ``timeout_s``; it goes on.
            JobCancelledError: somebody cancelled the job.
            ResultExpiredError: the job expired, was deleted or was never submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        timeout_s = self._operations.seconds(timeout_s)
        return self._client._run(self._operations.result(self.id, timeout_s), timeout_s)

    def iter_results(self) -> Iterator[ReplyPart]:
        """Yield each chunk's vectors once, as chunks complete; only a few chunks are in memory at a time.

        Raises:
            JobCancelledError: somebody cancelled the job.
            ResultExpiredError: the job expired, was deleted or was never submitted.
            BrokerUnavailableError: Redis did not answer for 30 seconds.
        """
        reader = PartReader(self._operations, self.id)
        while not reader.is_over:
            yield from self._client._run(reader.next_parts())

    def cancel(self) -> bool:
        """Cancel the job and return whether it is cancelled. A job that is done stays done.

        Calls that wait for the job raise JobCancelledError.

        Raises:
            ResultExpiredError: the job expired, was deleted or was never submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(self._operations.cancel(self.id))

    def delete(self) -> bool:
        """Delete the job and its vectors from Redis and return whether it was there.

        Raises:
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(self._operations.delete(self.id))


class DeadLetters:
    """The dead letters in a client's namespace."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100) -> Letters:
        """Return up to ``limit`` letters, the newest first. A letter that cannot be read has the reason ``unreadable``.

        Raises:
            InvalidRequestError: ``limit`` is not an int from 1 to 10,000.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(dead_letters.list_newest(self._client.operations.keys, limit))

    def get(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            InvalidRequestError: no letter can have this id.
            UnknownLetterError: no letter has this id.
            MessageError: the letter cannot be read.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(dead_letters.read(self._client.operations.keys, letter_id))

    def requeue(self, letter_id: str, text: str | None = None) -> Job:
        """Submit a letter's text again as a job of its own, with its former options, and drop the letter.

        Args:
            letter_id: the letter's id.
            text: the text that failed, if the letter does not hold it; its hash must match the letter's.

        Returns:
            The new job.

        Raises:
            InvalidRequestError: the text is neither in the letter nor passed, or does not match its hash.
            UnknownLetterError: no letter has this id.
            MessageError: the letter cannot be read.
            QueueFullError: the queue has no room; nothing was submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client.job(self._client._run(dead_letters.requeue(self._client.operations, letter_id, text)))

    def drop(self, letter_id: str) -> bool:
        """Delete a letter and return whether it was there."""
        return self._client._run(dead_letters.drop(self._client.operations.keys, letter_id))

    def drop_all(self) -> int:
        """Delete all letters and return their number."""
        return self._client._run(dead_letters.drop_all(self._client.operations.keys))


class Jobs:
    """The jobs in a client's namespace, those of other clients included."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100, state: str | None = None) -> JobList:
        """Return the status of the newest jobs that Redis still holds; ``client.job(id)`` gives access to one of them.

        Args:
            limit: most jobs to return.
            state: ``queued``, ``running``, ``done`` or ``cancelled``; None: any state.

        Raises:
            InvalidRequestError: ``state`` is not one of these, or ``limit`` is not an int from 1 to 50,000.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(listing.find(self._client.operations.keys, limit, state))
