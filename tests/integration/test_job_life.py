"""Any order of submissions, claims, commits, crashes, deaths, cancellations and sweeps: nothing lost, nothing twice."""

import math
import random
import secrets
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from embedmill.errors import JobConflictError
from embedmill.jobs import reading, request
from embedmill.limits import UNFINISHED_TTL_S
from embedmill.protocol.records import JobState
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Nothing, Work
from embedmill_worker.jobs.reconciler import Reconciler

#: What the vector of one text is counted as: eight float32 and its overhead.
ROW_BYTES = 8 * 4 + 24
JOB_IDS = ("a", "b", "c")
TENANTS = ("", "gold")
LANES = ("interactive", "bulk")
#: Doorbells for two workers of a child each, as in lua/prelude.lua.
MOST_BELLS = 8
#: Numbers of chunks; the digits stand in the texts, so that no two contents are the same.
SIZES = (0, 1, 2, 5, 7)


@dataclass
class ChunkModel:
    """What a chunk must be by what was done to it."""

    reply: bytes | None = None
    holder: str = ""
    token: str = ""
    at: int | None = None
    losses: int = 0
    crashes: int = 0
    crashes_alone: dict[int, int] = field(default_factory=dict)
    losses_alone: dict[int, int] = field(default_factory=dict)

    def lose(self):
        if self.at is None:
            self.losses += 1
        else:
            self.losses_alone[self.at] = self.losses_alone.get(self.at, 0) + 1


@dataclass
class JobModel:
    """What a job must be by what was done to it."""

    size: int
    lane: str
    tenant: str
    incarnation: str
    state: str = "active"
    chunks: list[ChunkModel] = field(default_factory=list)

    @property
    def n_done(self):
        return sum(chunk.reply is not None for chunk in self.chunks)


@dataclass(frozen=True)
class InHand:
    """A chunk that a process works on, or believes to."""

    ref: claims.ChunkRef
    worker: str
    incarnation: str


class JobLife:
    """Redis against a model of it in a few dictionaries. A step's ``pick`` says with which job, chunk or worker."""

    def __init__(self, bench):
        self.bench = bench
        self.jobs: dict[str, JobModel] = {}
        self.live: list[str] = []
        self.starts = 0
        self.in_hand: list[InHand] = []
        #: Processes whose worker is dead, and chunks that were committed: they may commit all the same.
        self.zombies: list[InHand] = []
        self.forgotten: list[InHand] = []
        self.reconcilers: dict[str, Reconciler] = {}
        self.happened = Counter()

    # What clients do.

    def submit(self, pick):
        job_id, size, lane = JOB_IDS[pick % 3], SIZES[pick % 5], LANES[pick % 4 % 2]
        tenant = TENANTS[pick % 7 % 2]
        known = self.jobs.get(job_id)
        if known and known.state != "active" and pick % 4:
            self.delete(pick)
            known = None
        try:
            texts = [f"{size} {n:04d} " * 12 for n in range(size)]
            self.bench.submit(texts, job_id=job_id, lane=lane, tenant=tenant)
        except JobConflictError:
            assert known is not None
            assert known.size != size
            return
        if known is not None:
            assert known.size == size
            return
        job = JobModel(size, lane, tenant, secrets.token_hex(4), chunks=[ChunkModel() for _ in range(size)])
        job.state = "active" if size else "done"
        self.jobs[job_id] = job

    def cancel(self, pick):
        job_id = JOB_IDS[pick % 3]
        assert bool(self.bench.run(reading.end(self.bench.keys, job_id, "cancel"))) == (job_id in self.jobs)
        job = self.jobs.get(job_id)
        if job and job.state == "active":
            self.happened["cancelled with replies"] += bool(job.n_done)
            job.state = "cancelled"

    def delete(self, pick):
        job_id = JOB_IDS[pick % 3]
        assert bool(self.bench.run(reading.end(self.bench.keys, job_id, "delete"))) == (job_id in self.jobs)
        if job := self.jobs.pop(job_id, None):
            self.happened["deleted under work"] += any(hand.incarnation == job.incarnation for hand in self.in_hand)

    # What workers do.

    def start_worker(self, pick):
        if len(self.live) < 2:
            self.starts += 1
            self.live.append(f"w{self.starts}")
            self.beat()

    def take(self, pick):
        if self.live and (bell := self.next_doorbell(pick)):
            self.claim(bell, chosen(self.live, pick))

    def claim_again(self, pick):
        """The answer to a claim got lost: the same process asks once more."""
        if self.in_hand:
            hand = chosen(self.in_hand, pick)
            bell = claims.Bell(model="paper", lane=hand.ref.lane, token=hand.ref.token)
            claim = self.bench.claim(bell, hand.worker)
            chunk = self.chunk_of(hand)
            if chunk is None or chunk.token != hand.ref.token:
                assert claim == Nothing()
            else:
                assert claim.ref == hand.ref
                self.happened["claim again"] += 1

    def claim(self, bell, worker):
        claim = self.bench.claim(bell, worker)
        if claim == Nothing():
            assert not self.open_chunks(bell.lane)
            self.happened["nothing"] += 1
            return
        assert isinstance(claim, Work)
        ref = claim.ref
        job = self.jobs[ref.job_id]
        chunk = job.chunks[ref.chunk]
        assert (job.state, job.lane, job.tenant) == ("active", bell.lane, ref.tenant)
        assert (chunk.reply, chunk.token) == (None, "")
        assert (claim.losses, claim.crashes) == (chunk.losses, chunk.crashes)
        assert (claim.losses_alone, claim.crashes_alone) == (chunk.losses_alone, chunk.crashes_alone)
        chunk.holder, chunk.token, chunk.at = worker, ref.token, None
        self.in_hand.append(InHand(ref, worker, job.incarnation))
        self.happened["claim"] += 1

    def commit(self, pick):
        if self.in_hand:
            hand = self.pop_hand(pick)
            self.zombies.append(hand)
            self.commit_as(hand)

    def commit_too_late_or_twice(self, pick):
        if self.zombies:
            self.commit_as(chosen(self.zombies, pick))

    def commit_as(self, hand):
        chunk = self.chunk_of(hand)
        is_held = chunk is not None and chunk.token == hand.ref.token
        reply = secrets.token_bytes(8)
        committed = self.bench.run(claims.commit(self.bench.keys, hand.ref, reply))
        assert committed == is_held
        self.happened["commit" if committed else "unwanted commit"] += 1
        if committed:
            chunk.reply, chunk.holder, chunk.token, chunk.at = reply, "", "", None
            job = self.jobs[hand.ref.job_id]
            if job.n_done == job.size:
                job.state = "done"

    def go_on_to_a_text(self, pick):
        if not (hands := [*self.in_hand, *self.zombies]):
            return
        hand = chosen(hands, pick)
        at = (0, 1, 2, None)[pick % 4]
        stands = self.bench.run(claims.note_position(self.bench.keys, hand.ref, at))
        chunk = self.chunk_of(hand)
        assert stands == (chunk is not None and chunk.token == hand.ref.token)
        if stands:
            chunk.at = at

    def child_dies(self, pick):
        if not self.in_hand:
            return
        hand = self.pop_hand(pick)
        chunk = self.chunk_of(hand)
        was_killed = pick % 2 == 0
        given = self.bench.give_back(hand.ref.token, "lost" if was_killed else "crashed")
        assert (given is not None) == (chunk is not None and chunk.token == hand.ref.token)
        if given:
            self.happened["kill" if was_killed else "crash"] += 1
            chunk.crashes += not was_killed
            if chunk.at is None or was_killed:
                chunk.lose()
            else:
                self.happened["crash alone"] += 1
                chunk.crashes_alone[chunk.at] = chunk.crashes_alone.get(chunk.at, 0) + 1
            chunk.holder, chunk.token, chunk.at = "", "", None

    def worker_dies(self, pick):
        if not self.live:
            return
        worker = chosen(self.live, pick)
        self.live.remove(worker)
        self.bench.die(worker)
        self.bench.redis.delete(self.bench.keys.reconciler_lock)
        self.zombies += [hand for hand in self.in_hand if hand.worker == worker]
        self.in_hand = [hand for hand in self.in_hand if hand.worker != worker]

    def a_claimed_chunk_is_forgotten(self, pick):
        """As when Celery loses a task between its main process and a child."""
        if self.in_hand:
            self.forgotten.append(self.pop_hand(pick))

    def a_doorbell_is_lost(self, pick):
        self.next_doorbell(pick)

    def sweep(self, pick):
        if not self.live:
            return
        self.beat()
        worker = self.live[0]
        reconciler = self.reconcilers.setdefault(worker, Reconciler(self.bench.keys, worker))
        before = self.held_chunks()
        n_given = self.bench.run(reconciler.sweep())
        left = {token.decode() for token in self.bench.redis.hkeys(self.bench.keys.held)}
        for chunk in before:
            if chunk.token not in left:
                # Given back: its worker is dead, or lives and does not work on it.
                assert not any(hand.ref.token == chunk.token for hand in self.in_hand)
                self.happened["abandoned" if chunk.holder in self.live else "loss"] += 1
                chunk.lose()
                chunk.holder, chunk.token, chunk.at = "", "", None
                n_given -= 1
        assert n_given == 0

    # What must hold after every step.

    def check_that_lanes_count_what_is_left(self):
        for lane in LANES:
            left = dict.fromkeys(("chunks", "texts", "tokens", "bytes", "open"), 0)
            tenants = Counter()
            for job_id, job in self.jobs.items():
                if job.lane == lane and job.state == "active":
                    names = ("left_texts", "left_tokens")
                    n_texts, n_tokens = map(int, self.bench.redis.hmget(self.bench.keys.job(job_id), *names))
                    besides = request.JOB_OVERHEAD_BYTES + job.size * request.CHUNK_OVERHEAD_BYTES
                    n_open = sum(chunk.reply is None and not chunk.token for chunk in job.chunks)
                    amounts = {"chunks": job.size - job.n_done, "texts": n_texts, "tokens": n_tokens, "open": n_open}
                    amounts["bytes"] = n_texts * (ROW_BYTES + math.ceil(besides / max(1, job.size)))
                    left = {name: left[name] + amount for name, amount in amounts.items()}
                    tenants[job.tenant.encode()] += n_tokens
            assert self.bench.counts(lane=lane) == left
            waiting = self.bench.redis.zrange(self.bench.keys.tenants("paper", lane), 0, -1, withscores=True)
            assert {tenant: int(n) for tenant, n in waiting if n} == {tenant: n for tenant, n in tenants.items() if n}

    def check_that_doorbells_are_few_and_enough(self):
        for lane in LANES:
            n_bells = self.bench.redis.llen(self.bench.keys.queue("paper", lane))
            assert n_bells <= 3 * MOST_BELLS

    def check_that_active_jobs_are_listed(self):
        for lane in LANES:
            listed = self.bench.redis.zrange(self.bench.keys.active("paper", lane), 0, -1)
            wanted = {i.encode() for i, job in self.jobs.items() if job.lane == lane and job.state == "active"}
            assert set(listed) == wanted

    def check_that_jobs_are_as_far_as_they_should_be(self):
        for job_id in JOB_IDS:
            job = self.jobs.get(job_id)
            names = self.bench.key_names(job_id)
            if job is None:
                assert names == set()
                continue
            status = self.bench.status(job_id)
            assert status.state.is_over == (job.state != "active")
            if job.state == "cancelled":
                assert (status.state, names) == (JobState.CANCELLED, {"", "events"})
            if job.state == "done":
                assert status.state is JobState.DONE
                assert names == {"", "events"} | ({"replies"} if job.size else set())
            if job.state == "active":
                assert {"", "texts"} <= names
                assert status.chunks_done == job.n_done
            ttls = [self.bench.redis.pttl(key) for key in self.bench.redis.keys(f"{self.bench.keys.job(job_id)}*")]
            longest = 60_000 if job.state != "active" else UNFINISHED_TTL_S * 1_000
            assert all(0 < ttl <= longest for ttl in ttls)

    def check_that_a_chunk_is_its_texts_or_its_reply(self):
        for job_id, job in self.jobs.items():
            if job.state == "cancelled":
                continue
            replies = self.bench.redis.hgetall(self.bench.keys.replies(job_id))
            texts = self.bench.redis.hkeys(self.bench.keys.texts(job_id))
            assert {int(n): reply for n, reply in replies.items()} == {
                n: chunk.reply for n, chunk in enumerate(job.chunks) if chunk.reply is not None
            }
            assert {int(n) for n in texts} == {n for n, chunk in enumerate(job.chunks) if chunk.reply is None}

    def check_that_what_is_held_is_the_model_s(self):
        held = self.bench.redis.hgetall(self.bench.keys.held)
        chunks = {chunk.token: chunk for chunk in self.held_chunks()}
        for token, chunk in chunks.items():
            assert held[token.encode()].split()[5] == chunk.holder.encode()
            at = held.get(f"{token}:at".encode())
            assert (None if at is None else int(at)) == chunk.at
        over = {hand.ref.token for hand in [*self.in_hand, *self.zombies, *self.forgotten]}  # of jobs that are over
        assert {token.decode().removesuffix(":at") for token in held} <= chunks.keys() | over

    def open_chunks(self, lane):
        jobs = [job for job in self.jobs.values() if job.state == "active" and job.lane == lane]
        return [chunk for job in jobs for chunk in job.chunks if chunk.reply is None and not chunk.token]

    def held_chunks(self):
        jobs = [job for job in self.jobs.values() if job.state == "active"]
        return [chunk for job in jobs for chunk in job.chunks if chunk.token]

    def chunk_of(self, hand):
        """The chunk that a process believes to work on, if its job is still the same and active."""
        job = self.jobs.get(hand.ref.job_id)
        if job is None or job.state != "active" or job.incarnation != hand.incarnation:
            return None
        return job.chunks[hand.ref.chunk]

    def beat(self):
        for worker in self.live:
            self.bench.live(worker, active=[hand.ref.token for hand in self.in_hand if hand.worker == worker])

    def finish_everything(self):
        """Whatever has happened, a worker and the reconciler bring every job to its end."""
        for worker in self.live:
            self.bench.die(worker)
        self.bench.redis.delete(self.bench.keys.reconciler_lock)
        self.live, self.in_hand = ["last"], []
        reconciler = Reconciler(self.bench.keys, "last")
        for _ in range(2 + sum(job.size for job in self.jobs.values())):
            self.beat()
            self.bench.run(reconciler.sweep())
            while bell := self.next_doorbell(0):
                if isinstance(claim := self.bench.claim(bell, "last"), Work):
                    assert self.bench.run(claims.commit(self.bench.keys, claim.ref, b"last"))
        for job_id, job in self.jobs.items():
            expected = JobState.CANCELLED if job.state == "cancelled" else JobState.DONE
            assert self.bench.status(job_id).state is expected
        assert self.bench.redis.hlen(self.bench.keys.held) == 0
        for lane in LANES:
            assert set(self.bench.counts(lane=lane).values()) == {0}

    def next_doorbell(self, pick):
        first, second = LANES if pick % 4 else LANES[::-1]
        return self.bench.pop(lane=first) or self.bench.pop(lane=second)

    def pop_hand(self, pick):
        return self.in_hand.pop(pick % len(self.in_hand))


def chosen(values, pick):
    return values[pick % len(values)]


#: What may happen, as often as it stands here.
STEPS = [
    *[JobLife.take] * 12,
    *[JobLife.commit] * 5,
    *[JobLife.submit] * 2,
    *[JobLife.sweep] * 3,
    *[JobLife.start_worker] * 2,
    JobLife.go_on_to_a_text,
    *[JobLife.child_dies] * 2,
    JobLife.claim_again,
    JobLife.commit_too_late_or_twice,
    JobLife.worker_dies,
    JobLife.a_claimed_chunk_is_forgotten,
    JobLife.a_doorbell_is_lost,
    JobLife.cancel,
    JobLife.delete,
]
ENOUGH = ("commit", "unwanted commit", "nothing", "loss", "abandoned", "crash", "kill", "claim again")
CHECKS = [check for name, check in vars(JobLife).items() if name.startswith("check_that_")]


def steps_of(seed, length):
    """A random walk. Not a list that Hypothesis draws: those dwell on few kinds of steps."""
    rng = random.Random(seed)
    return [(rng.choice(STEPS), rng.randrange(60)) for _ in range(length)]


def live_through(bench, steps):
    """Takes the steps, checks after each, and finishes; gives what happened."""
    life = JobLife(bench)
    for step, pick in [(JobLife.submit, 3), (JobLife.start_worker, 0), (JobLife.start_worker, 0), *steps]:
        step(life, pick)
        for check in CHECKS:
            check(life)
    life.finish_everything()
    return life.happened


@pytest.mark.parametrize("lives", [24, pytest.param(120, marks=pytest.mark.deep)])
def test_whatever_happens_no_chunk_is_lost_done_twice_or_mixed_up(redis_url, make_bench, lives):
    happened = Counter()

    # The same lives every time, so that the count below cannot flake.
    @settings(max_examples=lives, derandomize=True)
    @given(st.integers(0, 2**32), st.sampled_from([120, 60, 30]))
    def live(seed, length):
        steps = steps_of(seed, length)
        note(" ".join(f"{step.__name__}({pick})" for step, pick in steps))
        bench = make_bench(redis_url, "life" + secrets.token_hex(6))
        happened.update(live_through(bench, steps))
        bench.close()

    live()
    # Else the lives were too quiet to show anything.
    assert min(happened[what] for what in ENOUGH) > lives / 6
