"""The flow that stores a job in Redis: it asks for room, stages the texts and makes the job visible atomically."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from embedmill.errors import JobConflictError, JobTooLargeError, KeyConflictError, MessageError, QueueFullError
from embedmill.jobs.request import JobRequest
from embedmill.limits import MAX_QUEUED_TOKENS, MEMORY_SHARES
from embedmill.protocol.chunks import weigh_chunk
from embedmill.protocol.codec import read_count
from embedmill.protocol.keys import Keyspace
from embedmill.transport.flow import Command, Flow, RoundTrip, Sleep, evalsha

#: Bytes of staged chunks per round trip, so that no job occupies Redis or a socket for long.
STAGE_BYTES: Final = 4 << 20

#: Seconds that staged texts live before they are submitted.
STAGED_TTL_S: Final = 600

#: Packed size in bytes from which a job asks for room before it sends its texts.
ASK_FIRST_BYTES: Final = 256 << 10

#: Shortest and longest pause in seconds between two attempts of a job that waits for room.
SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0

#: Pause in seconds when it is not known when there will be room.
USUAL_PAUSE_S: Final = 1.0

#: Largest ``retry_after_s`` of a QueueFullError.
LONGEST_RETRY_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The limits by which a client's jobs are admitted to Redis."""

    #: Tokens of one tenant that may wait in a lane; 0: no limit.
    max_queued_tokens: int = MAX_QUEUED_TOKENS
    #: Throughput of the live workers by their model's card, used until it has been measured; 0 without workers.
    expected_tokens_per_s: float = 0.0


def submit(keys: Keyspace, request: JobRequest, admission: Admission, *, block_until_s: float = 0.0) -> Flow[int]:
    """Stage a job's texts, then make the job visible atomically; return the other tokens that wait in a bulk lane.

    Args:
        keys: the keys of the namespace.
        request: the job.
        admission: how much may be queued.
        block_until_s: time on the monotonic clock until which to wait for room; 0: do not wait.

    Raises:
        JobConflictError: the id is taken by other content.
        JobTooLargeError: even an empty Redis would not have room for the job.
        QueueFullError: the queue has no room now; nothing of the job stays in Redis.
    """
    asks_first = request.n_bytes > ASK_FIRST_BYTES
    while True:
        try:
            return (yield from _submit(keys, request, admission, asks_first=asks_first))
        except QueueFullError as full:
            asks_first = True
            left_s = block_until_s - time.monotonic()
            if left_s <= 0:
                raise
            wanted_s = USUAL_PAUSE_S if full.retry_after_s is None else full.retry_after_s
            yield Sleep(min(max(wanted_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S, left_s))


def _submit(keys: Keyspace, request: JobRequest, admission: Admission, *, asks_first: bool) -> Flow[int]:
    if asks_first:
        look = _evalsha(keys, request, admission, "none", unstaged_bytes=max(1, request.n_bytes))
        (outcome,) = yield RoundTrip([look])
        if _is_settled(keys, request, admission, outcome):
            return 0
    for _ in range(3):
        outcome, waiting_tokens = yield from _stage(keys, request, admission)
        if _is_settled(keys, request, admission, outcome):
            return waiting_tokens
    evicted = (
        f"it lost texts of job {request.job_id} three times while they were being stored; "
        "its maxmemory-policy must be noeviction"
    )
    raise QueueFullError("Redis", 0, 0, evicted)


def _stage(keys: Keyspace, request: JobRequest, admission: Admission) -> Flow[tuple[Any, int]]:
    nonce = secrets.token_hex(8)
    try:
        return (yield from _send(keys, request, admission, nonce))
    except (QueueFullError, KeyConflictError):  # staged texts must not fill Redis until they expire
        yield RoundTrip([("UNLINK", keys.staged(request.job_id, nonce))])
        raise


def _send(keys: Keyspace, request: JobRequest, admission: Admission, nonce: str) -> Flow[tuple[Any, int]]:
    staged = keys.staged(request.job_id, nonce)
    commands: list[Command] = []
    size = 0
    for chunk, (payload, weight) in enumerate(zip(request.payloads, request.weights, strict=True)):
        commands.append(("HSET", staged, chunk, weigh_chunk(payload, *weight)))
        if chunk == 0:  # set the expiry first, so that nothing stays if the connection breaks later
            commands.append(("EXPIRE", staged, STAGED_TTL_S))
        size += len(payload)
        if size > STAGE_BYTES:
            yield RoundTrip(commands)
            commands, size = [], 0
    commands.append(_evalsha(keys, request, admission, nonce, unstaged_bytes=0))
    if request.lane == "interactive":  # its chunks do not depend on what waits
        return (yield RoundTrip(commands))[-1], 0
    commands.append(("HGET", keys.lane(request.model, request.lane), "tokens"))
    *_, outcome, tokens = yield RoundTrip(commands)
    own = sum(weight for _, weight in request.weights)
    try:
        return outcome, max(0, read_count(tokens or b"0", (1 << 53) - 1) - own)
    except MessageError:  # the reconciler puts it right
        return outcome, 0


def _evalsha(keys: Keyspace, request: JobRequest, admission: Admission, nonce: str, *, unstaged_bytes: int) -> Command:
    job_keys = keys.of_job(request.job_id, request.model, request.lane, request.tenant)
    limits = (admission.max_queued_tokens, MEMORY_SHARES[request.lane], unstaged_bytes)
    return evalsha("submit", (*job_keys, keys.staged(request.job_id, nonce)), *limits, *request.record())


def _is_settled(keys: Keyspace, request: JobRequest, admission: Admission, outcome: Any) -> bool:
    """Return whether the job is in Redis; raise the error if it was refused."""
    match outcome:
        case b"submitted" | b"same":
            return True
        case b"conflict":
            raise JobConflictError(request.job_id)
        case list():
            raise _refusal(keys.queue(request.model, request.lane), request, admission, outcome)
    return False


def _refusal(
    queue: str, request: JobRequest, admission: Admission, outcome: Sequence[Any]
) -> QueueFullError | JobTooLargeError:
    unit, (taken, limit, asked, waiting) = outcome[0].decode(), map(int, outcome[1:5])
    if unit == "bytes" and asked > limit:
        share = MEMORY_SHARES[request.lane]
        hint = (
            f"the limit is {share:.0%} of Redis's maxmemory, and vectors count too: "
            "submit smaller jobs, or give Redis more memory"
        )
        return JobTooLargeError(asked, limit, hint)
    rate = float(outcome[5]) or admission.expected_tokens_per_s
    # The tokens by which the lane must shrink. Memory becomes free only when what waits is embedded and fetched. If
    # nothing waits, it holds replies, and it is not known when they will be fetched.
    excess = waiting + asked - limit if unit == "tokens" else waiting
    retry_after_s = min(LONGEST_RETRY_S, max(SHORTEST_PAUSE_S, excess / rate)) if rate and excess > 0 else None
    return QueueFullError(queue if unit == "tokens" else "Redis", taken, limit, unit, retry_after_s)
