"""A client for your own tests that needs no Redis, no worker and no model.

>>> client = FakeEmbeddingClient(dimension=8)
>>> client.embed(["Selamat pagi"]).shape
(1, 8)

It checks texts, options and limits as ``EmbeddingClient`` does. A job is done as soon as it is submitted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from embedmill.errors import ClientClosedError, JobConflictError, ResultExpiredError, UnknownLetterError
from embedmill.jobs import assembly, request
from embedmill.jobs.assembly import Assembly, Intake
from embedmill.jobs.chunking import split_into_jobs
from embedmill.jobs.dead_letters import Letters
from embedmill.jobs.listing import JobList, check_state
from embedmill.jobs.operations import accepted
from embedmill.jobs.request import JobRequest, SubmitOptions
from embedmill.limits import MAX_DEAD_LETTERS, MAX_LISTED_JOBS
from embedmill.protocol import dead_letter
from embedmill.protocol import vectors as codec
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import Chunk, ChunkReply, unpack_chunk
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.keys import Lane
from embedmill.protocol.options import EmbedOptions, InputType
from embedmill.protocol.records import JobState, JobStatus
from embedmill.protocol.vectors import DtypeName, Vectors
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart

#: Characters per token of the fake model, and the most tokens that it reads.
CHARS_PER_TOKEN: Final = 4
MAX_TOKENS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    request: JobRequest
    replies: tuple[ChunkReply, ...]
    submitted_at_s: float


class FakeEmbeddingClient:
    """An ``EmbeddingClient`` in memory. A vector has length 1 and depends only on model, input type and text."""

    def __init__(self, dimension: int = 384, model: str = "fake", dead_letters: Iterable[DeadLetter] = ()) -> None:
        """Start without jobs.

        Args:
            dimension: length of each vector.
            model: name of the only model that is announced.
            dead_letters: what ``dead_letters`` holds, oldest first; nothing else puts a letter there.
        """
        #: The dead letters that were passed in; the fake client itself embeds every text.
        self.dead_letters = self.dead = FakeDeadLetters(self, dead_letters)
        self.jobs = FakeJobs(self)
        self._card = ModelCard(
            name=model,
            fingerprint="0" * 16,
            dimension=dimension,
            max_tokens=MAX_TOKENS,
            chars_per_token=CHARS_PER_TOKEN,
            tokens_per_s=4_000.0,
        )
        self._jobs: dict[str, _Done] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        closed = ", closed" if self._is_closed else ""
        return f"FakeEmbeddingClient(dimension={self._card.dimension}, model={self._card.name!r}{closed})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client; all later calls raise ClientClosedError."""
        self._is_closed = True

    def _check_open(self) -> None:
        """Raise ClientClosedError if the client was closed."""
        if self._is_closed:
            raise ClientClosedError

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
        """Embed texts; see ``EmbeddingClient.embed``."""
        self._check_open()
        _check_timeout(timeout_s)
        values = request.check_texts(texts)
        options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
        how = SubmitOptions(model=model, lane=lane, block=block)
        cuts = split_into_jobs(values)
        replies = []
        for start, stop in cuts:
            job = self._submit(values[start:stop], options, how)
            replies.append(job.result())
            job.delete()
        return accepted(assembly.concatenate(replies, [start for start, _ in cuts]))

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
    ) -> FakeJob:
        """Embed a job of up to 65,536 texts; see ``EmbeddingClient.submit``. It always finds room and never expires."""
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
        return self._submit(request.check_texts(texts), options, how)

    def _submit(self, values: list[str], options: EmbedOptions, how: SubmitOptions) -> FakeJob:
        self._check_open()
        name = how.model or self._card.name
        job = request.prepare(values, options, how, model=name, card=self._card, children=1)
        known = self._jobs.get(job.job_id)
        if known and known.request.digest != job.digest:
            raise JobConflictError(job.job_id)
        if not known:
            replies = tuple(self._reply(job, unpack_chunk(payload)) for payload in job.payloads)
            self._jobs[job.job_id] = _Done(request=job, replies=replies, submitted_at_s=time.time())
        return FakeJob(self, job.job_id)

    def job(self, job_id: str) -> FakeJob:
        """Return the job with this id; see ``EmbeddingClient.job``."""
        self._check_open()
        return FakeJob(self, request.check_job_id(job_id))

    def _reply(self, job: JobRequest, chunk: Chunk) -> ChunkReply:
        dimension = self._card.dimension
        counts = np.array([2 + -(-len(text) // CHARS_PER_TOKEN) for text in chunk.texts], dtype=np.uint32)
        rows = [fake_vector(f"{job.model} {job.options.input_type} {text}", dimension) for text in chunk.texts]
        too_long = counts > MAX_TOKENS
        rejected = () if job.options.truncate else np.flatnonzero(too_long)
        for i in rejected:
            rows[i] = np.full(dimension, np.nan, dtype=np.float32)
        kept = codec.cut(np.array(rows, dtype=np.float32).reshape(-1, dimension), job.options.dimensions)
        return ChunkReply(
            indices=chunk.indices,
            vectors=codec.to_bytes(kept, job.options.dtype),
            dtype=job.options.dtype,
            dimension=kept.shape[1],
            token_counts=counts,
            truncated=too_long & job.options.truncate,
            rejected=tuple(
                Rejected(
                    index=int(chunk.indices[i]),
                    reason=Reason.TOO_LONG,
                    detail=f"{counts[i]} tokens, limit {MAX_TOKENS}",
                )
                for i in rejected
            ),
            fingerprint=self._card.fingerprint,
            runtime="fake",
            timings_ms={},
        )


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None:
        request.check_seconds("timeout_s", timeout_s)


def fake_vector(text: str, dimension: int) -> npt.NDArray[np.float32]:
    """Return a vector of length 1, float32 (dimension,), made of the text's SHAKE-256: the same on every machine."""
    steps = np.frombuffer(hashlib.shake_256(text.encode()).digest(2 * dimension), dtype="<i2").astype(np.float64) + 0.5
    return np.asarray(steps / np.linalg.norm(steps), dtype=np.float32)


class FakeJobs:
    """The ``Jobs`` of a ``FakeEmbeddingClient``; all of them are done."""

    def __init__(self, client: FakeEmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100, state: str | None = None) -> JobList:
        """Return the newest jobs; see ``Jobs.list``."""
        self._client._check_open()
        wanted = check_state(state)
        known = [self._client.job(job_id).status() for job_id in reversed(self._client._jobs)]
        found = [status for status in known if wanted in (None, status.state)]
        return JobList(
            jobs=tuple(found[: request.check_limit(limit, MAX_LISTED_JOBS)]),
            n_found=len(found),
            n_unreadable=0,
            is_complete=True,
            at_s=time.time(),
        )


class FakeJob:
    """A ``Job`` of a ``FakeEmbeddingClient``."""

    def __init__(self, client: FakeEmbeddingClient, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def __repr__(self) -> str:
        return f"FakeJob({self.id!r})"

    def status(self) -> JobStatus:
        """Return the job's status, which is always done; see ``Job.status``."""
        done = self._done()
        return JobStatus(
            job_id=self.id,
            state=JobState.DONE,
            model=done.request.model,
            lane=done.request.lane,
            n_texts=done.request.n_texts,
            texts_done=done.request.n_texts,
            chunks=len(done.replies),
            chunks_done=len(done.replies),
            submitted_at_s=done.submitted_at_s,
            fingerprint=done.replies[0].fingerprint if done.replies else "",
        )

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Return the job's status at once; see ``Job.wait``."""
        _check_timeout(timeout_s)
        return self.status()

    def result(self, timeout_s: float | None = None) -> EmbeddingReply:
        """Return all vectors; see ``Job.result``."""
        _check_timeout(timeout_s)
        done = self._done()
        filled = Assembly(self._intake(done))
        for reply in done.replies:
            filled.add(reply)
        return filled.reply(done.request.model)

    def iter_results(self) -> Iterator[ReplyPart]:
        """Yield each chunk's vectors; see ``Job.iter_results``."""
        done = self._done()
        intake = self._intake(done)
        yield from intake.refused()
        yield from map(intake.take, done.replies)

    def cancel(self) -> bool:
        """Return False, as the job is done; see ``Job.cancel``."""
        self._done()
        return False

    def delete(self) -> bool:
        """Delete the job; see ``Job.delete``."""
        self._client._check_open()
        return self._client._jobs.pop(self.id, None) is not None

    def _intake(self, done: _Done) -> Intake:
        job, dimension = done.request, self._client._card.dimension
        return Intake(n_texts=job.n_texts, options=job.options, rejected=job.rejected, dimension=dimension)

    def _done(self) -> _Done:
        self._client._check_open()
        try:
            return self._client._jobs[self.id]
        except KeyError:
            raise ResultExpiredError(self.id) from None


class FakeDeadLetters:
    """The ``DeadLetters`` of a ``FakeEmbeddingClient``: letters that the caller passed, each with its own id."""

    def __init__(self, client: FakeEmbeddingClient, letters: Iterable[DeadLetter]) -> None:
        self._client = client
        self._letters = {dead_letter.check_id(letter.id): letter for letter in letters}

    def list(self, *, limit: int = 100) -> Letters:
        """Return the newest letters; see ``DeadLetters.list``."""
        self._client._check_open()
        return [*reversed(self._letters.values())][: request.check_limit(limit, MAX_DEAD_LETTERS)]

    def get(self, letter_id: str) -> DeadLetter:
        """Return one letter; see ``DeadLetters.get``."""
        self._client._check_open()
        try:
            return self._letters[dead_letter.check_id(letter_id)]
        except KeyError:
            raise UnknownLetterError(letter_id) from None

    def requeue(self, letter_id: str, text: str | None = None) -> FakeJob:
        """Submit a letter's text again; see ``DeadLetters.requeue``."""
        letter = self.get(letter_id)
        how = SubmitOptions(model=letter.model, lane=letter.lane, job_id=f"requeued-{letter_id}")
        job = self._client._submit([dead_letter.text_to_requeue(letter, text)], letter.options, how)
        self.drop(letter_id)
        return job

    def drop(self, letter_id: str) -> bool:
        """Delete a letter; see ``DeadLetters.drop``."""
        self._client._check_open()
        return self._letters.pop(dead_letter.check_id(letter_id), None) is not None

    def drop_all(self) -> int:
        """Delete all letters; see ``DeadLetters.drop_all``."""
        self._client._check_open()
        dropped = len(self._letters)
        self._letters.clear()
        return dropped
