"""Flows with which workers claim, commit and give back chunks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import MessageError, QueueError
from embedmill.limits import DEAD_LETTER_TTL_S, MAX_DEAD_LETTERS, MAX_JOB_TEXTS
from embedmill.protocol.chunks import without_weight
from embedmill.protocol.codec import MAX_LABEL_CHARS, read_count, read_name
from embedmill.protocol.keys import Keyspace
from embedmill.safe.printable import printable
from embedmill.transport.flow import Command, Flow, RoundTrip, evalsha

#: Bytes of a reply from which it is stored by a command of its own. Lua would copy it twice, which takes the server
#: more time than all else that a commit does.
LARGE_REPLY_BYTES: Final = 16 << 10

#: Time of ringing in microseconds, and number among the lane's doorbells.
_TOKEN: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,16}")

#: Field of the crash hash: chunk, the text's position if it was embedded alone, ``:lost`` if losses are counted.
_CRASH_FIELD: Final = re.compile(rb"(\d{1,9})(?::(\d{1,9}))?(:lost)?")

#: What ``held`` says of a token; see ``lua/claim.lua``.
_HELD: Final = re.compile(rb"(\S+) (\d{1,9}) \d+ (\d{1,10}) (\d{1,20}) (\S+) \d+ (\S+) (\S+) (\S*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """A doorbell: a lane has work. Its token names the chunk that is claimed by it."""

    model: str
    lane: str
    #: The Celery task's id.
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRef:
    """Name of a chunk, and the token under which it is held."""

    job_id: str
    #: When the job was submitted, which no later one of its id shares.
    born: str
    chunk: int
    tenant: str
    model: str
    lane: str
    token: str

    def keys(self, keys: Keyspace) -> tuple[str, ...]:
        """Return the KEYS of the scripts of its job."""
        return keys.of_job(self.job_id, self.model, self.lane, self.tenant)

    def __str__(self) -> str:
        return f"{self.job_id}:{self.chunk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How workers share a lane between tenants."""

    #: Tenant → how many tenants' share it has; others have one.
    weights: Mapping[str, float] = field(default_factory=dict)
    #: Tokens that a tenant may have under work, also if nobody else waits; one more chunk may pass it. 0: any number.
    max_flight: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """A granted claim: embed the chunk."""

    ref: ChunkRef
    texts: bytes = field(repr=False)
    options: bytes
    waited_ms: float
    #: Seconds that the chunk may take; 0: not known.
    limit_s: float = 0.0
    #: Chunks of the lane that waited when this one was claimed.
    n_open: int = 0
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

    ref: ChunkRef
    texts: bytes = field(repr=False)
    options: bytes
    #: Milliseconds since submission.
    waited_ms: float
    #: Milliseconds allowed after submission.
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class OtherFingerprint:
    """A refused claim: the jobs that were looked at are pinned to another fingerprint."""

    #: A printable name of it, and the bytes in the job's record, which anybody may have written.
    pinned: str
    raw: bytes = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A claim that found no work."""


Claim = Work | Late | OtherFingerprint | Nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A chunk that a worker holds."""

    ref: ChunkRef
    worker: str
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims the next chunk of a lane."""

    bell: Bell
    worker_id: str
    #: The fingerprint that it serves.
    fingerprint: str | bytes
    policy: Policy = field(default_factory=Policy)
    #: Whether it wants only jobs that are pinned to the fingerprint.
    wants_pinned: bool = False
    #: Queues that go first: nothing is claimed while one of them has a message.
    yields_to: tuple[str, ...] = ()

    def command(self, keys: Keyspace) -> Command:
        """Return the command that claims."""
        bell, policy = self.bell, self.policy
        of_lane = (bell.model, bell.lane)
        lane_keys = (keys.held, *(name(*of_lane) for name in (keys.lane, keys.queue, keys.turns, keys.flights)))
        names = (bell.token, self.worker_id, self.fingerprint, *of_lane, keys.job_prefix, keys.ring_prefix(*of_lane))
        weights = (part for pair in policy.weights.items() for part in pair)
        limits = (os.getpid(), policy.max_flight, int(self.wants_pinned))
        return evalsha("claim", (*lane_keys, *self.yields_to), *names, *limits, *weights)


def claim(keys: Keyspace, claimant: Claimant) -> Flow[Claim]:
    """Claim the next chunk of a lane."""
    (answer,) = yield RoundTrip([claimant.command(keys)])
    return _read_claim(claimant.bell, answer)


def _read_following(bell: Bell, answer: Any) -> Claim:
    """Read a claim that follows a commit; what went wrong with it shows at the next one, and hides no commit."""
    return Nothing() if isinstance(answer, Exception) else _read_claim(bell, answer)


def _read_claim(bell: Bell, answer: Sequence[Any]) -> Claim:
    what, *rest = answer
    if what == b"other":
        return OtherFingerprint(_label(rest[0]), rest[0])
    if what not in (b"work", b"late"):
        return Nothing()
    chunk = int(rest[1])
    ref = ChunkRef(
        job_id=rest[0].decode(errors="replace"),
        born=rest[7 if what == b"late" else 9].decode(errors="replace"),
        chunk=chunk,
        tenant=rest[2].decode(errors="replace"),
        model=bell.model,
        lane=bell.lane,
        token=bell.token,
    )
    texts, options, waited_ms = without_weight(rest[3]), rest[4], float(rest[5])
    if what == b"late":
        return Late(ref, texts, options, waited_ms, float(rest[6]))
    return Work(ref, texts, options, waited_ms, _seconds(rest[6]), int(rest[8]), **crash_counts(chunk, rest[7]))


def commit(
    keys: Keyspace, ref: ChunkRef, reply: bytes, letters: Sequence[bytes] = (), *, max_flight: int = 0
) -> Flow[bool]:
    """Store a reply and the dead letters of its texts; return False if the claim no longer stands."""
    is_wanted, _ = yield from _commit(keys, ref, reply, letters, max_flight=max_flight)
    return is_wanted


def commit_and_claim(
    keys: Keyspace, ref: ChunkRef, reply: bytes, letters: Sequence[bytes], claimant: Claimant
) -> Flow[tuple[bool, Claim]]:
    """Do as ``commit``, and claim the next chunk by the same doorbell in the same round trip.

    If the answer is lost, both may be sent again: the token then names the next chunk, the commit of the first one is
    refused without harm, and the claim gives the next one again.
    """
    command, max_flight = claimant.command(keys), claimant.policy.max_flight
    is_wanted, (answer,) = yield from _commit(keys, ref, reply, letters, max_flight=max_flight, following=[command])
    following = _read_following(claimant.bell, answer)
    if isinstance(following, Work | Late) and following.ref == ref:  # it was answered before the commit
        try:
            (answer,) = yield RoundTrip([command], keeps_errors=True)
        except QueueError:
            return is_wanted, Nothing()
        following = _read_following(claimant.bell, answer)
    return is_wanted, following


def _commit(
    keys: Keyspace,
    ref: ChunkRef,
    reply: bytes,
    letters: Sequence[bytes],
    *,
    max_flight: int,
    following: Sequence[Command] = (),
) -> Flow[tuple[bool, Sequence[Any]]]:
    """Commit, and return whether that was wanted and the answers to the commands that follow."""
    job_keys, bounds = (*ref.keys(keys), keys.dead), (max_flight, MAX_DEAD_LETTERS, DEAD_LETTER_TTL_S * 1000)

    def command(sent: bytes) -> Command:
        return evalsha("commit", job_keys, ref.token, ref.chunk, ref.born, sent, *bounds, *letters)

    if len(reply) >= LARGE_REPLY_BYTES:
        store = ("HSETNX", keys.replies(ref.job_id), ref.chunk, reply)
        commands = [("MULTI",), store, command(b""), ("EXEC",), *following]
        _, _, _, done, *answers = yield RoundTrip(commands, keeps_errors=True)
        if isinstance(done, list) and done[1] in (b"committed", b"duplicate", b"over"):
            return done[1] == b"committed", answers
    # A full Redis refuses HSETNX, but not a script that frees; one that has lost its scripts gets them here.
    outcome, *answers = yield RoundTrip([command(reply), *following], keeps_errors=True)
    if isinstance(outcome, Exception):
        (outcome,) = yield RoundTrip([command(reply)])  # raises it in the transport's words
    return outcome == b"committed", answers


def note_position(keys: Keyspace, ref: ChunkRef, position: int | None) -> Flow[bool]:
    """Record which text of the chunk is embedded alone now, so that a crash is counted against it; None: no text is.

    Returns:
        False if the claim no longer stands: the job was cancelled or deleted, or the chunk was given back.
    """
    (stands,) = yield RoundTrip(
        [evalsha("note", ref.keys(keys), ref.token, "" if position is None else position, ref.chunk, ref.born)]
    )
    return bool(stands)


def give_back(keys: Keyspace, ref: ChunkRef, why: str) -> Command:
    """Return the command that makes a held chunk the next one of its lane; why: see ``lua/give_back.lua``."""
    return evalsha("give_back", ref.keys(keys), ref.token, why, ref.chunk, ref.born)


def give_back_token(keys: Keyspace, token: str, why: str) -> Flow[ChunkRef | None]:
    """Return to its lane the chunk that a token holds; return None if it holds none, or its job is over."""
    if not is_token(token):
        return None
    (entry,) = yield RoundTrip([("HGET", keys.held, token)])
    held = read_held(token.encode(), entry or b"")
    if held is None:
        return None
    (is_waiting,) = yield RoundTrip([give_back(keys, held.ref, why)])
    return held.ref if is_waiting else None


def is_token(value: str) -> bool:
    """Return whether a Celery task's id is that of a doorbell."""
    return _TOKEN.fullmatch(value) is not None


def read_held(token: bytes, entry: bytes) -> Held | None:
    """Read what ``held`` says of a token; None: no script has written that."""
    match = _HELD.fullmatch(entry)
    if match is None or not is_token(token.decode(errors="replace")):
        return None
    try:
        job_id, model, lane, tenant, worker = (read_name(match[number]) for number in (1, 6, 7, 8, 5))
        chunk = read_count(match[2], MAX_JOB_TEXTS)
    except MessageError:
        return None
    ref = ChunkRef(
        job_id=job_id,
        born=match[4].decode(),
        chunk=chunk,
        tenant=tenant,
        model=model,
        lane=lane,
        token=token.decode(),
    )
    return Held(ref=ref, worker=worker, n_tokens=int(match[3]))


def _label(value: bytes) -> str:
    """Return a value of a job's record as a printable name of bounded length, for logs and replies."""
    return printable(value[: 4 * MAX_LABEL_CHARS].decode(errors="replace"), limit=MAX_LABEL_CHARS)


def _seconds(value: bytes) -> float:
    return float(value) if re.fullmatch(rb"\d{1,5}(\.\d{1,3})?", value) else 0.0


def crash_counts(chunk: int, flat: list[Any]) -> dict[str, Any]:
    """Return this chunk's counts from the job's crash hash as ``lua/give_back.lua`` writes it; skip invalid fields."""
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
