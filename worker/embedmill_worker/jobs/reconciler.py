"""Recovery of lost work, by one worker at a time under a lock.

A sweep looks at what is held, an entry for each child that works, however much waits: a chunk is given back at once
if its worker is dead, and if its worker is live but does not work on it, when two sweeps in a row find it so. Then it
rings each lane as often as its workers have use for.

Besides, it audits the records of unfinished jobs, some pages of each lane in a sweep, and goes on there in the next
one. So counters that garbage has spoiled are put right, and chunks that are neither held nor open are given back.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import KeyConflictError, MessageError
from embedmill.jobs.discovery import look_around, readable, warn_once
from embedmill.limits import BELLS_A_CHILD, MAX_LANES, MAX_WORKERS
from embedmill.protocol.codec import read_count, read_name
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.settings import is_tenant
from embedmill.transport.flow import Command, Flow, RoundTrip, Sleep, evalsha
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Held

log = logging.getLogger(__name__)

#: Seconds between two sweeps: longer than between two beats, so that a claim made after a beat is in the next one.
SWEEP_PERIOD_S: Final = 2.5

#: Seconds that the lock outlives its holder's last page.
LOCK_TTL_S: Final = 6.0

#: Jobs per page of an audit, which takes Redis less than 1 ms, and pages of each lane in a sweep.
JOBS_PAGE: Final = 50
AUDIT_PAGES: Final = 40

#: Entries of ``held`` per page, chunks given back in one round trip, doorbells rung by one call.
HELD_PAGE: Final = 500
GIVE_BACK_PAGE: Final = 100
BELLS_PAGE: Final = 500

#: Chunks looked at by one call that mends a job, and jobs mended in a sweep.
MEND_PAGE: Final = 2_000
MAX_MENDED: Final = 100

#: Tenants whose waiting tokens an audit puts right; with more of them these are left as they are.
MAX_TENANTS: Final = 1_000

#: Rest after a page, as a multiple of the time that the page took, and its maximum in seconds. Redis and this worker's
#: main process have other work.
REST: Final = 3.0
LONGEST_REST_S: Final = 0.02

#: Numbers of a lane: those that an audit sums up, and those that tell whether something has changed meanwhile.
_SUMS: Final = ("chunks", "texts", "tokens", "bytes", "open")
_SIGNS: Final = ("admitted", "drained", "turn", "bells")


def find_lost(
    held: Iterable[Held], active: Mapping[str, frozenset[str]], suspects: Container[str]
) -> tuple[list[Held], set[str]]:
    """Decide which chunks are lost.

    Args:
        held: what is held.
        active: live worker's id → tokens that it works on.
        suspects: tokens that were suspected in the previous sweep.

    Returns:
        What is to be given back, and the suspects for the next sweep.
    """
    lost, next_suspects = [], set()
    for one in held:
        if one.ref.token in active.get(one.worker, frozenset()):
            continue
        if one.worker not in active or one.ref.token in suspects:
            lost.append(one)
        else:
            next_suspects.add(one.ref.token)
    return lost, next_suspects


@dataclass(slots=True, kw_only=True)
class Audit:
    """What an audit of a lane has found so far."""

    #: The lane's numbers when it began.
    numbers: list[Any]
    #: Where the last page ended.
    ended: bytes = b""
    sums: list[int] = field(default_factory=lambda: [0] * len(_SUMS))
    tenants: Counter[bytes] = field(default_factory=Counter)
    #: Job → chunks that are neither done nor open, so must be held.
    uneven: dict[bytes, int] = field(default_factory=dict)

    def add(self, page: Sequence[Any]) -> None:
        """Add a page of ``lua/survey.lua``."""
        self.ended, sums, tenants, uneven, n_unreadable = page
        self.sums = [one + other for one, other in zip(self.sums, sums, strict=True)]
        self.tenants.update(dict(zip(tenants[::2], map(int, tenants[1::2]), strict=True)))
        self.uneven |= dict(zip(uneven[::2], uneven[1::2], strict=True))
        if n_unreadable:
            warn_once("a job is passed over: a key of its record is not of the type that embedmill writes")

    def is_off(self, numbers: Sequence[Any]) -> bool:
        """Return whether the lane's numbers at the end of the audit cannot be right, whatever happened meanwhile."""
        if list(numbers[len(_SUMS) :]) == self.numbers[len(_SUMS) :]:
            return True  # nothing happened: the sums are exact
        admitted, drained = (_count(numbers[i]) - _count(self.numbers[i]) for i in (5, 6))
        return abs(self.sums[2] - _count(numbers[2])) > abs(admitted) + abs(drained)


class Reconciler:
    """The reconciler of one worker, which keeps suspects and audits between sweeps."""

    def __init__(self, keys: Keyspace, worker_id: str, *, max_flight: int = 0) -> None:
        self._keys = keys
        self._worker_id = worker_id
        self._max_flight = max_flight
        self._active: dict[str, frozenset[str]] = {}
        self._children: Counter[str] = Counter()
        self._held: list[Held] = []
        self._suspects: set[str] = set()
        self._audits: dict[tuple[str, str], Audit] = {}
        #: Jobs whose chunks did not add up in the last audit of their lane.
        self._uneven: dict[tuple[str, str], set[bytes]] = {}
        #: Lane → tenants that held nothing in the last sweep, with their tokens under work.
        self._adrift: dict[tuple[str, str], dict[bytes, float]] = {}

    def sweep(self) -> Flow[int]:
        """Look for lost work once, if this worker holds the lock; return the number of chunks given back."""
        (is_held,) = yield RoundTrip([self._lock()])
        if not is_held:
            return 0
        yield from self._look()
        yield from self._forget_dead()
        n_given = yield from self._give_back_lost()
        for model, lane in (yield from self._lanes()):
            try:
                n_given += yield from self._tend(model, lane)
            except KeyConflictError as error:  # the other lanes are still looked after
                log.warning(
                    "lane %s %s is passed over in this sweep: %s", model, lane, error, extra={"action": "reconcile"}
                )
        if n_given:
            log.warning("re-queued %d lost chunks", n_given, extra={"action": "reconcile", "chunks": n_given})
        return n_given

    def _lock(self) -> Command:
        return evalsha("lock", (self._keys.reconciler_lock,), self._worker_id, int(LOCK_TTL_S * 1000))

    def _look(self) -> Flow[None]:
        """Read what the live workers work on, and the models that they serve."""
        workers = (yield from look_around(self._keys)).workers
        self._active = {worker.worker_id: frozenset(worker.active) for worker in workers}
        self._children = Counter()
        for worker in workers:
            self._children.update(dict.fromkeys(worker.models, worker.children))

    def _forget_dead(self) -> Flow[None]:
        (known,) = yield RoundTrip([("ZRANGE", self._keys.workers, 0, MAX_WORKERS - 1)])
        dead = set(known) - {worker_id.encode() for worker_id in self._active}
        if dead:
            yield RoundTrip([("ZREM", self._keys.workers, *sorted(dead))])

    def _lanes(self) -> Flow[list[tuple[str, str]]]:
        """Return every lane that was used, and those of live workers' models in case that list is lost."""
        (used,) = yield RoundTrip([("SMEMBERS", self._keys.lanes)])
        named = (name.rpartition(" ") for name in readable(read_name, list(used)[:MAX_LANES], "lane"))
        pairs = {(model, lane) for model, _, lane in named} | {
            (model, lane) for model in self._children for lane in LANES
        }
        return sorted(pairs, key=lambda pair: (pair[1] != LANES[0], pair))

    def _give_back_lost(self) -> Flow[int]:
        self._held = yield from self._read_held()
        if any(one.worker not in self._active for one in self._held):
            yield from self._look()  # a worker may have started since
        lost, self._suspects = find_lost(self._held, self._active, self._suspects)
        n_given = 0
        for start in range(0, len(lost), GIVE_BACK_PAGE):
            again = [claims.give_back(self._keys, one.ref, "lost") for one in lost[start : start + GIVE_BACK_PAGE]]
            n_given += sum(outcome == 1 for outcome in (yield RoundTrip(again, keeps_errors=True)))
        return n_given

    def _read_held(self) -> Flow[list[Held]]:
        found: dict[bytes, Held] = {}
        cursor: Any = b"0"
        while True:
            ((cursor, flat),) = yield RoundTrip([("HSCAN", self._keys.held, cursor, "COUNT", HELD_PAGE)])
            for token, entry in zip(flat[::2], flat[1::2], strict=True):
                if held := claims.read_held(token, entry):
                    found[token] = held
            if cursor in (b"0", "0", 0):
                return list(found.values())

    def _tend(self, model: str, lane: str) -> Flow[int]:
        """Ring a lane, audit a part of it, and forget it if it holds nothing and no worker serves it."""
        keys = self._keys
        wanted = BELLS_A_CHILD * self._children[model]
        named = (keys.lane(model, lane), keys.queue(model, lane), keys.tenants(model, lane))
        yield RoundTrip([evalsha("top_up", named, wanted, BELLS_PAGE)])
        n_given = yield from self._audit(model, lane)
        if self._max_flight:
            yield from self._settle_flights(model, lane)
        if model not in self._children:
            yield from self._retire(model, lane)
        return n_given

    def _audit(self, model: str, lane: str) -> Flow[int]:
        """Go on with the audit of a lane; return the number of chunks given back."""
        pair = (model, lane)
        numbers: Command = ("HMGET", self._keys.lane(*pair), *_SUMS, *_SIGNS)
        if pair not in self._audits:
            (before,) = yield RoundTrip([numbers])
            self._audits[pair] = Audit(numbers=before)
        audit = self._audits[pair]
        lane_keys = (self._keys.lane(*pair), self._keys.active(*pair), self._keys.turns(*pair))
        for _ in range(AUDIT_PAGES):
            began_s = time.monotonic()
            args = (self._keys.job_prefix, self._keys.ring_prefix(*pair), audit.ended, JOBS_PAGE)
            is_held, page = yield RoundTrip([self._lock(), evalsha("survey", lane_keys, *args)])
            if not is_held:  # another worker sweeps
                return 0
            audit.add(page)
            if not audit.ended:
                break
            yield _rest(began_s)
        else:
            return 0
        del self._audits[pair]
        (after,) = yield RoundTrip([numbers])
        if audit.is_off(after):
            yield from self._settle(model, lane, audit, after)
        return (yield from self._mend_uneven(model, lane, audit))

    def _settle(self, model: str, lane: str, audit: Audit, numbers: Sequence[Any]) -> Flow[None]:
        fields = (*_SUMS, *_SIGNS)
        seen = [b"" if value is None else value for value in numbers]
        replaces = len(audit.tenants) <= MAX_TENANTS
        tenants = [part for pair in audit.tenants.items() for part in pair] if replaces else []
        named = (self._keys.lane(model, lane), self._keys.tenants(model, lane))
        args = (len(fields), *fields, *seen, *audit.sums, int(replaces), *tenants)
        (was_wrong,) = yield RoundTrip([evalsha("settle", named, *args)])
        if was_wrong:
            log.warning("counters of lane %s %s corrected from its records", model, lane, extra={"action": "recount"})

    def _mend_uneven(self, model: str, lane: str, audit: Audit) -> Flow[int]:
        """Mend the jobs that have chunks neither done, open nor held in two audits running."""
        held = Counter(one.ref.job_id.encode() for one in self._held)
        uneven = {job for job, gap in audit.uneven.items() if gap != held[job]}
        again = sorted(uneven & self._uneven.get((model, lane), set()))[:MAX_MENDED]
        self._uneven[model, lane] = uneven
        n_given = 0
        for job in again:
            n_given += yield from self._mend(model, lane, job)
        return n_given

    def _mend(self, model: str, lane: str, job: bytes) -> Flow[int]:
        try:
            job_id = read_name(job)
            (tenant,) = yield RoundTrip([("HGET", self._keys.job(job_id), "tenant")])
            owner = read_name(tenant or b"")
            job_keys = self._keys.of_job(job_id, model, lane, owner if is_tenant(owner) else "")
        except MessageError:
            return 0
        start, n_seen, n_given = 0, 0, 0
        while start >= 0:
            ((start, n_seen, n_found),) = yield RoundTrip([evalsha("mend", job_keys, start, MEND_PAGE, n_seen)])
            n_given += n_found
        return n_given

    def _settle_flights(self, model: str, lane: str) -> Flow[None]:
        """Forget the tokens under work of tenants that hold nothing, as two sweeps have seen."""
        flights = self._keys.flights(model, lane)
        (flat,) = yield RoundTrip([("ZRANGE", flights, 0, -1, "WITHSCORES")])
        busy = {one.ref.tenant.encode() for one in self._held if (one.ref.model, one.ref.lane) == (model, lane)}
        adrift = {t: float(n) for t, n in zip(flat[::2], flat[1::2], strict=True) if t not in busy}
        before = self._adrift.get((model, lane), {})
        gone = [tenant for tenant, n in adrift.items() if before.get(tenant) == n]
        self._adrift[model, lane] = adrift
        if gone:
            yield RoundTrip([("ZREM", flights, *gone)])

    def _retire(self, model: str, lane: str) -> Flow[None]:
        """Remove a lane that no worker serves, if it is empty; for example that of a misspelled model."""
        keys = self._keys
        named = (keys.lane, keys.active, keys.queue)
        others = (keys.turns, keys.tenants, keys.flights)
        lane_keys = (*(name(model, lane) for name in named), keys.lanes, *(name(model, lane) for name in others))
        (is_forgotten,) = yield RoundTrip(
            [evalsha("retire", lane_keys, f"{model} {lane}", keys.ring_prefix(model, lane))]
        )
        if is_forgotten:
            log.info("lane %s %s removed: it is empty and no worker serves it", model, lane, extra={"action": "retire"})


def _rest(began_s: float) -> Sleep:
    return Sleep(min(REST * (time.monotonic() - began_s), LONGEST_REST_S))


def _count(value: Any) -> int:
    """Return a lane's number as the scripts take it."""
    try:
        return read_count(value or b"0", (1 << 53) - 1)
    except MessageError:
        return 0
