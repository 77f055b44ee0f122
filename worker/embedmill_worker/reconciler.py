"""Finds work that was lost, whatever lost it: compares job records with queues, claims and live workers.

One worker at a time does it, under a lock. A chunk that is unfinished, not in its queue and under a dead claim is
rung again at once; one without a claim, or whose claimer's worker lives without working on it, in two sweeps running.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from embedmill import protocol, records
from embedmill.errors import MessageError, QueueError
from embedmill.flows import Ask, Flow, evalsha, look_around, readable, warn_once
from embedmill.keys import Keyspace
from embedmill.limits import MAX_JOB_TEXTS
from embedmill.workers import WorkerInfo
from embedmill_worker import claims
from embedmill_worker.claims import ChunkRef

log = logging.getLogger(__name__)

#: Seconds between two sweeps: longer than between two beats, so that a claim made after a beat is in the next one.
SWEEP_PERIOD_S: Final = 2.5

#: Seconds that the lock outlives its holder's last sweep.
LOCK_TTL_S: Final = 6.0

#: Jobs younger than this are not looked at: most are over by then.
YOUNG_JOB_S: Final = 2.0

#: Active jobs of a lane up to which its counters are compared with their records: Redis stands still meanwhile.
MAX_RECOUNTED_JOBS: Final = 2_000

#: Messages and jobs read in one round trip.
PAGE: Final = 500

_DOORBELL_ID: Final = re.compile(rb'"id": "([A-Za-z0-9._-]{1,128}):(\d{1,9}):\d+"')


@dataclass(frozen=True, slots=True)
class Lost:
    """A chunk to ring again, unless its claim is another one by then."""

    ref: ChunkRef
    #: "worker token pid", or "" for none.
    claim: str
    #: ``reclaim`` keeps the dead claim for the next claimer to count; ``abandon`` drops a live worker's.
    how: str


@dataclass(frozen=True, slots=True)
class OpenChunk:
    """A chunk that was rung and is not committed."""

    ref: ChunkRef
    claim: str


def judge(
    chunks: Iterable[OpenChunk],
    queued: set[tuple[str, int]],
    active: Mapping[str, frozenset[str]],
    suspects: set[tuple[str, int, str]],
) -> tuple[list[Lost], set[tuple[str, int, str]]]:
    """Decide which chunks are lost.

    Args:
        chunks: unfinished ones that were rung.
        queued: (job, chunk) of the doorbells in the queues.
        active: live worker's id → tokens it works on.
        suspects: what the sweep before suspected.

    Returns:
        The lost ones, and the suspects for the next sweep.
    """
    lost, next_suspects = [], set()
    for chunk in chunks:
        ref = chunk.ref
        if (ref.job_id, ref.chunk) in queued:
            continue
        worker, token, *_ = [*chunk.claim.split(" "), "", ""]
        if worker and worker not in active:
            lost.append(Lost(ref, chunk.claim, "reclaim"))
        elif not worker or token not in active[worker]:
            suspicion = (ref.job_id, ref.chunk, chunk.claim)
            if suspicion in suspects:
                lost.append(Lost(ref, chunk.claim, "abandon" if worker else "reclaim"))
            else:
                next_suspects.add(suspicion)
    return lost, next_suspects


class Reconciler:
    """One worker's part in reconciling: holds the suspects between sweeps."""

    def __init__(self, keys: Keyspace, worker_id: str) -> None:
        self._keys = keys
        self._worker_id = worker_id
        self._suspects: set[tuple[str, int, str]] = set()

    def sweep(self) -> Flow[int]:
        """Look once, if this worker holds the lock; gives the chunks rung again."""
        if not (yield from self._hold_lock()):
            self._suspects.clear()
            return 0
        landscape = yield from look_around(self._keys)
        active = {worker.worker_id: frozenset(worker.active) for worker in landscape.workers}
        yield from self._forget_dead(landscape.workers)
        (lanes,) = yield Ask([("SMEMBERS", self._keys.lanes)])
        queued: set[tuple[str, int]] = set()
        chunks: list[OpenChunk] = []
        for name in readable(records.read_name, lanes, "lane"):
            model, _, lane = name.rpartition(" ")
            try:
                # Queues before records: what is popped in between is found under its claim.
                yield from self._recount(model, lane)
                in_queue = yield from self._queued(self._keys.queue(model, lane))
                unfinished = yield from self._open_chunks(model, lane)
            except QueueError as error:  # Redis is away, or one key is not what it should be: others are looked at
                log.warning("lane %s is passed over: %s", name, error, extra={"action": "reconcile"})
                continue
            queued |= in_queue
            chunks += unfinished
        lost, self._suspects = judge(chunks, queued, active, self._suspects)
        rung = 0
        for start in range(0, len(lost), PAGE):
            again = [
                claims.ring_again(self._keys, chunk.ref, chunk.claim, how=chunk.how)
                for chunk in lost[start : start + PAGE]
            ]
            rung += sum(outcome == 1 for outcome in (yield Ask(again, keeps_errors=True)))
        if rung:
            log.warning("%d lost chunks were rung again", rung, extra={"action": "reconcile", "chunks": rung})
        return rung

    def _recount(self, model: str, lane: str) -> Flow[None]:
        """Put the lane's counters right and measure how fast it drains."""
        counted = (self._keys.lane(model, lane), self._keys.active(model, lane), self._keys.drain(model, lane))
        (was_wrong,) = yield Ask([evalsha("recount", counted, self._keys.job_prefix, MAX_RECOUNTED_JOBS)])
        if was_wrong:
            log.warning("the counters of %s %s were put right", model, lane, extra={"action": "recount"})

    def _hold_lock(self) -> Flow[bool]:
        lock_keys, ttl_ms = (self._keys.reconciler_lock,), int(LOCK_TTL_S * 1000)
        (held,) = yield Ask([evalsha("lock", lock_keys, self._worker_id, ttl_ms)])
        return bool(held)

    def _forget_dead(self, live: Iterable[WorkerInfo]) -> Flow[None]:
        (known,) = yield Ask([("ZRANGE", self._keys.workers, 0, -1)])
        dead = set(known) - {worker.worker_id.encode() for worker in live}
        if dead:
            yield Ask([("ZREM", self._keys.workers, *sorted(dead))])

    def _queued(self, queue: str) -> Flow[set[tuple[str, int]]]:
        found: set[tuple[str, int]] = set()
        start = 0
        while True:
            (messages,) = yield Ask([("LRANGE", queue, start, start + PAGE - 1)])
            for message in messages:
                if match := _DOORBELL_ID.search(message):
                    found.add((match[1].decode(), int(match[2])))
            if len(messages) < PAGE:
                return found
            start += PAGE

    def _open_chunks(self, model: str, lane: str) -> Flow[list[OpenChunk]]:
        """Read the chunks of this protocol version's jobs; workers of other versions look after theirs."""
        ((seconds, micros),) = yield Ask([("TIME",)])
        old_ms = int(seconds) * 1000 + int(micros) // 1000 - int(YOUNG_JOB_S * 1000)
        active = self._keys.active(model, lane)
        (members,) = yield Ask([("ZRANGEBYSCORE", active, "-inf", old_ms)])
        chunks: list[OpenChunk] = []
        for start in range(0, len(members), PAGE):
            ids = readable(records.read_name, members[start : start + PAGE], "job id")
            asked = [
                command
                for job_id in ids
                for command in (
                    ("HMGET", self._keys.job(job_id), "rung", "v"),
                    ("HKEYS", self._keys.texts(job_id)),
                    ("HGETALL", self._keys.claims(job_id)),
                )
            ]
            replies = (yield Ask(asked, keeps_errors=True)) if asked else []
            for i, job_id in enumerate(ids):
                if replies[3 * i] == [None, None]:  # the record expired
                    yield Ask([("ZREM", active, job_id)])
                    continue
                try:
                    of_job = _open_of_job(
                        ChunkRef(job_id=job_id, chunk=0, model=model, lane=lane, token=""), *replies[3 * i : 3 * i + 3]
                    )
                except MessageError as error:
                    warn_once(f"job {job_id} is passed over: {error}")
                    continue
                chunks += of_job
        return chunks


def _open_of_job(job: ChunkRef, record: Any, unfinished: Any, held: Any) -> list[OpenChunk]:
    """Give the chunks of a job, named by any of them, that were rung and are not committed."""
    if not all(isinstance(reply, list) for reply in (record, unfinished, held)):
        raise MessageError("its record, its texts or its claims are kept under a key of another type")
    rung, version = record
    if version != str(protocol.PROTOCOL_VERSION).encode():
        return []
    n_rung = records.read_count(rung, MAX_JOB_TEXTS)
    claimed = dict(zip(held[::2], held[1::2], strict=True))
    return [
        OpenChunk(replace(job, chunk=number), claimed.get(field, b"").decode(errors="replace"))
        for field in unfinished
        if (number := records.read_count(field, MAX_JOB_TEXTS)) < n_rung
    ]
