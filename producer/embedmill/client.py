"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from embedmill import assembly, flows
from embedmill.assembly import Assembly
from embedmill.errors import (
    BrokerUnavailableError,
    JobCancelledError,
    ResultTimeoutError,
    TextsRejectedError,
)
from embedmill.flows import Flow, JobRecord, JobState, JobStatus
from embedmill.keys import Keyspace
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.link import OUTAGE_S, WAITING_OUTAGE_S, Link, T
from embedmill.outlook import Outlook
from embedmill.protocol import EmbedOptions
from embedmill.reply import EmbeddingReply, ReplyPart
from embedmill.request import JobRequest, check_job_id, check_seconds, check_texts, prepare
from embedmill.settings import ClientSettings
from embedmill.vectors import Dtype, Vectors

#: Seconds for calls that take no timeout: they read or write Redis and wait for no worker.
CALL_TIMEOUT_S: Final = 30.0


class EmbeddingClient:
    """Embeds texts through the queue. Thread-safe, and usable on both sides of a fork.

    >>> with EmbeddingClient() as client:
    ...     vectors = client.embed(["Selamat pagi", "good morning"])
    """

    def __init__(self, redis_url: str | None = None, model: str | None = None, *, namespace: str | None = None) -> None:
        """Read settings; connects on first use.

        Args:
            redis_url: None: ``EMBEDMILL_REDIS_URL``, else Redis on this machine.
            model: None: ``EMBEDMILL_MODEL``, else the only model that workers announce.
            namespace: None: ``EMBEDMILL_NAMESPACE``, else ``embedmill``.

        Raises:
            SettingsError: a value that cannot work.
        """
        settings = ClientSettings.from_env(redis_url, model)
        if namespace is not None:
            settings = ClientSettings(redis_url=settings.redis_url, model=settings.model, namespace=namespace)
        self.settings = settings
        self._keys = Keyspace(settings.namespace)
        self._link = Link(settings)
        self._outlook = Outlook(settings.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client may be used again."""
        self._link.close()

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        dtype: str = "float32",
        truncate: bool = True,
        lane: str = "interactive",
        timeout_s: float = 60.0,
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
            timeout_s: seconds for all of it; then the work is cancelled.

        Returns:
            (n, dimension), row i for ``texts[i]``.

        Raises:
            RequestError: before anything was sent.
            TextsRejectedError: some texts have no vector; the others' are in ``error.reply``.
            ResultTimeoutError: not done in time.
            BrokerUnavailableError: Redis did not answer in time.
        """
        deadline_s = time.monotonic() + check_seconds("timeout_s", timeout_s)
        options = EmbedOptions(
            input_type=input_type, dimensions=dimensions, dtype=Dtype.parse(dtype), truncate=truncate
        )
        values = check_texts(texts)
        starts = range(0, max(len(values), 1), MAX_JOB_TEXTS)
        replies: list[EmbeddingReply] = []
        jobs: list[Job] = []
        try:
            for start in starts:
                window = values[start : start + MAX_JOB_TEXTS]
                jobs.append(self._submit(window, options, model, lane, deadline_s=deadline_s))
                if len(jobs) == 2:  # one window under work, the next one queued behind it
                    replies.append(self._collect(jobs.pop(0), deadline_s, timeout_s))
            while jobs:
                replies.append(self._collect(jobs.pop(0), deadline_s, timeout_s))
        finally:
            for job in jobs:
                job.discard()
        reply = assembly.concatenate(replies, starts)
        if reply.rejected:
            raise TextsRejectedError(reply)
        return reply.vectors

    def submit(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        input_type: str | None = None,
        dimensions: int | None = None,
        dtype: str = "float32",
        truncate: bool = True,
        lane: str = "bulk",
        job_id: str | None = None,
        ttl_s: float = 86_400,
        deadline_s: float | None = None,
    ) -> Job:
        """Store a job of up to 65,536 texts and return at once.

        Args:
            texts: see ``embed``.
            model: see ``embed``.
            input_type: see ``embed``.
            dimensions: see ``embed``.
            dtype: see ``embed``.
            truncate: see ``embed``.
            lane: see ``embed``.
            job_id: your own id; submitting the same id and content again changes nothing. None: a new one.
            ttl_s: seconds that the reply lives, counted from completion.
            deadline_s: seconds after which chunks that nobody has begun are dropped; None: never.

        Raises:
            RequestError: before anything was sent.
            JobConflictError: the id is taken by other content.
            BrokerUnavailableError: Redis did not answer in time.
        """
        options = EmbedOptions(
            input_type=input_type, dimensions=dimensions, dtype=Dtype.parse(dtype), truncate=truncate
        )
        return self._submit(texts, options, model, lane, job_id=job_id, ttl_s=ttl_s, work_deadline_s=deadline_s)

    def job(self, job_id: str) -> Job:
        """Give the job of this id, submitted by any process; nothing is read until a method is called."""
        return Job(self, check_job_id(job_id))

    def _submit(
        self,
        texts: Sequence[str],
        options: EmbedOptions,
        model: str | None,
        lane: str,
        *,
        job_id: str | None = None,
        ttl_s: float = 3_600,
        work_deadline_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Job:
        left_s = CALL_TIMEOUT_S if deadline_s is None else deadline_s - time.monotonic()
        end_s = time.monotonic() + left_s
        if self._outlook.is_stale():
            self._outlook.update(self._run(flows.look_around(self._keys), left_s))
        name, card, children = self._outlook.choose(model)
        request = prepare(
            texts,
            options,
            model=name,
            card=card,
            children=children,
            lane=lane,
            ttl_s=ttl_s,
            deadline_s=work_deadline_s,
            job_id=job_id,
        )
        self._run(flows.submit(self._keys, request), end_s - time.monotonic())
        return Job(self, request.job_id, request)

    def _collect(self, job: Job, deadline_s: float, timeout_s: float) -> EmbeddingReply:
        """Wait for a job of ``embed`` and forget it, whatever comes."""
        try:
            reply = job.result(max(deadline_s - time.monotonic(), 0.001))
        except ResultTimeoutError as error:
            raise ResultTimeoutError(error.job_id, timeout_s, f"{error.hint} It was cancelled.".strip()) from None
        finally:
            job.discard()
        return reply

    def _run(self, flow: Flow[T], timeout_s: float = CALL_TIMEOUT_S, outage_s: float = OUTAGE_S) -> T:
        return self._link.run(flow, timeout_s=max(timeout_s, 0.001), outage_s=outage_s)


class Job:
    """A job in Redis, seen by its id. Methods may be called from any thread and any process."""

    def __init__(self, client: EmbeddingClient, job_id: str, request: JobRequest | None = None) -> None:
        self.id = job_id
        self._client = client
        self._keys = client._keys
        self._record: JobRecord | None = None
        self._model = request.model if request else None

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Say how far the job is.

        Raises:
            ResultExpiredError: there is no such job.
        """
        return self._read(CALL_TIMEOUT_S).status

    def wait(self, timeout_s: float) -> JobStatus:
        """Wait until the job is over.

        Raises:
            ResultTimeoutError: it is not after ``timeout_s``.
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer in time.
        """
        for _ in self._chunks(time.monotonic() + check_seconds("timeout_s", timeout_s), timeout_s):
            pass
        return self._read(CALL_TIMEOUT_S).status

    def result(self, timeout_s: float) -> EmbeddingReply:
        """Wait until the job is over and give all its vectors; they stay in Redis until ``ttl_s`` or ``delete``.

        Raises:
            ResultTimeoutError: not over after ``timeout_s``.
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer in time.
        """
        deadline_s = time.monotonic() + check_seconds("timeout_s", timeout_s)
        record = self._read(timeout_s)
        filled = Assembly(
            n_texts=record.status.n_texts,
            options=record.options,
            rejected=record.rejected,
            dimension=self._client._outlook.dimension(record.status.model),
        )
        for chunks in self._chunks(deadline_s, timeout_s):
            for reply in self._client._run(flows.fetch(self._keys, self.id, chunks), deadline_s - time.monotonic()):
                filled.add(reply)
        return filled.reply(record.status.model)

    def iter_results(self) -> Iterator[ReplyPart]:
        """Give the chunks' vectors as they complete, each once, holding only a few in memory.

        Raises:
            JobCancelledError: somebody cancelled it.
            ResultExpiredError: there is no such job.
            BrokerUnavailableError: Redis did not answer for half a minute.
        """
        record = self._read(CALL_TIMEOUT_S)
        if record.rejected:
            yield assembly.rejected_part(
                record.options, record.rejected, self._client._outlook.dimension(record.status.model)
            )
        for chunks in self._chunks(float("inf"), float("inf")):
            for reply in self._client._run(flows.fetch(self._keys, self.id, chunks), CALL_TIMEOUT_S, WAITING_OUTAGE_S):
                yield assembly.to_part(reply)

    def cancel(self) -> bool:
        """Stop the job; waiters get JobCancelledError. Gives whether it was stopped by this or an earlier call."""
        self._client._run(flows.end(self._keys, self.id, "cancel"))
        return self.status().state is JobState.CANCELLED

    def delete(self) -> bool:
        """Forget the job and its vectors. Gives whether there was one."""
        return self._client._run(flows.end(self._keys, self.id, "delete"))

    def discard(self) -> None:
        """Delete the job if Redis can be reached; else its ``ttl_s`` does."""
        try:
            self._client._run(flows.end(self._keys, self.id, "delete"), 1.0, 0.0)
        except BrokerUnavailableError:
            return

    def _read(self, timeout_s: float) -> JobRecord:
        return self._client._run(flows.read_record(self._keys, self.id), timeout_s)

    def _chunks(self, deadline_s: float, timeout_s: float) -> Iterator[Sequence[int]]:
        """Give the numbers of finished chunks, a few at a time, until the job is over."""
        cursor = "0-0"
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                hint = self._client._outlook.hint(self._read(OUTAGE_S).status)
                raise ResultTimeoutError(self.id, timeout_s, hint)
            flow = flows.read_events(self._keys, self.id, cursor, min(flows.BLOCK_S, left_s))
            # A frozen Redis must not outlast the caller's timeout; a reply due at the deadline still gets through.
            events = self._client._run(flow, min(left_s + 0.05, CALL_TIMEOUT_S), WAITING_OUTAGE_S)
            cursor = events.cursor
            for start in range(0, len(events.chunks), flows.FETCH_CHUNKS):
                yield events.chunks[start : start + flows.FETCH_CHUNKS]
            if events.over is JobState.CANCELLED:
                raise JobCancelledError(self.id)
            if events.over is JobState.DONE:
                return
