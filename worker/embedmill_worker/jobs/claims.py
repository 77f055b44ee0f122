"""A chunk's life in the hands of workers: the flows of claim, commit, release and recovery."""

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

#: Job, chunk and ring: a number of microseconds.
_TOKEN: Final = re.compile(r"([^:]*):([0-9]{1,9}):[0-9]{1,20}")

#: Chunk, position in it if a text was alone, and whether a loss is counted.
_CRASH_FIELD: Final = re.compile(rb"(\d{1,9})(?::(\d{1,9}))?(:lost)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRef:
    """Names a chunk, and the ring of its doorbell."""

    job_id: str
    chunk: int
    model: str
    lane: str
    #: The Celery task's id: ``job:chunk:ring``.
    token: str


@dataclass(frozen=True, slots=True)
class Work:
    """The chunk is ours: embed it."""

    texts: bytes = field(repr=False)
    options: bytes
    waited_ms: float
    #: Workers lost and children killed under this chunk so far, while no text was alone.
    losses: int = 0
    #: Crashes seen under this chunk so far.
    crashes: int = 0
    #: By position in the chunk: crashes and losses while a text was alone.
    crashes_alone: Mapping[int, int] = field(default_factory=dict)
    losses_alone: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_suspect(self) -> bool:
        """Whether something has gone wrong under it: then its texts are embedded one by one."""
        return bool(self.losses or self.crashes or self.crashes_alone or self.losses_alone)


@dataclass(frozen=True, slots=True)
class Late:
    """The chunk is ours, but its deadline has passed: reject its texts."""

    texts: bytes = field(repr=False)
    options: bytes
    #: Since submission.
    waited_ms: float
    #: From submission on.
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class OtherFingerprint:
    """The job is pinned to vectors of another fingerprint."""

    pinned: str
    texts: bytes = field(repr=False)
    options: bytes


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """The record speaks another protocol version."""

    version: str


@dataclass(frozen=True, slots=True)
class NotOurs:
    """Nothing to do: ``over`` (committed, cancelled or gone) or ``held`` by a live worker."""

    why: str


Claim = Work | Late | OtherFingerprint | OtherVersion | NotOurs


def claim(keys: Keyspace, ref: ChunkRef, worker_id: str, fingerprint: str) -> Flow[Claim]:
    """Take a chunk."""
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
    """Store a reply and the dead letters of its texts. Gives False if they were not wanted any more."""
    commit_keys = (*keys.of_job(ref.job_id, ref.model, ref.lane), keys.dead)
    bounds = (MAX_DEAD_LETTERS, DEAD_LETTER_TTL_S * 1000)
    (outcome,) = yield RoundTrip([evalsha("commit", commit_keys, ref.chunk, reply, ref.token, *bounds, *letters)])
    return bool(outcome == b"committed")


def note_position(keys: Keyspace, ref: ChunkRef, position: int | None) -> Flow[bool]:
    """Note which text of the chunk is embedded alone now, so that a crash can be laid to it; None: none any more.

    Gives False if the claim does not stand any more: the job was cancelled or deleted, or somebody else has the chunk.
    """
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    (stands,) = yield RoundTrip([evalsha("note", job_keys, ref.chunk, ref.token, "" if position is None else position)])
    return bool(stands)


def release(keys: Keyspace, token: str, *, was_killed: bool = False) -> Flow[bool]:
    """A child died under the doorbell ``token``: count the crash, or the loss if it was killed, and ring again."""
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
    """Give a claim back as if it had not been taken: Redis refuses what would be written for it."""
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    (given,) = yield RoundTrip([evalsha("unclaim", job_keys, ref.chunk, ref.token)])
    return bool(given)


def ring_again(keys: Keyspace, ref: ChunkRef, seen: str, *, how: str) -> Command:
    """Return the call that rings a chunk nobody works on, if its claim is still ``seen``; how: reclaim or abandon."""
    return evalsha(how, keys.of_job(ref.job_id, ref.model, ref.lane), ref.chunk, seen.encode("latin-1"))


def parse_token(token: str) -> tuple[str, int] | None:
    """Return job id and chunk of a doorbell's id, None for any other task's."""
    match = _TOKEN.fullmatch(token)
    return (match[1], int(match[2])) if match else None


def _label(value: bytes) -> str:
    """Return what a job's record says as a name of bounded length: it goes into logs and replies."""
    return printable(value[: 4 * MAX_LABEL_CHARS].decode(errors="replace"), limit=MAX_LABEL_CHARS)


def crash_counts(chunk: int, flat: list[Any]) -> dict[str, Any]:
    """Pick this chunk's counts from the job's crash hash, as ``lua/release.lua`` writes it; others count nothing."""
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
