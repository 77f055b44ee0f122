"""What a gateway keeps of a job beside its record: whose it is, its webhook, how it ended. Flows over Redis.

An entry outlives the record, so that a job that has expired is known as such.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import MessageError
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.protocol import records
from embedmill.protocol.codec import read_count, read_ms
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.records import JobState, JobStatus
from embedmill.transport.flow import Command, Flow, RoundTrip

#: Seconds that an entry lives after it was last written.
ENTRY_TTL_S: Final = 30 * 86_400

#: Jobs of one API key that are listed; older ones are still found by their ids.
MAX_ENTRIES: Final = 10_000

#: Seconds until a gateway first looks whether a job has ended.
FIRST_LOOK_S: Final = 0.5

COMPLETED, FAILED, CANCELLED, EXPIRED = "completed", "failed", "cancelled", "expired"

#: Attempts at a webhook are no more than a schedule has.
_MAX_ATTEMPTS: Final = 1_000

_FIELDS: Final = (
    *("request", "model", "lane", "created_ms", "texts", "url", "secret"),
    *("status", "done", "failed", "ended_ms", "attempts", "delivery"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was asked for, and what has come of it."""

    #: Id of the job in Redis: the caller's, with the owner before it.
    job_id: str
    #: Hash of all that the request asked for.
    request: str
    model: str
    lane: str
    n_texts: int
    #: Where to report the job's end; empty: nowhere.
    url: str = field(default="", repr=False)
    #: Signs the report; empty: the gateway's own.
    secret: str = field(default="", repr=False)
    #: Time of submission, in ms since the epoch by Redis's clock.
    created_ms: int = 0
    #: How the job ended; empty: nobody has noted its end.
    status: str = ""
    n_done: int = 0
    n_failed: int = 0
    ended_ms: int = 0
    #: Attempts to send the webhook, and ``delivered`` or ``failed`` once there are no more.
    attempts: int = 0
    delivery: str = ""

    @property
    def event_id(self) -> str:
        """The id of the event that reports the job's end, the same for each attempt."""
        return f"evt_{hashlib.sha256(f'{self.job_id} {self.created_ms}'.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenJob:
    """An entry, and the job's record at the same moment."""

    entry: Entry
    #: None: Redis holds the record no more.
    record: JobStatus | None
    #: When Redis forgets the record as things are, in seconds since the epoch.
    expires_at_s: float | None
    #: When this was read, by Redis's clock.
    at_s: float

    @property
    def status(self) -> str:
        """How the job is, in the words of the route; one that is done and has no noted end counts as completed."""
        if self.entry.status and (self.record is not None or self.entry.status != COMPLETED):
            return self.entry.status
        if self.record is None:
            return EXPIRED
        return COMPLETED if self.record.state is JobState.DONE else str(self.record.state)

    @property
    def is_over(self) -> bool:
        """Whether the job's state no longer changes."""
        return self.status in (COMPLETED, FAILED, CANCELLED, EXPIRED)

    @property
    def n_done(self) -> int:
        """Texts that have a vector or are rejected."""
        return self.record.texts_done if self.record is not None else self.entry.n_done


def enter(keys: Keyspace, owner: str, entry: Entry) -> Flow[bool]:
    """Write the entry of a job that was just submitted; return False if its id is taken by another request.

    If a gateway dies in the middle, the same request completes it.

    Args:
        keys: the keys of the namespace.
        owner: whose job it is.
        entry: what to write; the time of submission is Redis's.
    """
    key = keys.entry(entry.job_id)
    claim: list[Command] = [("HSETNX", key, "request", entry.request), ("EXPIRE", key, ENTRY_TTL_S)]
    *_, request, (seconds, micros) = yield RoundTrip([*claim, ("HGET", key, "request"), ("TIME",)])
    if request != entry.request.encode():
        return False
    now_ms, listed = int(seconds) * 1000 + int(micros) // 1000, keys.entries(owner)
    values = ("model", entry.model, "lane", entry.lane, "created_ms", now_ms, "texts", entry.n_texts)
    webhook = ("url", entry.url, "secret", entry.secret)
    *_, oldest = yield RoundTrip(
        [
            ("HDEL", key, "status", "done", "failed", "ended_ms", "attempts", "delivery"),
            ("HSET", key, *values, *webhook),
            ("ZADD", keys.outbox, now_ms + round(FIRST_LOOK_S * 1000), entry.job_id),
            ("ZADD", listed, now_ms, entry.job_id),
            ("EXPIRE", listed, ENTRY_TTL_S),
            ("ZRANGE", listed, 0, -MAX_ENTRIES - 1),
        ]
    )
    if oldest:
        yield RoundTrip([("ZREM", listed, *oldest)])
    return True


def look(keys: Keyspace, job_ids: Sequence[str]) -> Flow[list[SeenJob | None]]:
    """Read jobs; None stands for one without an entry, or with one that cannot be read."""
    commands: list[Command] = [("TIME",)]
    for job_id in job_ids:
        commands.append(("HMGET", keys.entry(job_id), *_FIELDS))
        commands.append(("HMGET", keys.job(job_id), *records.STATUS_FIELDS))
        commands.append(("PTTL", keys.job(job_id)))
    (seconds, micros), *found = yield RoundTrip(commands)
    at_s = int(seconds) + int(micros) / 1e6
    return [_read(job_id, at_s, *found[3 * index : 3 * index + 3]) for index, job_id in enumerate(job_ids)]


def newest(keys: Keyspace, owner: str, limit: int, after: str | None) -> Flow[list[str] | None]:
    """Read the ids of an owner's newest jobs, or of those that came before one; None: there is no such one."""
    listed, start = keys.entries(owner), 0
    if after is not None:
        (rank,) = yield RoundTrip([("ZREVRANK", listed, after)])
        if rank is None:
            return None
        start = int(rank) + 1
    (found,) = yield RoundTrip([("ZREVRANGE", listed, start, start + limit - 1)])
    return [job_id.decode("ascii", "replace") for job_id in found]


def unlist(keys: Keyspace, owner: str, job_ids: Sequence[str]) -> Flow[None]:
    """Take jobs whose entries have expired off an owner's list."""
    yield RoundTrip([("ZREM", keys.entries(owner), *job_ids)])


def note_end(keys: Keyspace, seen: SeenJob, status: str, n_failed: int) -> Flow[None]:
    """Write down how a job ended. The first time that is written stays."""
    key, ended_ms = keys.entry(seen.entry.job_id), round(seen.at_s * 1000)
    yield RoundTrip(
        [
            ("HSET", key, "status", status, "done", seen.n_done, "failed", n_failed),
            ("HSETNX", key, "ended_ms", ended_ms),
            ("EXPIRE", key, ENTRY_TTL_S),
        ]
    )


def note_attempt(keys: Keyspace, entry: Entry, delivery: str) -> Flow[None]:
    """Count an attempt to send the webhook; ``delivery``: what came of it in the end, empty if there will be more."""
    key = keys.entry(entry.job_id)
    yield RoundTrip([("HSET", key, "attempts", entry.attempts + 1, "delivery", delivery), ("EXPIRE", key, ENTRY_TTL_S)])


def keep(keys: Keyspace, job_id: str) -> Flow[None]:
    """Renew the life of the entry of a job that is not over."""
    yield RoundTrip([("EXPIRE", keys.entry(job_id), ENTRY_TTL_S)])


def hasten(keys: Keyspace, job_id: str) -> Flow[None]:
    """Make a job due now, if a gateway is still to look at it."""
    yield RoundTrip([("ZADD", keys.outbox, "XX", 0, job_id)])


def _read(job_id: str, at_s: float, values: Sequence[Any], fields: Sequence[Any], ttl_ms: int) -> SeenJob | None:
    if values[3] is None:  # the gateway that began to write it has died
        return None
    texts = [(value or b"").decode("utf-8", "replace") for value in values]
    try:
        entry = Entry(
            job_id=job_id,
            request=texts[0],
            model=texts[1],
            lane=texts[2],
            created_ms=round(read_ms(values[3])),
            n_texts=read_count(values[4], MAX_JOB_TEXTS),
            url=texts[5],
            secret=texts[6],
            status=texts[7],
            n_done=read_count(values[8] or b"0", MAX_JOB_TEXTS),
            n_failed=read_count(values[9] or b"0", MAX_JOB_TEXTS),
            ended_ms=round(read_ms(values[10] or b"0")),
            attempts=read_count(values[11] or b"0", _MAX_ATTEMPTS),
            delivery=texts[12],
        )
        record = None if fields[0] is None else records.read_status(job_id, fields)
    except MessageError:
        return None
    expires_at_s = at_s + ttl_ms / 1000 if ttl_ms > 0 else None
    return SeenJob(entry=entry, record=record, expires_at_s=expires_at_s, at_s=at_s)
