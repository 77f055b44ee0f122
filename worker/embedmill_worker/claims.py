"""A chunk's life in the hands of workers: the flows of claim, commit, release and recovery."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedmill.flows import Ask, Flow, evalsha
from embedmill.keys import Keyspace
from embedmill.protocol import PROTOCOL_VERSION


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

    texts: bytes
    options: bytes
    waited_ms: float
    #: Workers lost under this chunk so far.
    losses: int
    #: Crashes seen under this chunk so far, and by position in it when a text was alone.
    crashes: int = 0
    crashes_alone: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Late:
    """The chunk is ours, but its deadline has passed: reject its texts."""

    texts: bytes
    options: bytes


@dataclass(frozen=True, slots=True)
class OtherFingerprint:
    """The job is pinned to vectors of another fingerprint."""

    pinned: str
    texts: bytes
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
    ((what, *rest),) = yield Ask([evalsha("claim", job_keys, *args)])
    match what:
        case b"work":
            crashes, alone = _crashes(ref.chunk, rest[4])
            return Work(rest[0], rest[1], float(rest[2]), int(rest[3]), crashes, alone)
        case b"late":
            return Late(rest[0], rest[1])
        case b"fingerprint":
            return OtherFingerprint(rest[0].decode(), rest[1], rest[2])
        case b"version":
            return OtherVersion((rest[0] or b"").decode(errors="replace"))
    return NotOurs(what.decode())


def commit(keys: Keyspace, ref: ChunkRef, reply: bytes) -> Flow[bool]:
    """Store a reply. Gives False if it was not wanted any more."""
    job_keys = keys.of_job(ref.job_id, ref.model, ref.lane)
    (outcome,) = yield Ask([evalsha("commit", job_keys, ref.chunk, reply, ref.token)])
    return bool(outcome == b"committed")


def note_position(keys: Keyspace, ref: ChunkRef, position: int) -> Flow[None]:
    """Note which text of the chunk is embedded alone now, so that a crash can be laid to it."""
    yield Ask([evalsha("note", keys.of_job(ref.job_id, ref.model, ref.lane), ref.chunk, ref.token, position)])


def release(keys: Keyspace, token: str) -> Flow[bool]:
    """A child died or was stopped under the doorbell ``token``: count the crash and ring again."""
    parsed = parse_token(token)
    if parsed is None:
        return False
    job_id, chunk = parsed
    (found,) = yield Ask([("HMGET", keys.job(job_id), "model", "lane")])
    if found[0] is None:
        return False
    job_keys = keys.of_job(job_id, found[0].decode(), found[1].decode())
    (rung,) = yield Ask([evalsha("release", job_keys, chunk, token)])
    return bool(rung)


def ring_again(keys: Keyspace, ref: ChunkRef, seen: str, *, how: str) -> Flow[bool]:
    """Ring a chunk that nobody works on, if its claim is still ``seen``; how: ``reclaim`` or ``abandon``."""
    (rung,) = yield Ask([evalsha(how, keys.of_job(ref.job_id, ref.model, ref.lane), ref.chunk, seen)])
    return bool(rung)


def parse_token(token: str) -> tuple[str, int] | None:
    """Give job id and chunk of a doorbell's id, None for any other task's."""
    parts = token.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts[1:]):
        return None
    return parts[0], int(parts[1])


def _crashes(chunk: int, flat: list[Any]) -> tuple[int, dict[int, int]]:
    """Pick this chunk's counts from the job's crash hash: «chunk» and «chunk:position»."""
    total, alone = 0, {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        number, _, position = name.decode().partition(":")
        if int(number) != chunk:
            continue
        if not position:
            total = int(value)
        elif position.isdecimal():
            alone[int(position)] = int(value)
    return total, alone
