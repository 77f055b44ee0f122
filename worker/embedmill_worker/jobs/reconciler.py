"""Recovery of lost work: compares job records with queues, claims and live workers, and re-queues lost chunks.

One worker at a time does it, under a lock. An unfinished chunk that is not in its queue is re-queued at once if its
claim belongs to a dead worker. If it has no claim, or its worker is live but does not work on it, it is re-queued when
two sweeps in a row find it so.

A sweep reads queues and records in pages that take Redis a few milliseconds each, and rests between them. The memory
that it takes is bounded, however many chunks wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from embedmill.errors import KeyConflictError, MessageError
from embedmill.jobs.discovery import look_around, readable, warn_once
from embedmill.limits import MAX_JOB_TEXTS, MAX_WORKERS, RING_WINDOW
from embedmill.protocol import version
from embedmill.protocol.codec import read_count, read_name
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.transport.flow import Command, Flow, RoundTrip, Sleep, evalsha
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import ChunkRef

log = logging.getLogger(__name__)

#: Seconds between two sweeps: longer than between two beats, so that a claim made after a beat is in the next one.
SWEEP_PERIOD_S: Final = 2.5

#: Seconds that the lock outlives its holder's last page.
LOCK_TTL_S: Final = 6.0

#: Jobs per page, chunks checked in it, and messages per page of a queue. A page takes Redis about 1 ms.
JOBS_PAGE: Final = 100
CHUNKS_PAGE: Final = 1_000
MESSAGES_PAGE: Final = 300

#: Chunks re-queued in one round trip.
RING_PAGE: Final = 100

#: Rest after a page, as a multiple of the time that the page took, and its maximum in seconds. Redis and this worker's
#: main process have other work.
REST: Final = 3.0
LONGEST_REST_S: Final = 0.02

#: Chunks that a sweep remembers, 80 bytes each. A longer queue is compared in several parts.
MAX_MARKS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Lost:
    """A chunk to re-queue, unless its claim has changed meanwhile."""

    ref: ChunkRef
    #: "worker token pid", or "" for an unclaimed chunk; its bytes are decoded as Latin-1.
    claim: str
    #: ``reclaim`` keeps the dead claim for the next claimer to count; ``abandon`` drops a live worker's claim.
    how: str


@dataclass(frozen=True, slots=True)
class OpenChunk:
    """A chunk that was queued and is not committed."""

    ref: ChunkRef
    claim: str


class Marks:
    """A bounded set of tuples that keeps only their hashes, because most of them are never looked up."""

    def __init__(self, limit: int = MAX_MARKS) -> None:
        self._hashes: set[int] = set()
        self._limit = limit

    def __contains__(self, item: object) -> bool:
        return hash(item) in self._hashes

    def add(self, item: tuple[str | int, ...]) -> None:
        """Add an item, if there is room."""
        if len(self._hashes) < self._limit:
            self._hashes.add(hash(item))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of all chunks, chosen by their hash."""

    number: int
    of: int

    def __contains__(self, chunk: tuple[str, int]) -> bool:
        return hash(chunk) % self.of == self.number


def find_lost(
    chunks: Iterable[OpenChunk],
    queued: Container[tuple[str, int]],
    active: Mapping[str, frozenset[str]],
    suspects: Container[tuple[str, int, str]],
) -> tuple[list[Lost], set[tuple[str, int, str]]]:
    """Decide which chunks are lost.

    Args:
        chunks: unfinished chunks that were queued.
        queued: (job, chunk) of the doorbells in the queues.
        active: live worker's id → tokens that it works on.
        suspects: suspects of the previous sweep.

    Returns:
        The lost chunks, and the suspects for the next sweep.
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
    """The reconciler of one worker, which keeps the suspects between sweeps."""

    def __init__(self, keys: Keyspace, worker_id: str) -> None:
        self._keys = keys
        self._worker_id = worker_id
        self._active: dict[str, frozenset[str]] = {}
        self._served: frozenset[str] = frozenset()
        self._suspects = Marks()
        self._next_suspects = Marks()

    def sweep(self) -> Flow[int]:
        """Check every lane once, if this worker holds the lock; return the number of chunks re-queued."""
        (held,) = yield RoundTrip([self._lock()])
        rung = 0
        self._next_suspects = Marks()
        for model, lane in (yield from self._lanes()) if held else ():
            try:
                rung += yield from self._sweep_lane(model, lane)
                yield from self._retire(model, lane)
            except KeyConflictError as error:  # the other lanes are still checked
                log.warning(
                    "lane %s %s is passed over in this sweep: %s", model, lane, error, extra={"action": "reconcile"}
                )
        self._suspects = self._next_suspects
        if rung:
            log.warning("re-queued %d lost chunks", rung, extra={"action": "reconcile", "chunks": rung})
        return rung

    def _lock(self) -> Command:
        return evalsha("lock", (self._keys.reconciler_lock,), self._worker_id, int(LOCK_TTL_S * 1000))

    def _lanes(self) -> Flow[list[tuple[str, str]]]:
        """Return every lane that was used, and those of live workers' models in case that list is lost."""
        yield from self._look()
        yield from self._forget_dead()
        (used,) = yield RoundTrip([("SMEMBERS", self._keys.lanes)])
        named = (name.rpartition(" ") for name in readable(read_name, used, "lane"))
        pairs = {(model, lane) for model, _, lane in named} | {
            (model, lane) for model in self._served for lane in LANES
        }
        return sorted(pairs, key=lambda pair: (pair[1] != LANES[0], pair))

    def _look(self) -> Flow[None]:
        """Read what the live workers work on, and the models that they serve."""
        workers = (yield from look_around(self._keys)).workers
        self._active = {worker.worker_id: frozenset(worker.active) for worker in workers}
        self._served = frozenset(model for worker in workers for model in worker.models)

    def _forget_dead(self) -> Flow[None]:
        (known,) = yield RoundTrip([("ZRANGE", self._keys.workers, 0, MAX_WORKERS - 1)])
        dead = set(known) - {worker_id.encode() for worker_id in self._active}
        if dead:
            yield RoundTrip([("ZREM", self._keys.workers, *sorted(dead))])

    def _sweep_lane(self, model: str, lane: str) -> Flow[int]:
        queue = self._keys.queue(model, lane)
        (length,) = yield RoundTrip([("LLEN", queue)])
        n_parts = 1 + length // MAX_MARKS
        rung = 0
        for number in range(n_parts):
            part = Part(number=number, of=n_parts)
            # Read the queue before the records: a chunk popped in between is then found by its claim.
            queued = yield from self._queued(queue, part)
            rung += yield from self._compare(model, lane, part, queued)
        return rung

    def _retire(self, model: str, lane: str) -> Flow[None]:
        """Remove a lane that no worker serves, if it is empty; for example that of a misspelled model."""
        if model in self._served:
            return
        keys = self._keys
        named = (keys.lane(model, lane), keys.active(model, lane), keys.drain(model, lane), keys.queue(model, lane))
        args = (f"{model} {lane}", keys.job_prefix, MESSAGES_PAGE)
        (is_forgotten,) = yield RoundTrip([evalsha("retire", (*named, keys.lanes), *args)])
        if is_forgotten:
            log.info("lane %s %s removed: it is empty and no worker serves it", model, lane, extra={"action": "retire"})

    def _queued(self, queue: str, part: Part) -> Flow[Marks]:
        """Read a queue from its newest message to its oldest, so that changes meanwhile hide no message that stays."""
        queued = Marks()
        start = 0
        while True:
            began_s = time.monotonic()
            (page,) = yield RoundTrip([evalsha("queued", (queue,), start, start + MESSAGES_PAGE - 1)])
            for chunk in map(_read_doorbell, page[1:]):
                if chunk in part:
                    queued.add(chunk)
            if page[0] < MESSAGES_PAGE:
                return queued
            start += MESSAGES_PAGE
            yield _rest(began_s)

    def _compare(self, model: str, lane: str, part: Part, queued: Marks) -> Flow[int]:
        """Check the lane's records; return the number of chunks re-queued."""
        named = ChunkRef(job_id="", chunk=0, model=model, lane=lane, token="")
        rung, ended = 0, b""
        while True:
            began_s = time.monotonic()
            held, page = yield RoundTrip([self._lock(), self._survey(model, lane, ended)])
            if not held or not page:  # another worker sweeps
                return rung
            ended, was_wrong, *listed = page
            if was_wrong:
                log.warning(
                    "counters of lane %s %s corrected from its records", model, lane, extra={"action": "recount"}
                )
            chunks = [chunk for chunk in _read_chunks(named, listed) if (chunk.ref.job_id, chunk.ref.chunk) in part]
            if any(chunk.claim and chunk.claim.partition(" ")[0] not in self._active for chunk in chunks):
                yield from self._look()  # a worker may have started since
            lost, suspects = find_lost(chunks, queued, self._active, self._suspects)
            for suspicion in suspects:
                self._next_suspects.add(suspicion)
            rung += yield from self._ring(lost)
            if not ended:
                return rung
            yield _rest(began_s)

    def _survey(self, model: str, lane: str, ended: bytes) -> Command:
        keys = (self._keys.lane(model, lane), self._keys.active(model, lane), self._keys.drain(model, lane))
        page = (JOBS_PAGE, CHUNKS_PAGE, RING_WINDOW)
        return evalsha("survey", keys, self._keys.job_prefix, version.PROTOCOL_VERSION, ended, *page)

    def _ring(self, lost: Sequence[Lost]) -> Flow[int]:
        rung = 0
        for start in range(0, len(lost), RING_PAGE):
            again = [
                claims.ring_again(self._keys, chunk.ref, chunk.claim, how=chunk.how)
                for chunk in lost[start : start + RING_PAGE]
            ]
            rung += sum(outcome == 1 for outcome in (yield RoundTrip(again, keeps_errors=True)))
        return rung


def _rest(began_s: float) -> Sleep:
    return Sleep(min(REST * (time.monotonic() - began_s), LONGEST_REST_S))


def _read_doorbell(named: bytes) -> tuple[str, int]:
    job_id, _, chunk = named.decode(errors="replace").rpartition(":")
    return job_id, int(chunk) if len(chunk) < 10 else -1


def _read_chunks(lane: ChunkRef, listed: Sequence[Any]) -> list[OpenChunk]:
    """Return the open chunks that a survey lists as job, chunk, claim, …."""
    chunks = []
    for packed_id, number, claim in zip(listed[::3], listed[1::3], listed[2::3], strict=True):
        try:
            job_id = read_name(packed_id)
            chunk = read_count(number, MAX_JOB_TEXTS)
        except MessageError:
            warn_once("a job is passed over: a key of its record is not of the type that embedmill writes")
            continue
        ref = ChunkRef(job_id=job_id, chunk=chunk, model=lane.model, lane=lane.lane, token="")
        chunks.append(OpenChunk(ref, claim.decode("latin-1")))
    return chunks
