"""A job's record and its events as they lie in Redis, turned into values. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from embedmill.errors import MessageError
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.protocol.chunks import read_rejected
from embedmill.protocol.codec import read_count, read_ms, read_name
from embedmill.protocol.keys import LANES
from embedmill.protocol.options import EmbedOptions, unpack_options
from embedmill.reply import Rejected

#: The fields of a record that say how far the job is, in this order.
STATUS_FIELDS: Final = (
    *("state", "model", "lane", "n_rows", "n_texts", "left_texts", "n_chunks", "done", "created_ms"),
    "fingerprint",
)

#: The fields of a record that a reader of its vectors asks for, in this order.
RECORD_FIELDS: Final = (*STATUS_FIELDS, "options", "rejected")


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


def read_record(job_id: str, values: Sequence[Any]) -> JobRecord:
    """Read the ``RECORD_FIELDS`` of a job.

    Raises:
        MessageError: one of them is missing, or has a value that no script writes.
    """
    rejected = read_rejected(values[11] or b"")
    status = read_status(job_id, values, len(rejected))
    return JobRecord(status=status, options=unpack_options(values[10] or b""), rejected=rejected)


def read_status(job_id: str, values: Sequence[Any], n_rejected: int | None = None) -> JobStatus:
    """Read the ``STATUS_FIELDS`` of a job.

    Args:
        job_id: whose.
        values: the fields.
        n_rejected: texts that never went out; None: those that are rows and not texts of the record.

    Raises:
        MessageError: one of them is missing, or has a value that no script writes.
    """
    n_rows, n_texts, left_texts, chunks, done = (read_count(value, MAX_JOB_TEXTS) for value in values[3:8])
    state = JobState.RUNNING if done else JobState.QUEUED
    if values[0] != b"active":
        state = read_state(values[0])
    lane = read_name(values[2])
    if lane not in LANES or left_texts > n_texts or done > chunks:
        raise MessageError("a job's record has fields that contradict each other")
    n_rejected = max(0, n_rows - n_texts) if n_rejected is None else n_rejected
    return JobStatus(
        job_id=job_id,
        state=state,
        model=read_name(values[1]),
        lane=lane,
        n_texts=n_rows,
        texts_done=n_texts - left_texts + n_rejected if state is not JobState.CANCELLED else 0,
        chunks=chunks,
        chunks_done=done,
        submitted_at_s=read_ms(values[8]) / 1000,
        fingerprint=read_name(values[9] or b""),
    )


def read_news(entries: Sequence[Any]) -> Events:
    """Read the entries of a job's events, at least one.

    Raises:
        MessageError: one is nothing that a script writes.
    """
    over: JobState | None = None
    chunks: list[int] = []
    for _, fields in entries:
        match list(fields or ()):
            case [b"s", value]:
                over = read_state(value)
            case [b"c", value]:
                chunks.append(read_count(value, MAX_JOB_TEXTS))
            case _:
                raise MessageError("a job's events hold what no script writes")
    return Events(cursor=read_name(entries[-1][0]), chunks=tuple(chunks), over=over)


def read_state(value: Any) -> JobState:
    """Read the state of a job that is over.

    Raises:
        MessageError: it is none.
    """
    name = read_name(value)
    if name not in (JobState.DONE, JobState.CANCELLED):
        raise MessageError("a job is in no known state")
    return JobState(name)
