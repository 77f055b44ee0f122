"""The client's operations as flows, which both the blocking and the asyncio client run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from embedmill.errors import (
    JobCancelledError,
    JobTooLargeError,
    QueueError,
    ResultExpiredError,
    ResultTimeoutError,
    TextsRejectedError,
)
from embedmill.jobs import assembly, discovery, reading, submission
from embedmill.jobs.assembly import Assembly, Intake
from embedmill.jobs.chunking import split_into_jobs
from embedmill.jobs.discovery import WorkerDirectory
from embedmill.jobs.request import (
    JobRequest,
    SubmitOptions,
    check_count,
    check_seconds,
    prepare,
)
from embedmill.jobs.submission import Admission
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_JOB_TEXTS
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.records import JobRecord, JobState, JobStatus
from embedmill.protocol.vectors import Vectors
from embedmill.reply import EmbeddingReply, ReplyPart
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Flow, Offload
from embedmill.urls import mask_url

#: Timeout in seconds of calls that take none; they read or write Redis and wait for no worker.
CALL_TIMEOUT_S: Final = 30.0

#: Seconds that a flow has beyond the caller's timeout, so that an answer that is due just then still arrives.
LAST_MOMENT_S: Final = 0.25

#: Seconds beyond a caller's timeout in which to find out why a job is late, and to delete the job of an ``embed``.
CLEAN_UP_S: Final = 1.0

#: Most times that ``embed`` submits a job again that Redis has lost.
MAX_RESUBMISSIONS: Final = 5

#: Most characters of a job that is prepared in the calling thread, which is then faster than handing it to another.
BRIEF_CHARS: Final = 32_768


class JobOperations:
    """The operations of a client. Its only state is what it knows of the workers; all else is in Redis."""

    def __init__(self, settings: ClientSettings) -> None:
        self.keys = Keyspace(settings.namespace)
        self.outlook = WorkerDirectory(settings.model)
        self._max_queued_tokens = settings.max_queued_tokens
        self._tenant = settings.tenant
        self._timeout_s = settings.timeout_s

    def seconds(self, timeout_s: float | None) -> float:
        """Return a call's timeout; None: the client's.

        Raises:
            InvalidRequestError: ``timeout_s`` is not a number of seconds above 0.
        """
        return check_seconds("timeout_s", self._timeout_s if timeout_s is None else timeout_s)

    def submit(self, values: list[str], options: EmbedOptions, how: SubmitOptions, timeout_s: float = 0.0) -> Flow[str]:
        """Store a job and return its id; with ``how.block`` it waits up to ``timeout_s`` for room."""
        check_count(values)
        block_until_s = time.monotonic() + timeout_s if how.block else 0.0
        request = yield from self._prepare(values, options, how)
        yield from self._store(request, block_until_s)
        return request.job_id

    def _store(self, request: JobRequest, block_until_s: float) -> Flow[None]:
        admission = Admission(
            max_queued_tokens=self._max_queued_tokens,
            expected_tokens_per_s=self.outlook.tokens_per_s(request.model),
        )
        waiting_tokens = yield from submission.submit(self.keys, request, admission, block_until_s=block_until_s)
        self.outlook.note_waiting(request.model, request.lane, waiting_tokens)

    def _prepare(self, values: list[str], options: EmbedOptions, how: SubmitOptions) -> Flow[JobRequest]:
        if self.outlook.is_stale():
            self.outlook.update((yield from discovery.look_around(self.keys)))
        name, card, children = self.outlook.choose(how.model)
        self.outlook.check_protocol(name)
        if how.tenant is None:
            how = replace(how, tenant=self._tenant)
        make = partial(
            prepare,
            values,
            options,
            how,
            model=name,
            card=card,
            children=children,
            waiting_tokens=self.outlook.waiting_tokens(name, how.lane),
        )
        if len(values) <= MAX_CHUNK_TEXTS and sum(map(len, values)) <= BRIEF_CHARS:
            return make()
        request: JobRequest = yield Offload(make)
        return request

    def embed(
        self, values: list[str], options: EmbedOptions, how: SubmitOptions, timeout_s: float
    ) -> Flow[EmbeddingReply]:
        """Embed texts in one job after the other; each job is deleted, whether or not it succeeds.

        Texts that are too large for this Redis as one job are halved.
        """
        deadline_s = time.monotonic() + timeout_s
        cuts = split_into_jobs(values)[::-1]
        starts: list[int] = []
        replies: list[EmbeddingReply] = []
        while cuts:
            start, stop = cuts.pop()
            request = yield from self._prepare(values[start:stop], options, how)
            try:
                replies.append((yield from self._work(request, deadline_s, deadline_s if how.block else 0.0)))
                starts.append(start)
            except JobTooLargeError:
                if stop - start < 2:
                    raise
                middle = (start + stop) // 2
                cuts += [(middle, stop), (start, middle)]
            except ResultTimeoutError as error:
                raise ResultTimeoutError(error.job_id, timeout_s, f"{error.hint} It was cancelled.") from None
        if len(replies) == 1:
            return replies[0]
        reply: EmbeddingReply = yield Offload(lambda: assembly.concatenate(replies, starts))
        return reply

    def _work(self, request: JobRequest, deadline_s: float, block_until_s: float) -> Flow[EmbeddingReply]:
        """Store a job, wait for its reply and delete it, also on failure."""
        losses = 0
        try:
            while True:
                yield from self._store(request, block_until_s)
                try:
                    return (yield from self._take(request, deadline_s))
                except ResultExpiredError:  # Redis lost the job, or the answer to ``take``; the texts are still here
                    losses += 1
                    if losses > MAX_RESUBMISSIONS:
                        raise
        except BaseException:
            yield from self._discard(request)
            raise

    def _take(self, request: JobRequest, deadline_s: float) -> Flow[EmbeddingReply]:
        progress = Progress(request.job_id, max(deadline_s - time.monotonic(), 0.001), n_chunks=len(request.payloads))
        dimension = self.outlook.dimension(request.model)
        intake = Intake(
            n_texts=request.n_texts, options=request.options, rejected=request.rejected, dimension=dimension
        )
        filled = Assembly(intake)
        chunks = yield from self.next_chunks(progress)
        while not progress.is_over or len(chunks) > reading.FETCH_CHUNKS:
            for part in (yield from reading.fetch(self.keys, request.job_id, chunks[: reading.FETCH_CHUNKS])):
                filled.add(part)
            chunks = chunks[reading.FETCH_CHUNKS :] or (yield from self.next_chunks(progress))
        for part in (yield from reading.take(self.keys, request, chunks)):
            filled.add(part)
        return filled.reply(request.model)

    def _discard(self, request: JobRequest) -> Flow[None]:
        """Delete a job if Redis answers at once; otherwise it expires."""
        try:
            yield from reading.discard(self.keys, request, grace_s=CLEAN_UP_S)
        except QueueError:
            return

    def status(self, job_id: str) -> Flow[JobStatus]:
        """Read a job's status."""
        return (yield from reading.read_record(self.keys, job_id)).status

    def wait(self, job_id: str, timeout_s: float) -> Flow[JobStatus]:
        """Wait until a job is done and return its status."""
        progress = Progress(job_id, timeout_s)
        while not progress.is_over:
            yield from self.next_chunks(progress)
        return (yield from self.status(job_id))

    def result(self, job_id: str, timeout_s: float) -> Flow[EmbeddingReply]:
        """Wait until a job is done and return its reply."""
        progress = Progress(job_id, timeout_s, n_chunks=MAX_JOB_TEXTS)
        record = yield from reading.read_record(self.keys, job_id)
        filled = Assembly(self._intake(record))
        while not progress.is_over:
            chunks = yield from self.next_chunks(progress)
            for start in range(0, len(chunks), reading.FETCH_CHUNKS):
                for part in (yield from reading.fetch(self.keys, job_id, chunks[start : start + reading.FETCH_CHUNKS])):
                    filled.add(part)
        return filled.reply(record.status.model)

    def cancel(self, job_id: str) -> Flow[bool]:
        """Cancel a job and return whether it is cancelled.

        Raises:
            ResultExpiredError: the job is not in Redis.
        """
        # The script returns the state, as a waiting caller may delete the job as soon as it is cancelled.
        state = yield from reading.end(self.keys, job_id, "cancel")
        if state is None:
            raise ResultExpiredError(job_id)
        return state == b"cancelled"

    def delete(self, job_id: str) -> Flow[bool]:
        """Delete a job and return whether it was there."""
        return (yield from reading.end(self.keys, job_id, "delete")) not in (None, 0)

    def intake(self, job_id: str) -> Flow[Intake]:
        """Read a job's record and return the check for its replies."""
        return self._intake((yield from reading.read_record(self.keys, job_id)))

    def _intake(self, record: JobRecord) -> Intake:
        return Intake(
            n_texts=record.status.n_texts,
            options=record.options,
            rejected=record.rejected,
            dimension=self.outlook.dimension(record.status.model),
        )

    def parts(self, job_id: str, chunks: Sequence[int], intake: Intake) -> Flow[list[ReplyPart]]:
        """Read the vectors of finished chunks.

        Raises:
            MessageError: a reply does not fit this job.
        """
        replies = yield from reading.fetch(self.keys, job_id, chunks)
        return [intake.take(reply) for reply in replies]

    def next_chunks(self, progress: Progress) -> Flow[Sequence[int]]:
        """Wait up to ``reading.BLOCK_S`` for finished chunks and return their numbers, perhaps none.

        When the job is done, the result includes chunks whose events were lost.

        Raises:
            ResultTimeoutError: the timeout of ``progress`` has passed.
            JobCancelledError: somebody cancelled the job.
            ResultExpiredError: the job is not in Redis.
        """
        left_s = progress.deadline_s - time.monotonic()
        if left_s <= 0:
            # Redis answered a moment ago, so the error must not say that it is unavailable.
            hint = yield from self.why_late(progress.job_id)
            raise ResultTimeoutError(progress.job_id, progress.timeout_s, hint)
        block_s = min(reading.BLOCK_S, left_s)
        events = yield from reading.read_events(self.keys, progress.job_id, progress.cursor, block_s)
        progress.cursor = events.cursor
        progress.is_over = events.over is not None
        if events.over is JobState.CANCELLED:
            raise JobCancelledError(progress.job_id)
        progress.seen.update(events.chunks)
        if not progress.is_over or len(progress.seen) >= progress.n_chunks:
            return events.chunks
        n_replies = yield from reading.count_replies(self.keys, progress.job_id)
        return [*events.chunks, *sorted(set(range(n_replies)) - progress.seen)]

    def why_late(self, job_id: str) -> Flow[str]:
        """Return a hint why a job is late; runs after the deadline of the call that waited for it.

        Raises:
            ResultExpiredError: the job is not in Redis.
        """
        status = (yield from reading.read_record(self.keys, job_id, grace_s=CLEAN_UP_S)).status
        self.outlook.update((yield from discovery.look_around(self.keys, grace_s=CLEAN_UP_S)))
        return self.outlook.hint(status)


class Progress:
    """The position of a reader in a job's events."""

    def __init__(self, job_id: str, timeout_s: float = float("inf"), *, n_chunks: int = 0) -> None:
        """Start at the job's first event.

        Args:
            job_id: the job's id.
            timeout_s: seconds to wait.
            n_chunks: most chunks that the job has; 0 if the reader does not read chunks.
        """
        self.job_id = job_id
        self.n_chunks = n_chunks
        #: Chunks whose events were read.
        self.seen: set[int] = set()
        self.timeout_s = timeout_s
        self.deadline_s = time.monotonic() + timeout_s
        self.cursor = "0-0"
        self.is_over = False


class PartReader:
    """A reader of a job's vectors, part by part as chunks complete; both clients run it."""

    def __init__(self, calls: JobOperations, job_id: str) -> None:
        self._calls = calls
        self._progress = Progress(job_id, n_chunks=MAX_JOB_TEXTS)
        self._intake: Intake | None = None
        #: Finished chunks whose vectors are not yet read.
        self._chunks: Sequence[int] = ()
        self.is_over = False

    def next_parts(self) -> Flow[list[ReplyPart]]:
        """Return the next parts, at most a few chunks and perhaps none yet.

        Raises:
            JobCancelledError: somebody cancelled the job.
            ResultExpiredError: the job is not in Redis.
        """
        job_id = self._progress.job_id
        if self._intake is None:
            self._intake = yield from self._calls.intake(job_id)
            return self._intake.refused()
        if not self._chunks and not self._progress.is_over:
            self._chunks = yield from self._calls.next_chunks(self._progress)
        now, self._chunks = self._chunks[: reading.FETCH_CHUNKS], self._chunks[reading.FETCH_CHUNKS :]
        parts: list[ReplyPart] = yield from self._calls.parts(job_id, now, self._intake)
        self.is_over = self._progress.is_over and not self._chunks
        return [*parts, *self._intake.lost()] if self.is_over else parts


def shown(client: object, settings: ClientSettings, *, is_closed: bool) -> str:
    """Return the repr of a client: its settings without passwords, and whether it is closed."""
    where = f"redis_url={mask_url(settings.redis_url)!r}, model={settings.model!r}, namespace={settings.namespace!r}"
    return f"{type(client).__name__}({where}{', closed' if is_closed else ''})"


def accepted(reply: EmbeddingReply) -> Vectors:
    """Return the vectors of a reply.

    Raises:
        TextsRejectedError: some texts have no vector.
    """
    if reply.rejected:
        raise TextsRejectedError(reply)
    return reply.vectors
