"""The flows that read, cancel and delete jobs: records, events and replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from embedmill.errors import ResultExpiredError
from embedmill.jobs.request import JobRequest
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.protocol import records
from embedmill.protocol.chunks import ChunkReply, unpack_reply
from embedmill.protocol.codec import read_name
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.records import Events, JobRecord
from embedmill.transport.flow import Command, Flow, RoundTrip, evalsha

#: Chunk replies fetched in one round trip.
FETCH_CHUNKS: Final = 16

#: Seconds that an unreachable Redis is tried again while a job is waited for: enough to restart and load its AOF.
WAITING_OUTAGE_S: Final = 30.0

#: Seconds of one blocking read of events; the record is read between two of them.
BLOCK_S: Final = 1.0


def read_record(keys: Keyspace, job_id: str, *, grace_s: float = 0.0) -> Flow[JobRecord]:
    """Read a job's record; the round trip may end ``grace_s`` after the flow's deadline.

    Raises:
        ResultExpiredError: the job is not in Redis.
        MessageError: the record cannot be read.
    """
    (values,) = yield RoundTrip([("HMGET", keys.job(job_id), *records.RECORD_FIELDS)], grace_s=grace_s)
    if values[0] is None:
        raise ResultExpiredError(job_id)
    return records.read_record(job_id, values)


def read_events(keys: Keyspace, job_id: str, cursor: str, block_s: float) -> Flow[Events]:
    """Wait up to ``block_s`` for events of a job. If events are lost, the record still says whether it is over.

    Raises:
        ResultExpiredError: the job is not in Redis, or its texts are lost, so that no worker can do it.
        MessageError: the events cannot be read.
    """
    block_ms = max(1, int(block_s * 1000))
    read = ("XREAD", "COUNT", 1_000, "BLOCK", block_ms, "STREAMS", keys.events(job_id), cursor)
    (streams,) = yield RoundTrip([read], block_s=block_s, outage_s=WAITING_OUTAGE_S)
    if not streams:
        look = ("XREAD", "COUNT", 1_000, "STREAMS", keys.events(job_id), cursor)
        # Read the texts before the state, as one commit deletes the last texts and ends the job.
        ask = [look, ("EXISTS", keys.texts(job_id)), ("HGET", keys.job(job_id), "state")]
        streams, has_texts, state = yield RoundTrip(ask, outage_s=WAITING_OUTAGE_S)
        if state is None or (state == b"active" and not has_texts and not streams):
            raise ResultExpiredError(job_id)
        if not streams:
            return Events(cursor=cursor, chunks=(), over=None if state == b"active" else records.read_state(state))
    return records.read_news(streams[0][1])


def count_replies(keys: Keyspace, job_id: str) -> Flow[int]:
    """Return the number of a job's chunks that have a reply; once it is done, they are the first ones."""
    (count,) = yield RoundTrip([("HLEN", keys.replies(job_id))], outage_s=WAITING_OUTAGE_S)
    return min(int(count), MAX_JOB_TEXTS)


def fetch(keys: Keyspace, job_id: str, chunks: Sequence[int]) -> Flow[list[ChunkReply]]:
    """Read the replies of finished chunks.

    Raises:
        ResultExpiredError: a reply is not in Redis.
        MessageError: a reply cannot be read.
    """
    if not chunks:
        return []
    (values,) = yield RoundTrip([("HMGET", keys.replies(job_id), *chunks)], outage_s=WAITING_OUTAGE_S)
    return _replies(job_id, values)


def take(keys: Keyspace, request: JobRequest, chunks: Sequence[int]) -> Flow[list[ChunkReply]]:
    """Read the last replies of a job of this client and delete it, in one round trip.

    Raises:
        ResultExpiredError: a reply is not in Redis, perhaps because an earlier attempt lost its answer.
        MessageError: a reply cannot be read.
    """
    delete = evalsha("delete", keys.of_job(request.job_id, request.model, request.lane, request.tenant))
    read: list[Command] = [("HMGET", keys.replies(request.job_id), *chunks)] if chunks else []
    *values, _ = yield RoundTrip([*read, delete], outage_s=WAITING_OUTAGE_S)
    return _replies(request.job_id, values[0]) if chunks else []


def _replies(job_id: str, values: Sequence[bytes | None]) -> list[ChunkReply]:
    kept = [value for value in values if value is not None]
    if len(kept) < len(values):
        raise ResultExpiredError(job_id)
    return [unpack_reply(value) for value in kept]


def discard(keys: Keyspace, request: JobRequest, *, grace_s: float) -> Flow[None]:
    """Delete a job of this client, if Redis answers at once."""
    job_keys = keys.of_job(request.job_id, request.model, request.lane, request.tenant)
    yield RoundTrip([evalsha("delete", job_keys)], grace_s=grace_s, outage_s=0.0)


def end(keys: Keyspace, job_id: str, how: str) -> Flow[bytes | int | None]:
    """Cancel or delete a job and return what the script ``how`` returns; None if the job is not in Redis."""
    (found,) = yield RoundTrip([("HMGET", keys.job(job_id), "model", "lane", "tenant")])
    if found[0] is None:
        return None
    model, lane, tenant = (read_name(value or b"") for value in found)
    job_keys = keys.of_job(job_id, model, lane, tenant)
    (outcome,) = yield RoundTrip([evalsha(how, job_keys)])
    return cast("bytes | int | None", outcome)
