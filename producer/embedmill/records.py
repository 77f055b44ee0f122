"""A job's record and its events as they lie in Redis, turned into values. No I/O here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from embedmill import protocol
from embedmill.errors import MessageError
from embedmill.keys import LANES
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.protocol import EmbedOptions
from embedmill.reply import Rejected

#: Characters of a name.
_MAX_NAME_CHARS: Final = 512

#: No time, and no rate, that Redis and Lua still count exactly is above.
_MAX_MS: Final = float(1 << 53)

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
    rejected = protocol.read_rejected(values[11] or b"")
    status = _read_status(job_id, values, len(rejected))
    return JobRecord(status=status, options=protocol.unpack_options(values[10] or b""), rejected=rejected)


def read_status(job_id: str, values: Sequence[Any]) -> JobStatus:
    """Read the ``STATUS_FIELDS`` of a job.

    Raises:
        MessageError: one of them is missing, or has a value that no script writes.
    """
    return _read_status(job_id, values, None)


def _read_status(job_id: str, values: Sequence[Any], n_rejected: int | None) -> JobStatus:
    """Read a status; n_rejected: texts that never went out, None: those that are rows and not texts of the record."""
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


def read_name(value: Any) -> str:
    """Read a name: a model, a worker, an id.

    Raises:
        MessageError: it is missing, longer than any name, or not printable ASCII.
    """
    if not isinstance(value, bytes) or len(value) > _MAX_NAME_CHARS:
        raise MessageError("a name is missing or too long")
    name = value.decode("ascii", "replace")
    if not (name.isascii() and name.isprintable()):
        raise MessageError("a name holds what no name does")
    return name


def read_count(value: Any, limit: int) -> int:
    """Read a number from 0 to ``limit``.

    Raises:
        MessageError: it is none.
    """
    text = str(value) if isinstance(value, int) else read_name(value)
    if not text.isdecimal() or len(text) > len(str(limit)) or int(text) > limit:
        raise MessageError(f"a count is no number from 0 to {limit}")
    return int(text)


def read_ms(value: Any) -> float:
    """Read a time: milliseconds since 1970.

    Raises:
        MessageError: it is none.
    """
    try:
        ms = float(read_name(value))
    except ValueError as error:
        raise MessageError(f"a time is no number ({type(error).__name__})") from None
    if not (math.isfinite(ms) and 0 <= ms <= _MAX_MS):
        raise MessageError("a time is no number of milliseconds")
    return ms
