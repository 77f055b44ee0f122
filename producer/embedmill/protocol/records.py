"""A job's record and its events, read into values. No I/O here."""

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

#: Fields of a record that hold the job's status, in the order in which they are read.
STATUS_FIELDS: Final = (
    *("state", "model", "lane", "n_rows", "n_texts", "left_texts", "n_chunks", "done", "created_ms"),
    "fingerprint",
)

#: Fields of a record that a reader of the job's vectors needs, in the order in which they are read.
RECORD_FIELDS: Final = (*STATUS_FIELDS, "options", "rejected")


class JobState(StrEnum):
    """The state of a job."""

    #: No chunk is done yet.
    QUEUED = "queued"
    #: Some chunks are done.
    RUNNING = "running"
    #: Every text has a vector or a rejection.
    DONE = "done"
    #: Somebody cancelled the job.
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, so that its state no longer changes."""
        return self in (JobState.DONE, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The state and progress of a job."""

    job_id: str
    state: JobState
    model: str
    lane: str
    n_texts: int
    #: Texts that have a vector or a rejection; 0 if the job was cancelled.
    texts_done: int
    chunks: int
    chunks_done: int
    #: Time of submission, in seconds since the epoch by Redis's clock.
    submitted_at_s: float
    #: Fingerprint of the model that took the first chunk; "" until then.
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The part of a job's record that a reader of its vectors needs."""

    status: JobStatus
    options: EmbedOptions
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The events of a job after a cursor."""

    #: Cursor from which to read on.
    cursor: str
    #: Numbers of the chunks that have finished.
    chunks: tuple[int, ...]
    #: Last state of the job; None until it is over.
    over: JobState | None


def read_record(job_id: str, values: Sequence[Any]) -> JobRecord:
    """Read the ``RECORD_FIELDS`` of a job.

    Raises:
        MessageError: a field is missing, or has a value that no script writes.
    """
    rejected = read_rejected(values[11] or b"")
    status = read_status(job_id, values, len(rejected))
    return JobRecord(status=status, options=unpack_options(values[10] or b""), rejected=rejected)


def read_status(job_id: str, values: Sequence[Any], n_rejected: int | None = None) -> JobStatus:
    """Read the ``STATUS_FIELDS`` of a job.

    Args:
        job_id: the job's id.
        values: the fields.
        n_rejected: number of texts that the client itself rejected; None: the record's rows without a text.

    Raises:
        MessageError: a field is missing, or has a value that no script writes.
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
    """Read the entries, at least one, of a job's event stream.

    Raises:
        MessageError: an entry is nothing that a script writes.
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
                raise MessageError("a job's events have an entry that no script writes")
    return Events(cursor=read_name(entries[-1][0]), chunks=tuple(chunks), over=over)


def read_state(value: Any) -> JobState:
    """Read the state of a job that is over.

    Raises:
        MessageError: the value is not such a state.
    """
    name = read_name(value)
    if name not in (JobState.DONE, JobState.CANCELLED):
        raise MessageError("a job has an unknown state")
    return JobState(name)
