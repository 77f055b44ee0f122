"""The flow behind ``client.jobs``: it lists jobs, the newest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, overload

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.jobs.discovery import readable
from embedmill.jobs.request import check_limit, is_job_id
from embedmill.limits import MAX_LANES, MAX_LISTED_JOBS
from embedmill.protocol import records
from embedmill.protocol.codec import read_name
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.protocol.records import JobState, JobStatus
from embedmill.safe.printable import kind
from embedmill.transport.flow import Command, Flow, RoundTrip

#: Keys that Redis scans in one round trip, and most round trips: a million keys, those of other programs included.
SCAN_PAGE: Final = 1_000
MAX_PAGES: Final = 1_000

#: Records read in one round trip.
RECORDS_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList(Sequence[JobStatus]):
    """A sequence of job statuses, the newest job first."""

    jobs: tuple[JobStatus, ...]
    #: Number of jobs found in the requested state, those beyond the limit included.
    n_found: int
    #: Number of job records that cannot be read.
    n_unreadable: int
    #: Whether all keys of this Redis were scanned. If not (the user may not SCAN, say), jobs that are over may be
    #: missing.
    is_complete: bool
    #: Time of the list, in seconds since the epoch by Redis's clock.
    at_s: float

    @property
    def is_cut(self) -> bool:
        """Whether jobs are, or may be, missing from the list."""
        return not self.is_complete or self.n_found > len(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[JobStatus]:
        return iter(self.jobs)

    @overload
    def __getitem__(self, index: int) -> JobStatus: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[JobStatus, ...]: ...

    def __getitem__(self, index: int | slice) -> JobStatus | tuple[JobStatus, ...]:
        return self.jobs[index]


def check_state(state: str | None) -> JobState | None:
    """Return the state as a ``JobState``.

    Raises:
        InvalidRequestError: the value is not the name of a state.
    """
    if state is None:
        return None
    if not isinstance(state, str) or state not in list(JobState):
        raise InvalidRequestError("state", f"{kind(state)} is not one of {', '.join(JobState)}")
    return JobState(state)


def find(keys: Keyspace, limit: int, state: str | None) -> Flow[JobList]:
    """Find the newest jobs: unfinished ones through their lanes, all others by a scan of Redis's keys.

    Raises:
        InvalidRequestError: ``state`` is not the name of a state, or ``limit`` is out of range.
    """
    wanted = check_state(state)
    seen = yield from _unfinished(keys, check_limit(limit, MAX_LISTED_JOBS))
    is_complete = yield from _scan(keys, seen.ids)
    best = _Best(limit=limit, state=wanted)
    ids = sorted(seen.ids)
    for start in range(0, len(ids), RECORDS_PAGE):
        page = ids[start : start + RECORDS_PAGE]
        asked: list[Command] = [("HMGET", keys.job(job_id), *records.STATUS_FIELDS) for job_id in page]
        best.add(page, (yield RoundTrip(asked, keeps_errors=True)))
    return JobList(
        jobs=tuple(best.jobs),
        n_found=best.n_found,
        n_unreadable=best.n_unreadable,
        is_complete=is_complete,
        at_s=seen.at_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Ids that may be those of jobs."""

    at_s: float
    ids: set[str]


@dataclass(slots=True, kw_only=True)
class _Best:
    """The newest jobs among those that were read."""

    limit: int
    state: JobState | None
    jobs: list[JobStatus] = field(default_factory=list)
    n_found: int = 0
    n_unreadable: int = 0

    def add(self, ids: Sequence[str], replies: Sequence[Any]) -> None:
        """Add the jobs of a page of records."""
        found = [*self.jobs]
        for job_id, values in zip(ids, replies, strict=True):
            if isinstance(values, list) and values[0] is None:  # the job has expired or was deleted meanwhile
                continue
            status = _read(job_id, values)
            if status is None:
                self.n_unreadable += 1
            elif self.state in (None, status.state):
                self.n_found += 1
                found.append(status)
        self.jobs = heapq.nlargest(self.limit, found, key=lambda status: (status.submitted_at_s, status.job_id))


def _read(job_id: str, values: Any) -> JobStatus | None:
    try:
        return records.read_status(job_id, values) if isinstance(values, list) else None
    except MessageError:
        return None


def _unfinished(keys: Keyspace, limit: int) -> Flow[_Seen]:
    """Read the newest unfinished jobs of each lane."""
    used, now = yield RoundTrip([("SMEMBERS", keys.lanes), ("TIME",)])
    lanes = [name.rpartition(" ") for name in readable(read_name, islice(used, MAX_LANES), "lane")]
    ids: set[str] = set()
    for model, _, lane in lanes:
        if lane in LANES and len(ids) < MAX_LISTED_JOBS:
            asked = ("ZREVRANGE", keys.active(model, lane), 0, limit - 1)
            (members,) = yield RoundTrip([asked], keeps_errors=True)
            _note(ids, members if isinstance(members, list) else [])
    return _Seen(at_s=int(now[0]) + int(now[1]) / 1e6, ids=ids)


def _scan(keys: Keyspace, ids: set[str]) -> Flow[bool]:
    """Add the ids of records found by a scan of the keys; return whether all keys were scanned."""
    cursor: Any = "0"
    for _ in range(MAX_PAGES):
        asked = ("SCAN", cursor, "MATCH", f"{keys.job_prefix}*", "COUNT", SCAN_PAGE, "TYPE", "hash")
        (reply,) = yield RoundTrip([asked], keeps_errors=True)
        if isinstance(reply, Exception):  # this user may not SCAN
            return False
        cursor, names = reply
        _note(ids, (name[len(keys.job_prefix) :] for name in names))
        if cursor in (b"0", "0", 0):
            return True
        if len(ids) >= MAX_LISTED_JOBS:
            break
    return False


def _note(ids: set[str], names: Any) -> None:
    """Add the names that can be a job's id, which a job's other keys cannot."""
    for name in names:
        if len(ids) >= MAX_LISTED_JOBS:
            return
        job_id = name.decode("ascii", "replace")
        if is_job_id(job_id):
            ids.add(job_id)
