"""Any order of submissions, claims, commits, crashes, deaths, cancellations and sweeps: nothing lost, nothing twice."""

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from embedmill import flows
from embedmill.errors import JobConflictError
from embedmill.flows import JobState
from embedmill.limits import UNFINISHED_TTL_S
from embedmill_worker import claims
from embedmill_worker.claims import NotOurs, Work
from embedmill_worker.reconciler import Reconciler

#: As in limits, but small, so that a few steps reach it.
RING_WINDOW = 3
JOB_IDS = ("a", "b")
LANES = ("interactive", "bulk")
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


@dataclass
class JobModel:
    """What a job must be by what was done to it."""

    size: int
    lane: str
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


class JobLife(RuleBasedStateMachine):
    """Redis against a model of it in a few dictionaries."""

    make_bench = None
    redis_url = ""

    def __init__(self):
        super().__init__()
        self.bench = type(self).make_bench(self.redis_url, "life" + secrets.token_hex(6))
        self.jobs: dict[str, JobModel] = {}
        self.live: set[str] = set()
        self.starts = 0
        self.in_hand: list[InHand] = []
        #: Processes whose worker is dead, and chunks that were committed: they may commit all the same.
        self.zombies: list[InHand] = []
        self.reconcilers: dict[str, Reconciler] = {}

    def teardown(self):
        try:
            self.finish_everything()
        finally:
            self.bench.close()

    # What clients do.

    @rule(job_id=st.sampled_from(JOB_IDS), size=st.sampled_from(SIZES), lane=st.sampled_from(LANES))
    def submit(self, job_id, size, lane):
        known = self.jobs.get(job_id)
        texts = [f"{size} {n:04d} " * 12 for n in range(size)]
        try:
            self.bench.submit(texts, job_id=job_id, lane=lane)
        except JobConflictError:
            assert known is not None
            assert known.size != size
            return
        if known is not None:
            assert known.size == size
            return
        job = JobModel(size, lane, secrets.token_hex(4), chunks=[ChunkModel() for _ in range(size)])
        job.state = "active" if size else "done"
        self.jobs[job_id] = job

    @rule(job_id=st.sampled_from(JOB_IDS))
    def cancel(self, job_id):
        assert self.bench.run(flows.end(self.bench.keys, job_id, "cancel")) == (job_id in self.jobs)
        job = self.jobs.get(job_id)
        if job and job.state == "active":
            job.state = "cancelled"

    @rule(job_id=st.sampled_from(JOB_IDS))
    def delete(self, job_id):
        assert self.bench.run(flows.end(self.bench.keys, job_id, "delete")) == (job_id in self.jobs)
        self.jobs.pop(job_id, None)

    # What workers do.

    @rule()
    @precondition(lambda self: len(self.live) < 2)
    def start_worker(self):
        self.starts += 1
        worker = f"w{self.starts}"
        self.live.add(worker)
        self.beat()

    @rule(data=st.data(), lane=st.sampled_from(LANES))
    @precondition(lambda self: self.live)
    def take(self, data, lane):
        ref = self.bench.pop(lane=lane)
        if ref is not None:
            self.claim(ref, data.draw(st.sampled_from(sorted(self.live))))

    @rule(data=st.data())
    @precondition(lambda self: self.in_hand)
    def claim_again(self, data):
        """The answer to a claim got lost: the same process asks once more."""
        hand = data.draw(st.sampled_from(self.in_hand))
        self.in_hand.remove(hand)
        self.claim(hand.ref, hand.worker)

    def claim(self, ref, worker):
        claim = self.bench.claim(ref, worker)
        job = self.job_of(ref)
        chunk = job.chunks[ref.chunk] if job else None
        if chunk is None or chunk.reply is not None:
            assert claim == NotOurs("over")
            return
        if chunk.holder in self.live and chunk.token != ref.token:
            assert claim == NotOurs("held")
            return
        if chunk.holder and chunk.token != ref.token:
            chunk.losses += 1
        chunk.holder, chunk.token, chunk.at = worker, ref.token, None
        assert isinstance(claim, Work)
        assert (claim.losses, claim.crashes) == (chunk.losses, chunk.crashes)
        if chunk.crashes:
            assert claim.crashes_alone == chunk.crashes_alone
        self.in_hand.append(InHand(ref, worker, job.incarnation))

    @rule(data=st.data())
    @precondition(lambda self: self.in_hand)
    def commit(self, data):
        hand = data.draw(st.sampled_from(self.in_hand))
        self.in_hand.remove(hand)
        self.zombies.append(hand)
        self.commit_as(hand)

    @rule(data=st.data())
    @precondition(lambda self: self.zombies)
    def commit_too_late_or_twice(self, data):
        self.commit_as(data.draw(st.sampled_from(self.zombies)))

    def commit_as(self, hand):
        job = self.job_of(hand.ref, hand.incarnation)
        chunk = job.chunks[hand.ref.chunk] if job else None
        reply = secrets.token_bytes(8)
        committed = self.bench.run(claims.commit(self.bench.keys, hand.ref, reply))
        assert committed == (chunk is not None and chunk.reply is None)
        if committed:
            chunk.reply, chunk.holder, chunk.token = reply, "", ""
            if job.n_done == job.size:
                job.state = "done"

    @rule(data=st.data(), position=st.integers(0, 2))
    @precondition(lambda self: self.in_hand or self.zombies)
    def go_on_to_a_text(self, data, position):
        hand = data.draw(st.sampled_from([*self.in_hand, *self.zombies]))
        self.bench.run(claims.note_position(self.bench.keys, hand.ref, position))
        job = self.job_of(hand.ref, hand.incarnation)
        if job and (chunk := job.chunks[hand.ref.chunk]).token == hand.ref.token:
            chunk.at = position

    @rule(data=st.data())
    @precondition(lambda self: self.in_hand)
    def child_dies(self, data):
        hand = data.draw(st.sampled_from(self.in_hand))
        self.in_hand.remove(hand)
        job = self.job_of(hand.ref, hand.incarnation)
        chunk = job.chunks[hand.ref.chunk] if job else None
        rung = self.bench.run(claims.release(self.bench.keys, hand.ref.token))
        is_open = chunk is not None and chunk.reply is None
        assert rung == (is_open and chunk.token in ("", hand.ref.token))
        if rung and chunk.token:
            chunk.crashes += 1
            if chunk.at is not None:
                chunk.crashes_alone[chunk.at] = chunk.crashes_alone.get(chunk.at, 0) + 1
            chunk.holder, chunk.token, chunk.at = "", "", None

    @rule(data=st.data())
    @precondition(lambda self: self.live)
    def worker_dies(self, data):
        worker = data.draw(st.sampled_from(sorted(self.live)))
        self.live.discard(worker)
        self.bench.die(worker)
        with suppress(KeyError):
            del self.reconcilers[worker]
        self.bench.redis.delete(self.bench.keys.reconciler_lock)
        self.zombies += [hand for hand in self.in_hand if hand.worker == worker]
        self.in_hand = [hand for hand in self.in_hand if hand.worker != worker]

    @rule(data=st.data())
    @precondition(lambda self: self.in_hand)
    def a_claimed_chunk_is_forgotten(self, data):
        """As when Celery loses a task between its main process and a child."""
        self.in_hand.remove(data.draw(st.sampled_from(self.in_hand)))

    @rule(lane=st.sampled_from(LANES))
    def a_doorbell_is_lost(self, lane):
        self.bench.pop(lane=lane)

    @rule()
    @precondition(lambda self: self.live)
    def sweep(self):
        self.beat()
        worker = sorted(self.live)[0]
        reconciler = self.reconcilers.setdefault(worker, Reconciler(self.bench.keys, worker))
        before = {key: self.claim_in_redis(*key) for key in self.open_chunks()}
        self.bench.run(reconciler.sweep())
        for job_id, number in before:
            chunk = self.jobs[job_id].chunks[number]
            if before[job_id, number] and not self.claim_in_redis(job_id, number):
                # Given back: its worker lives and does not work on it.
                assert chunk.holder in self.live
                assert not any(hand.ref.token == chunk.token for hand in self.in_hand)
                chunk.holder, chunk.token, chunk.at = "", "", None
            elif before[job_id, number] and chunk.holder not in self.live:
                chunk.at = None if not self.at_in_redis(job_id, number) else chunk.at

    # What must hold after every step.

    @invariant()
    def lanes_count_what_is_left(self):
        for lane in LANES:
            counts = self.bench.redis.hgetall(self.bench.keys.lane("paper", lane))
            left = {"chunks": 0, "texts": 0, "tokens": 0}
            for job_id, job in self.jobs.items():
                if job.lane == lane:
                    fields = self.bench.redis.hmget(self.bench.keys.job(job_id), *(f"left_{name}" for name in left))
                    values = [int(value) for value in fields]
                    assert all(value >= 0 for value in values)
                    assert values[0] == (job.size - job.n_done if job.state == "active" else 0)
                    left = {name: left[name] + value for name, value in zip(left, values, strict=True)}
            assert {name.decode(): int(value) for name, value in counts.items()} in (left, {})
            assert any(left.values()) <= bool(counts)

    @invariant()
    def active_jobs_are_listed(self):
        for lane in LANES:
            listed = self.bench.redis.zrange(self.bench.keys.active("paper", lane), 0, -1)
            wanted = {i.encode() for i, job in self.jobs.items() if job.lane == lane and job.state == "active"}
            assert set(listed) == wanted

    @invariant()
    def jobs_are_as_far_as_they_should_be(self):
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
                assert {"", "texts", "weights"} <= names
                assert status.chunks_done == job.n_done
            ttls = [self.bench.redis.pttl(key) for key in self.bench.redis.keys(f"{self.bench.keys.job(job_id)}*")]
            longest = 60_000 if job.state != "active" else UNFINISHED_TTL_S * 1_000
            assert all(0 < ttl <= longest for ttl in ttls)

    @invariant()
    def a_chunk_is_its_texts_or_its_reply(self):
        for job_id, job in self.jobs.items():
            if job.state == "cancelled":
                continue
            replies = self.bench.redis.hgetall(self.bench.keys.replies(job_id))
            texts = self.bench.redis.hkeys(self.bench.keys.texts(job_id))
            assert {int(n): reply for n, reply in replies.items()} == {
                n: chunk.reply for n, chunk in enumerate(job.chunks) if chunk.reply is not None
            }
            assert {int(n) for n in texts} == {n for n, chunk in enumerate(job.chunks) if chunk.reply is None}

    @invariant()
    def claims_are_the_model_s(self):
        for job_id, number in self.open_chunks():
            chunk = self.jobs[job_id].chunks[number]
            assert self.claim_in_redis(job_id, number)[:2] == ([chunk.holder, chunk.token] if chunk.holder else [])
            assert self.at_in_redis(job_id, number) == chunk.at

    @invariant()
    def few_chunks_are_rung_ahead(self):
        for job_id, job in self.jobs.items():
            if job.state == "active":
                rung = int(self.bench.redis.hget(self.bench.keys.job(job_id), "rung"))
                assert rung == min(job.size, job.n_done + RING_WINDOW)

    def open_chunks(self):
        return [
            (job_id, number)
            for job_id, job in self.jobs.items()
            if job.state == "active"
            for number, chunk in enumerate(job.chunks)
            if chunk.reply is None
        ]

    def claim_in_redis(self, job_id, number):
        value = self.bench.redis.hget(self.bench.keys.claims(job_id), number)
        return value.decode().split() if value else []

    def at_in_redis(self, job_id, number):
        value = self.bench.redis.hget(self.bench.keys.claims(job_id), f"{number}:at")
        return int(value) if value else None

    def job_of(self, ref, incarnation=None):
        """The active job whose doorbell this is."""
        job = self.jobs.get(ref.job_id)
        if job is None or job.state != "active" or incarnation not in (None, job.incarnation):
            return None
        first = int(self.bench.redis.hget(self.bench.keys.job(ref.job_id), "first_ring"))
        return job if int(ref.token.rpartition(":")[2]) > first else None

    def beat(self):
        for worker in self.live:
            self.bench.live(worker, active=[hand.ref.token for hand in self.in_hand if hand.worker == worker])

    def finish_everything(self):
        """Whatever has happened, a worker and the reconciler bring every job to its end."""
        while len(self.live) < 1:
            self.start_worker()
        worker = sorted(self.live)[0]
        for other in sorted(self.live - {worker}):
            self.live.discard(other)
            self.bench.die(other)
        self.bench.redis.delete(self.bench.keys.reconciler_lock)
        self.in_hand.clear()
        reconciler = Reconciler(self.bench.keys, worker)
        for _ in range(2 + sum(job.size for job in self.jobs.values())):
            self.beat()
            self.bench.run(reconciler.sweep())
            for lane in LANES:
                while ref := self.bench.pop(lane=lane):
                    if isinstance(self.bench.claim(ref, worker), Work):
                        assert self.bench.run(claims.commit(self.bench.keys, ref, b"last"))
            if not any(self.bench.redis.zcard(self.bench.keys.active("paper", lane)) for lane in LANES):
                break
        for job_id, job in self.jobs.items():
            assert self.bench.status(job_id).state is (
                JobState.CANCELLED if job.state == "cancelled" else JobState.DONE
            )
        for lane in LANES:
            counts = self.bench.redis.hvals(self.bench.keys.lane("paper", lane))
            assert {int(count) for count in counts} <= {0}


def test_whatever_happens_no_chunk_is_lost_done_twice_or_mixed_up(redis_url, make_bench):
    machine = type("Life", (JobLife,), {"redis_url": redis_url, "make_bench": make_bench})
    with (
        mock.patch.object(flows, "RING_WINDOW", RING_WINDOW),
        mock.patch("embedmill_worker.reconciler.YOUNG_JOB_S", 0.0),
    ):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
