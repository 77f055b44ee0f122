"""What client and worker say to Redis, without a connection.

A flow is a generator: it yields ``Ask``s, is sent their replies, and returns its result. ``link.py`` drives flows
over a blocking connection and ``async_link.py`` over an asyncio one, so that both clients are the same code. What goes
wrong is thrown into the flow, which may clean up with further ``Ask``s.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from embedmill import protocol
from embedmill.errors import ResultExpiredError
from embedmill.keys import Keyspace
from embedmill.protocol import ChunkReply, EmbedOptions, ModelCard
from embedmill.reply import Rejected
from embedmill.request import JobRequest
from embedmill.scripts import script
from embedmill.workers import WorkerInfo

T = TypeVar("T")
Command = tuple[str | bytes | int | float, ...]

#: Chunk replies fetched in one round trip.
FETCH_CHUNKS: Final = 16

#: Seconds that Redis is tried again while waiting for a job that it holds: enough to restart and load its AOF.
WAITING_OUTAGE_S: Final = 30.0

#: Seconds of one blocking read of events; between two the record is looked at.
BLOCK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Commands for one round trip."""

    commands: Sequence[Command]
    #: Seconds that Redis itself may hold the last reply back. A driver short of connections may answer by itself
    #: after that time, with None for each command: no news.
    block_s: float = 0.0
    #: Seconds that an unreachable Redis is tried again; None: as long as the driver does by itself.
    outage_s: float | None = None
    #: Seconds by which this may outlast the flow's deadline: for cleaning up after it.
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Compute:
    """A computation too long for an event loop: the asyncio driver runs it in a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to do nothing in."""

    seconds: float


Flow = Generator[Ask | Compute | Pause, Any, T]


class JobState(StrEnum):
    """Where a job is."""

    #: Nothing of it is done.
    QUEUED = "queued"
    #: Some chunks are done.
    RUNNING = "running"
    #: Every text has a vector or a rejection.
    DONE = "done"
    #: Somebody cancelled it.
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether it stays as it is."""
        return self in (JobState.DONE, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How far a job is."""

    job_id: str
    state: JobState
    model: str
    lane: str
    n_texts: int
    texts_done: int
    chunks: int
    chunks_done: int
    #: Seconds since the epoch, by Redis's clock.
    submitted_at_s: float
    #: Of the model that took the first chunk; "" before.
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What a reader of a job needs of its record."""

    status: JobStatus
    options: EmbedOptions
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """News of a job since a cursor."""

    cursor: str
    chunks: tuple[int, ...]
    #: The job's last state, once it is over.
    over: JobState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Which models are announced, and who serves them."""

    cards: dict[str, ModelCard]
    workers: tuple[WorkerInfo, ...]

    def children(self, model: str) -> int:
        """Give the number of processes that serve a model, at least 1."""
        return max(1, sum(w.children for w in self.workers if model in w.models))


def evalsha(name: str, keys: Sequence[str], *args: str | bytes | int | float) -> Command:
    """Give the call of a script."""
    return ("EVALSHA", script(name).sha, len(keys), *keys, *args)


def look_around(keys: Keyspace) -> Flow[Landscape]:
    """Read the model cards and the live workers."""
    cards, ids = yield Ask([("HVALS", keys.models), ("ZRANGE", keys.workers, 0, -1)])
    parsed = [ModelCard.from_json(card) for card in cards]
    workers: list[WorkerInfo] = []
    if ids:
        (values,) = yield Ask([("MGET", *(keys.worker(i.decode()) for i in ids))])
        workers = [WorkerInfo.from_json(value) for value in values if value]
    return Landscape(cards={card.name: card for card in parsed}, workers=tuple(workers))


def read_record(keys: Keyspace, job_id: str, *, grace_s: float = 0.0) -> Flow[JobRecord]:
    """Read a job's record, if need be ``grace_s`` after the flow's deadline.

    Raises:
        ResultExpiredError: there is none.
    """
    fields = ("state", "model", "lane", "n_rows", "n_texts", "left_texts", "n_chunks", "done", "created_ms")
    names = (*fields, "fingerprint", "options", "rejected")
    (values,) = yield Ask([("HMGET", keys.job(job_id), *names)], grace_s=grace_s)
    if values[0] is None:
        raise ResultExpiredError(job_id)
    rejected = protocol.read_rejected(values[11])
    done = int(values[7])
    state = JobState.RUNNING if done else JobState.QUEUED
    if values[0] != b"active":
        state = JobState(values[0].decode())
    status = JobStatus(
        job_id=job_id,
        state=state,
        model=values[1].decode(),
        lane=values[2].decode(),
        n_texts=int(values[3]),
        texts_done=int(values[4]) - int(values[5]) + len(rejected) if state is not JobState.CANCELLED else 0,
        chunks=int(values[6]),
        chunks_done=done,
        submitted_at_s=float(values[8]) / 1000,
        fingerprint=(values[9] or b"").decode(),
    )
    return JobRecord(status=status, options=protocol.unpack_options(values[10]), rejected=rejected)


def read_events(keys: Keyspace, job_id: str, cursor: str, block_s: float) -> Flow[Events]:
    """Wait up to ``block_s`` for news of a job.

    Raises:
        ResultExpiredError: there is no such job.
    """
    block_ms = max(1, int(block_s * 1000))
    read = ("XREAD", "COUNT", 1_000, "BLOCK", block_ms, "STREAMS", keys.events(job_id), cursor)
    (streams,) = yield Ask([read], block_s=block_s, outage_s=WAITING_OUTAGE_S)
    if not streams:
        look = ("XREAD", "COUNT", 1_000, "STREAMS", keys.events(job_id), cursor)
        streams, state = yield Ask([look, ("HGET", keys.job(job_id), "state")], outage_s=WAITING_OUTAGE_S)
        if state is None:
            raise ResultExpiredError(job_id)
        if not streams:
            return Events(cursor=cursor, chunks=(), over=None)
    entries = streams[0][1]
    values = [(fields[0], fields[1]) for _, fields in entries]
    over = next((JobState(value.decode()) for name, value in values if name == b"s"), None)
    chunks = tuple(int(value) for name, value in values if name == b"c")
    return Events(cursor=entries[-1][0].decode(), chunks=chunks, over=over)


def fetch(keys: Keyspace, job_id: str, chunks: Sequence[int]) -> Flow[list[ChunkReply]]:
    """Read the replies of finished chunks.

    Raises:
        ResultExpiredError: they are gone.
    """
    if not chunks:
        return []
    (values,) = yield Ask([("HMGET", keys.replies(job_id), *chunks)], outage_s=WAITING_OUTAGE_S)
    return _replies(job_id, values)


def take(keys: Keyspace, request: JobRequest, chunks: Sequence[int]) -> Flow[list[ChunkReply]]:
    """Read the last replies of one's own job and delete it, in one round trip.

    Raises:
        ResultExpiredError: they are gone; also if the connection broke after Redis had deleted them.
    """
    delete = evalsha("delete", keys.of_job(request.job_id, request.model, request.lane))
    read: list[Command] = [("HMGET", keys.replies(request.job_id), *chunks)] if chunks else []
    *values, _ = yield Ask([*read, delete], outage_s=WAITING_OUTAGE_S)
    return _replies(request.job_id, values[0]) if chunks else []


def _replies(job_id: str, values: Sequence[bytes | None]) -> list[ChunkReply]:
    kept = [value for value in values if value is not None]
    if len(kept) < len(values):
        raise ResultExpiredError(job_id)
    return [protocol.unpack_reply(value) for value in kept]


def discard(keys: Keyspace, request: JobRequest, *, grace_s: float) -> Flow[None]:
    """Delete one's own job, if Redis answers at once."""
    job_keys = keys.of_job(request.job_id, request.model, request.lane)
    yield Ask([evalsha("delete", job_keys)], grace_s=grace_s, outage_s=0.0)


def end(keys: Keyspace, job_id: str, how: str) -> Flow[bool]:
    """Cancel or delete a job; how: ``cancel`` or ``delete``. Gives whether there was one."""
    (found,) = yield Ask([("HMGET", keys.job(job_id), "model", "lane")])
    if found[0] is None:
        return False
    job_keys = keys.of_job(job_id, found[0].decode(), found[1].decode())
    (outcome,) = yield Ask([evalsha(how, job_keys)])
    return outcome not in (None, 0)
