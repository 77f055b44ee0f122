"""What client and worker say to Redis, without a connection.

A flow is a generator: it yields ``Ask``s, is sent their replies, and returns its result. ``link.py`` drives flows
over a blocking connection and ``async_link.py`` over an asyncio one, so that both clients are the same code. What goes
wrong is thrown into the flow, which may clean up with further ``Ask``s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final, TypeVar, cast

from embedmill import protocol, records
from embedmill.errors import MessageError, ResultExpiredError
from embedmill.keys import Keyspace
from embedmill.limits import LIVENESS_TTL_S, MAX_CARDS, MAX_JOB_TEXTS, MAX_WORKERS
from embedmill.protocol import ChunkReply, ModelCard
from embedmill.records import Events, JobRecord
from embedmill.request import JobRequest
from embedmill.scripts import script
from embedmill.workers import WorkerInfo

log = logging.getLogger(__name__)

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
    #: A command that Redis refuses gives its error in the reply's place and hides no other reply.
    keeps_errors: bool = False


@dataclass(frozen=True, slots=True)
class Compute:
    """A computation too long for an event loop: the asyncio driver runs it in a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds to do nothing in."""

    seconds: float


Flow = Generator[Ask | Compute | Pause, Any, T]


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


def look_around(keys: Keyspace, *, grace_s: float = 0.0) -> Flow[Landscape]:
    """Read the model cards and the live workers, if need be ``grace_s`` after the flow's deadline.

    What cannot be read is passed over: it must not stop the others.
    """
    limits = (round(LIVENESS_TTL_S * 1000), MAX_WORKERS)
    look = evalsha("look", (keys.models, keys.workers), keys.worker_prefix, *limits)
    ((packed_cards, _, entries),) = yield Ask([look], grace_s=grace_s)
    cards = readable(ModelCard.from_json, islice(packed_cards, MAX_CARDS), "model card")
    workers = readable(WorkerInfo.from_json, filter(None, entries), "worker entry")
    return Landscape(cards={card.name: card for card in cards}, workers=tuple(workers))


def readable(read: Callable[[Any], T], packed: Iterable[Any], what: str) -> list[T]:
    """Give what can be read of these; a warning names each kind of trouble once."""
    values = []
    for data in packed:
        try:
            values.append(read(data))
        except MessageError as error:
            warn_once(f"a {what} is passed over: {error}")
    return values


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log a warning; the same one is not repeated at every look."""
    log.warning("%s", message, extra={"action": "unreadable"})


def read_record(keys: Keyspace, job_id: str, *, grace_s: float = 0.0) -> Flow[JobRecord]:
    """Read a job's record, if need be ``grace_s`` after the flow's deadline.

    Raises:
        ResultExpiredError: there is none.
        MessageError: it cannot be read.
    """
    (values,) = yield Ask([("HMGET", keys.job(job_id), *records.RECORD_FIELDS)], grace_s=grace_s)
    if values[0] is None:
        raise ResultExpiredError(job_id)
    return records.read_record(job_id, values)


def read_events(keys: Keyspace, job_id: str, cursor: str, block_s: float) -> Flow[Events]:
    """Wait up to ``block_s`` for news of a job. If they are lost, its record still says that it is over.

    Raises:
        ResultExpiredError: there is no such job, or its texts are lost and nobody can do it.
        MessageError: they cannot be read.
    """
    block_ms = max(1, int(block_s * 1000))
    read = ("XREAD", "COUNT", 1_000, "BLOCK", block_ms, "STREAMS", keys.events(job_id), cursor)
    (streams,) = yield Ask([read], block_s=block_s, outage_s=WAITING_OUTAGE_S)
    if not streams:
        look = ("XREAD", "COUNT", 1_000, "STREAMS", keys.events(job_id), cursor)
        # The texts before the state: a commit drops the last ones and ends the job at once.
        ask = [look, ("EXISTS", keys.texts(job_id)), ("HGET", keys.job(job_id), "state")]
        streams, has_texts, state = yield Ask(ask, outage_s=WAITING_OUTAGE_S)
        if state is None or (state == b"active" and not has_texts and not streams):
            raise ResultExpiredError(job_id)
        if not streams:
            return Events(cursor=cursor, chunks=(), over=None if state == b"active" else records.read_state(state))
    return records.read_news(streams[0][1])


def count_replies(keys: Keyspace, job_id: str) -> Flow[int]:
    """Return how many chunks of a job have a reply; they are the first ones once it is done."""
    (count,) = yield Ask([("HLEN", keys.replies(job_id))], outage_s=WAITING_OUTAGE_S)
    return min(int(count), MAX_JOB_TEXTS)


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


def end(keys: Keyspace, job_id: str, how: str) -> Flow[bytes | int | None]:
    """Cancel or delete a job; returns what the script ``how`` answers, None if there is no such job."""
    (found,) = yield Ask([("HMGET", keys.job(job_id), "model", "lane")])
    if found[0] is None:
        return None
    job_keys = keys.of_job(job_id, records.read_name(found[0]), records.read_name(found[1]))
    (outcome,) = yield Ask([evalsha(how, job_keys)])
    return cast("bytes | int | None", outcome)
