"""Lanes are shared: tenants take turns by the tokens that they are served, and jobs of a tenant one after the other."""

import secrets
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.errors import InvalidRequestError, QueueFullError
from embedmill.jobs import reading, submission
from embedmill.jobs.submission import Admission
from embedmill.status import read_status
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Nothing, Policy, Work
from embedmill_worker.jobs.reconciler import Reconciler

#: One chunk each, all of about the same cost.
TEXTS = [f"{n:04d} " * 16 for n in range(10)]

#: Tokens of the costliest text here, by the card's estimate.
MOST_TOKENS = 30


def served(bench, n, policy=None, **lane):
    """Who gets the next turns."""
    taken = [bench.claim(bench.ring(**lane), policy=policy) for _ in range(n)]
    return [claim.ref for claim in taken if isinstance(claim, Work)]


def test_one_small_job_is_served_as_if_there_were_two_tenants(bench):
    for n in range(50):
        bench.submit(TEXTS, job_id=f"many{n}", tenant="many")
    served(bench, 20)
    bench.submit(TEXTS, job_id="one", tenant="one")
    turns = [ref.tenant for ref in served(bench, 20)]
    assert turns.count("one") == 10
    assert all("one" in turns[start : start + 3] for start in range(0, 18))


def test_jobs_of_one_tenant_take_turns(bench):
    for n in range(3):
        bench.submit(TEXTS, job_id=f"job{n}")
    assert [ref.job_id for ref in served(bench, 6)] == ["job0", "job1", "job2"] * 2
    bench.submit(TEXTS[:1], job_id="late")
    assert "late" in [ref.job_id for ref in served(bench, 4)]


def test_who_was_idle_has_saved_up_nothing_and_who_was_served_owes_nothing(bench):
    bench.submit(TEXTS, job_id="a", tenant="a")
    bench.submit(TEXTS[:1], job_id="b", tenant="b")
    assert Counter(ref.tenant for ref in served(bench, 8)) == {"a": 7, "b": 1}
    bench.submit(TEXTS, job_id="b2", tenant="b")
    assert Counter(ref.tenant for ref in served(bench, 4)) == {"a": 2, "b": 2}


def test_a_weight_is_that_many_tenants_share(bench):
    policy = Policy(weights={"gold": 3.0})
    for tenant in ("gold", "free"):
        for n in range(3):
            bench.submit(TEXTS, job_id=f"{tenant}{n}", tenant=tenant)
    assert Counter(ref.tenant for ref in served(bench, 24, policy)) == {"gold": 18, "free": 6}


def test_a_tenant_at_its_limit_waits_for_its_own_commits_alone(bench):
    policy = Policy(max_flight=40)  # two of these chunks: what is under work may pass it by one
    bench.submit(TEXTS, job_id="a", tenant="a")
    bench.submit(TEXTS[:4], job_id="b", tenant="b")
    taken = [bench.claim(bench.ring(), policy=policy) for _ in range(6)]
    assert Counter(claim.ref.tenant for claim in taken if isinstance(claim, Work)) == {"a": 2, "b": 2}
    assert taken[-1] == Nothing()
    bench.redis.delete(bench.keys.queue("paper", "bulk"))
    mine = next(claim for claim in taken if isinstance(claim, Work) and claim.ref.tenant == "a")
    assert bench.run(claims.commit(bench.keys, mine.ref, b"reply", max_flight=policy.max_flight))
    assert len(bench.doorbells()) == 1
    assert bench.claim(bench.pop(), policy=policy).ref.tenant == "a"


def test_tokens_under_work_that_nobody_holds_are_forgotten(bench):
    bench.live()
    bench.submit(TEXTS, tenant="a")
    bench.redis.zadd(bench.keys.flights("paper", "bulk"), {"a": 1_000})
    policy = Policy(max_flight=40)
    assert bench.claim(bench.ring(), policy=policy) == Nothing()
    sweeper = Reconciler(bench.keys, "w", max_flight=policy.max_flight)
    for _ in range(2):
        bench.run(sweeper.sweep())
    assert isinstance(bench.claim(bench.pop(), policy=policy), Work)


def test_a_tenant_s_full_share_refuses_its_own_work_alone(bench):
    admission = Admission(max_queued_tokens=300)
    for n in range(2):
        request = bench.prepare(TEXTS[:6], job_id=f"a{n}", tenant="a")
        bench.run(submission.submit(bench.keys, request, admission))
    with pytest.raises(QueueFullError):
        bench.run(submission.submit(bench.keys, bench.prepare(TEXTS, job_id="a9", tenant="a"), admission))
    bench.run(submission.submit(bench.keys, bench.prepare(TEXTS, job_id="b", tenant="b"), admission))


def test_a_status_names_the_tenants_with_the_most_work(bench):
    for n in range(105):
        bench.submit(TEXTS[: 2 if n == 50 else 1], job_id=f"job{n}", tenant=f"t{n}")
    bench.submit(TEXTS[:1], job_id="nobody")
    (lane,) = read_status(bench.settings).lanes
    assert len(lane.tenants) == 100
    assert (lane.tenants[0].tenant, lane.tenants[0].tokens) == ("t50", 44)
    while bench.work():
        pass
    bench.live()
    assert all(lane.tenants == () for lane in read_status(bench.settings).lanes)


@pytest.mark.parametrize("tenant", ["a b", "é", "x" * 65, 5, "a:b", "a\n"])
def test_no_tenant_has_such_a_name(bench, tenant):
    with pytest.raises(InvalidRequestError, match="tenant"):
        bench.prepare(TEXTS, tenant=tenant)


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_cancelled_job_takes_no_turn(bench, end):
    for n in range(3):
        bench.submit(TEXTS, job_id=f"job{n}", tenant="a")
    bench.run(reading.end(bench.keys, "job0", end))
    assert {ref.job_id for ref in served(bench, 4)} == {"job1", "job2"}
    assert bench.redis.zcard(bench.keys.ring_prefix("paper", "bulk") + "a") == 2


#: What may happen: a tenant submits a job of so many chunks, or so many chunks are claimed.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abcd"), st.integers(1, 8)),
        st.tuples(st.just("claim"), st.integers(1, 6), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


def test_no_two_tenants_with_work_are_ever_far_apart(redis_url, make_bench):
    @settings(max_examples=25, derandomize=True, deadline=None)
    @given(EVENTS)
    def share(events):
        bench = make_bench(redis_url, "fair" + secrets.token_hex(6))
        take_turns(bench, events)
        bench.close()

    share()


def take_turns(bench, events):
    """Checks that of two tenants that have work neither is served two chunks more than the other meanwhile."""
    waiting: Counter[str] = Counter()
    #: Tokens that each of a pair was served since both have work.
    since: dict[tuple[str, str], Counter[str]] = {}
    for n, (what, who, size) in enumerate(events):
        if what == "submit":
            bench.submit(TEXTS[:size], job_id=f"job{n}", tenant=who)
            waiting[who] += size
            continue
        for _ in range(who):
            claim = bench.take()
            if claim == Nothing():
                assert not +waiting
                break
            tenant = claim.ref.tenant
            for pair in [(a, b) for a in waiting for b in waiting if a < b]:
                if waiting[pair[0]] > 0 and waiting[pair[1]] > 0:
                    counted = since.setdefault(pair, Counter())
                    counted[tenant] += 22
                    assert abs(counted[pair[0]] - counted[pair[1]]) <= 2 * MOST_TOKENS
                else:
                    since.pop(pair, None)
            waiting[tenant] -= 1
    while isinstance(bench.take(), Work):
        pass
    assert bench.counts()["open"] == 0
