"""Flows with which workers claim, commit, release and recover chunks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import MessageError
from embedmill.limits import DEAD_LETTER_TTL_S, MAX_DEAD_LETTERS
from embedmill.protocol.codec import MAX_LABEL_CHARS, read_count, read_name
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.safe.printable import printable
from embedmill.transport.flow import Command, Flow, RoundTrip, evalsha

#: Job, chunk and the doorbell's time in microseconds.
_TOKEN: Final = re.compile(r"([^:]*):([0-9]{1,9}):[0-9]{1,20}")

#: Field of the crash hash: chunk, the text's position if it was embedded alone, ``:lost`` if losses are counted.
_CRASH_FIELD: Final = re.compile(rb"(\d{1,9})(?::(\d{1,9}))?(:lost)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRef:
    """Name of a chunk, and the task id of its doorbell."""

    job_id: str
    chunk: int
    model: str
    lane: str
    #: The Celery task's id: ``job:chunk:ring``, where ring is a time in microseconds.
    token: str


@dataclass(frozen=True, slots=True)
class Work:
    """A granted claim: embed the chunk."""

    texts: bytes = field(repr=False)
    options: bytes
    waited_ms: float
    #: Workers lost and children killed so far while they embedded the chunk's texts together.
    losses: int = 0
    #: Crashes so far, of children that did so.
    crashes: int = 0
    #: Position in the chunk → crashes, and losses, while that text was embedded alone.
    crashes_alone: Mapping[int, int] = field(default_factory=dict)
    losses_alone: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_suspect(self) -> bool:
        """Whether an earlier attempt failed; then the chunk's texts are embedded one by one."""
        return bool(self.losses or self.crashes or self.crashes_alone or self.losses_alone)


@dataclass(frozen=True, slots=True)
class Late:
    """A granted claim whose deadline has passed: reject the chunk's texts."""

    texts: bytes = field(repr=False)
    options: bytes
    #: Milliseconds since submission.
    waited_ms: float
    #: Milliseconds allowed after submission.
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class OtherFingerprint:
    """A refused claim: the job is pinned to another fingerprint."""

    pinned: str
    texts: bytes = field(repr=False)
    options: bytes


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """A refused claim: the job's record has another protocol version."""

    version: str


@dataclass(frozen=True, slots=True)
class NotOurs:
    """A refused claim: the chunk is ``over`` (committed, cancelled or gone) or ``held`` by a live worker."""

    why: str


Claim = Work | Late | OtherFingerprint | OtherVersion | NotOurs


def claim(keys: Keyspace, ref: ChunkRef, worker_id: str, fingerprint: str) -> Flow[Claim]:
    """Claim a chunk."""
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    args = (ref.chunk, worker_id, ref.token, fingerprint, keys.worker_prefix, PROTOCOL_VERSION, os.getpid())
    ((what, *rest),) = yield RoundTrip([evalsha("claim", job_keys, *args)])
    rest = [b"" if value is None else value for value in rest]
    match what:
        case b"work":
            return Work(rest[0], rest[1], float(rest[2]), **crash_counts(ref.chunk, rest[3]))
        case b"late":
            return Late(rest[0], rest[1], float(rest[2]), float(rest[3]))
        case b"fingerprint":
            return OtherFingerprint(_label(rest[0]), rest[1], rest[2])
        case b"version":
            return OtherVersion(_label(rest[0]))
    return NotOurs(_label(what))


def commit(keys: Keyspace, ref: ChunkRef, reply: bytes, letters: Sequence[bytes] = ()) -> Flow[bool]:
    """Store a reply and the dead letters of its texts; return False if the claim no longer stands."""
    commit_keys = (*keys.of_job(ref.job_id, ref.model, ref.lane), keys.dead)
    bounds = (MAX_DEAD_LETTERS, DEAD_LETTER_TTL_S * 1000)
    (outcome,) = yield RoundTrip([evalsha("commit", commit_keys, ref.chunk, reply, ref.token, *bounds, *letters)])
    return bool(outcome == b"committed")


def note_position(keys: Keyspace, ref: ChunkRef, position: int | None) -> Flow[bool]:
    """Record which text of the chunk is embedded alone now, so that a crash is counted against it; None: no text is.

    Returns:
        False if the claim no longer stands: the job was cancelled or deleted, or another worker has the chunk.
    """
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    (stands,) = yield RoundTrip([evalsha("note", job_keys, ref.chunk, ref.token, "" if position is None else position)])
    return bool(stands)


def release(keys: Keyspace, token: str, *, was_killed: bool = False) -> Flow[bool]:
    """Re-queue the chunk of doorbell ``token``, whose child died; count a crash, or a loss if the child was killed."""
    parsed = parse_token(token)
    if parsed is None:
        return False
    job_id, chunk = parsed
    (found,) = yield RoundTrip([("HMGET", keys.job(job_id), "model", "lane")])
    if found[0] is None:
        return False
    job_keys = keys.of_job(job_id, read_name(found[0]), read_name(found[1]))
    (rung,) = yield RoundTrip([evalsha("release", job_keys, chunk, token, "killed" if was_killed else "crashed")])
    return bool(rung)


def give_back(keys: Keyspace, ref: ChunkRef) -> Flow[bool]:
    """Undo a claim as if it had not been taken, because Redis refuses to store its reply."""
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    (given,) = yield RoundTrip([evalsha("unclaim", job_keys, ref.chunk, ref.token)])
    return bool(given)


def ring_again(keys: Keyspace, ref: ChunkRef, seen: str, *, how: str) -> Command:
    """Return the command that re-queues a chunk if its claim is still ``seen``; how: ``reclaim`` or ``abandon``."""
    return evalsha(how, keys.of_job(ref.job_id, ref.model, ref.lane), ref.chunk, seen.encode("latin-1"))


def parse_token(token: str) -> tuple[str, int] | None:
    """Return the job id and chunk in a doorbell's task id; None for the id of another task."""
    match = _TOKEN.fullmatch(token)
    return (match[1], int(match[2])) if match else None


def _label(value: bytes) -> str:
    """Return a value of a job's record as a printable name of bounded length, for logs and replies."""
    return printable(value[: 4 * MAX_LABEL_CHARS].decode(errors="replace"), limit=MAX_LABEL_CHARS)


def crash_counts(chunk: int, flat: list[Any]) -> dict[str, Any]:
    """Return this chunk's counts from the job's crash hash as ``lua/release.lua`` writes it; skip invalid fields."""
    counts: dict[str, Any] = {"crashes_alone": {}, "losses_alone": {}}
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        match, count = _CRASH_FIELD.fullmatch(name), _as_count(value)
        if match is None or count is None or int(match[1]) != chunk:
            continue
        position, is_lost = match[2], match[3]
        if position is None:
            counts["losses" if is_lost else "crashes"] = count
        else:
            counts["losses_alone" if is_lost else "crashes_alone"][int(position)] = count
    return counts


def _as_count(value: Any) -> int | None:
    try:
        return read_count(value, 1 << 31)
    except MessageError:
        return None
