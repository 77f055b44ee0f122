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
    """Embeds texts through the queue. Thread-safe, and usable on both sides of a fork.

    >>> with EmbeddingClient() as client:
    ...     vectors = client.embed(["Selamat pagi", "good morning"])
    """

    def __init__(
        self,
        redis_url: str | None = None,
        model: str | None = None,
        *,
        namespace: str | None = None,
        max_queued_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Read settings; connects on first use.

        Args:
            redis_url: None: ``EMBEDMILL_REDIS_URL``, else Redis on this machine.
            model: None: ``EMBEDMILL_MODEL``, else the only model that workers announce.
            namespace: None: ``EMBEDMILL_NAMESPACE``, else ``embedmill``.
            max_queued_tokens: tokens that may wait in a lane before QueueFullError, 0: any number; None:
                ``EMBEDMILL_MAX_QUEUED_TOKENS``, else 100 million.
            timeout_s: seconds for calls that name none.

        Raises:
            SettingsError: a value that cannot work.
        """
        self.settings = ClientSettings.from_env(
            redis_url, model, namespace, max_queued_tokens=max_queued_tokens, timeout_s=timeout_s
        )
        #: Flows of a job's life, and the transport that drives them: for what has no method here.
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

    #: The same, by its older name.
    dead = dead_letters

    @property
    def jobs(self) -> Jobs:
        """The jobs that Redis holds, whoever submitted them."""
        return Jobs(self)

    def close(self) -> None:
        """Close the connections; from then on, and while one waits, every call raises ClientClosedError."""
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
            texts: any number of them; nothing is sent unless all are str.
            model: name; None: the client's.
            input_type: ``query`` or ``passage``, for models that want a prefix.
            dimensions: components to keep, renormalised; None: all.
            dtype: float32, float16, int8 or binary.
            truncate: False rejects texts longer than the model reads.
            lane: ``interactive`` or ``bulk``.
            timeout_s: seconds for all of it, then the work is cancelled; None: the client's, 60 if nobody says.
            block: wait for room when the queue is full, instead of QueueFullError at once.

        Returns:
            (n, dimension), row i for ``texts[i]``.

        Raises:
            ClientClosedError: the client was closed, before or meanwhile.
            RequestError: before anything was sent.
            TextsRejectedError: some texts have no vector; the others' are in ``error.reply``.
            ResultTimeoutError: not done in time.
            QueueFullError: there is no room for more work, and none came in time if ``block``.
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
        job_id: str | None = None,
        ttl_s: float = 86_400,
        deadline_s: float | None = None,
        block: bool = False,
        timeout_s: float | None = None,
    ) -> Job:
        """Store a job of up to 65,536 texts and return at once.

        Args:
            texts: see ``embed``, as are all arguments not named here.
            model: see ``embed``.
            input_type: see ``embed``.
            dimensions: see ``embed``.
            dtype: see ``embed``.
            truncate: see ``embed``.
            lane: see ``embed``.
            job_id: your own id; submitting the same id and content again changes nothing. None: a new one.
            ttl_s: seconds that the reply lives, counted from completion.
            deadline_s: seconds after which chunks that nobody has begun are dropped; None: never.
            block: wait up to ``timeout_s`` for room when the queue is full, instead of QueueFullError at once.
            timeout_s: see ``block``.

        Raises:
            RequestError: before anything was sent.
            JobConflictError: the id is taken by other content.
            QueueFullError: there is no room for more work; nothing was submitted.
            BrokerUnavailableError: Redis did not answer in time.
        """
        options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
        how = SubmitOptions(model=model, lane=lane, job_id=job_id, ttl_s=ttl_s, deadline_s=deadline_s, block=block)
        block_s = self.operations.seconds(timeout_s) if block else 0.0
        flow = self.operations.submit(check_texts(texts), options, how, block_s)
        return Job(self, self._run(flow, CALL_TIMEOUT_S + block_s))

    def job(self, job_id: str) -> Job:
        """Return the job of this id, submitted by any process; nothing is read until a method is called."""
        if self.transport.is_closed:
            raise ClientClosedError
        return Job(self, check_job_id(job_id))

    def _run(self, flow: Flow[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        return self.transport.run(flow, timeout_s=timeout_s + LAST_MOMENT_S)


class Job:
    """A job in Redis, seen by its id. Methods may be called from any thread and any process."""

    def __init__(self, client: EmbeddingClient, job_id: str) -> None:
        self.id = job_id
        self._client = client
        self._operations = client.operations

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Return how far the job is.

        Raises:
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(self._operations.status(self.id))

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Wait until the job is over.

        Raises:
            ResultTimeoutError: it is not after ``timeout_s``.
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer in time.
        """
        timeout_s = self._operations.seconds(timeout_s)
        return self._client._run(self._operations.wait(self.id, timeout_s), timeout_s)

    def result(self, timeout_s: float | None = None) -> EmbeddingReply:
        """Wait until the job is over and give all its vectors; they stay in Redis until ``ttl_s`` or ``delete``.

        Raises:
            ResultTimeoutError: not over after ``timeout_s``.
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer in time.
        """
        timeout_s = self._operations.seconds(timeout_s)
        return self._client._run(self._operations.result(self.id, timeout_s), timeout_s)

    def iter_results(self) -> Iterator[ReplyPart]:
        """Return the chunks' vectors as they complete, each once, holding only a few in memory.

        Raises:
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer for half a minute.
        """
        reader = PartReader(self._operations, self.id)
        while not reader.is_over:
            yield from self._client._run(reader.next_parts())

    def cancel(self) -> bool:
        """Stop the job; waiters get JobCancelledError. Returns whether it is cancelled: a finished one stays so."""
        return self._client._run(self._operations.cancel(self.id))

    def delete(self) -> bool:
        """Forget the job and its vectors. Returns whether there was one."""
        return self._client._run(self._operations.delete(self.id))


class DeadLetters:
    """The dead letters of one client's namespace."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100) -> Letters:
        """Return the newest letters, the newest first; one that cannot be read has the reason ``unreadable``.

        Raises:
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(dead_letters.list_newest(self._client.operations.keys, limit))

    def get(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            UnknownLetterError: there is none of this id.
            MessageError: it cannot be read.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(dead_letters.read(self._client.operations.keys, letter_id))

    def requeue(self, letter_id: str, text: str | None = None) -> Job:
        """Submit the text again as a job of its own, with the options it had, and drop the letter.

        Args:
            letter_id: whose.
            text: the text, if it was not kept; it must be the same.

        Raises:
            InvalidRequestError: the text was not kept and not given, or is another one.
            UnknownLetterError: there is no letter of this id.
            MessageError: it cannot be read.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client.job(self._client._run(dead_letters.requeue(self._client.operations, letter_id, text)))

    def drop(self, letter_id: str) -> bool:
        """Forget a letter. Returns whether there was one."""
        return self._client._run(dead_letters.drop(self._client.operations.keys, letter_id))

    def drop_all(self) -> int:
        """Forget all letters; returns their number."""
        return self._client._run(dead_letters.drop_all(self._client.operations.keys))


class Jobs:
    """The jobs of one client's namespace, whoever submitted them."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100, state: str | None = None) -> JobList:
        """Return the newest jobs that Redis still holds; ``client.job(id)`` is one of them.

        Args:
            limit: jobs at most.
            state: ``queued``, ``running``, ``done`` or ``cancelled``; None: any.

        Raises:
            InvalidRequestError: no such state, or no such limit.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(listing.find(self._client.operations.keys, limit, state))
