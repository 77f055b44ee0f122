"""A token names one chunk of one job as it was submitted: what is late, sent twice or another's changes nothing."""

import dataclasses

import pytest
import redis

from embedmill.errors import KeyConflictError
from embedmill.jobs import reading
from embedmill.protocol.records import JobState
from embedmill.transport.flow import RoundTrip
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Bell, Claimant, Nothing, OtherFingerprint, Policy, Work
from embedmill_worker.jobs.processor import ChunkProcessor
from embedmill_worker.jobs.reconciler import Reconciler

LARGE = b"r" * claims.LARGE_REPLY_BYTES


def texts(count, letter="a"):
    """Texts of a chunk each."""
    return [f"{letter}{n:04d}" + "x" * 60 for n in range(count)]


def end(bench, job_id="job", how="delete"):
    bench.run(reading.end(bench.keys, job_id, how))


def go_on(bench, ref, reply=LARGE):
    claimant = Claimant(bell=Bell(model=ref.model, lane=ref.lane, token=ref.token), worker_id="w", fingerprint="f")
    return bench.run(claims.commit_and_claim(bench.keys, ref, reply, (), claimant))


def one(command):
    (reply,) = yield RoundTrip([command])
    return reply


def expiries(bench):
    """Of the keys of all jobs."""
    return {key: bench.redis.pttl(key) for key in bench.redis.keys(bench.keys.job("*"))}


@pytest.mark.parametrize("reply", [b"small", LARGE], ids=["small", "large"])
def test_a_reply_to_a_job_that_is_gone_is_none_to_the_next_one_of_its_id(bench, reply):
    bench.load_scripts("claim", "commit")
    bench.submit(texts(1, "o"))
    old = bench.take().ref
    end(bench)
    bench.submit(texts(1, "n"))
    is_wanted, new = go_on(bench, old, reply)
    assert (is_wanted, new.ref.chunk) == (False, old.chunk)
    is_wanted, again = go_on(bench, old, reply)  # its answer got lost
    assert (is_wanted, again.ref) == (False, new.ref)
    assert bench.status().state is JobState.QUEUED
    assert not bench.redis.exists(bench.keys.replies("job"))
    assert not bench.run(claims.note_position(bench.keys, old, 0))
    assert bench.commit(new)


def test_the_same_through_a_connection_that_breaks_before_its_answer(bench, monkeypatch):
    bench.load_scripts("claim", "commit")
    bench.submit(texts(1, "o"))
    old = bench.take().ref
    end(bench)
    bench.submit(texts(1, "n"))
    exchange, lost = type(bench.link)._exchange, []

    def break_once(self, ask, deadline_s):
        replies = exchange(self, ask, deadline_s)
        if not lost:
            lost.append(replies)
            raise redis.ConnectionError
        return replies

    monkeypatch.setattr(type(bench.link), "_exchange", break_once)
    is_wanted, new = go_on(bench, old)
    assert (is_wanted, len(lost), bench.status().state) == (False, 1, JobState.QUEUED)
    assert bench.commit(new)


def test_a_late_give_back_takes_no_other_chunk_of_its_token(bench):
    bench.submit(texts(1), job_id="one")
    bench.submit(texts(1), job_id="two")
    first = bench.take()
    _, second = bench.commit_and_claim(first)
    assert bench.run(one(claims.give_back(bench.keys, first.ref, "lost"))) == 0
    assert bench.commit(second)
    assert bench.status("two").state is JobState.DONE


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_server_that_has_lost_its_scripts_keeps_no_reply_that_is_not_wanted(bench, how):
    bench.submit(texts(2))
    claim = bench.take()
    end(bench, how=how)
    bench.redis.script_flush()
    assert not bench.run(claims.commit(bench.keys, claim.ref, LARGE))
    assert not bench.redis.exists(bench.keys.replies("job"))


def test_a_reply_of_a_job_without_texts_expires(bench):
    bench.submit(texts(1))
    claim = bench.take()
    bench.redis.delete(bench.keys.texts("job"))
    assert not bench.run(claims.commit(bench.keys, claim.ref, LARGE))
    assert -1 not in expiries(bench).values()


def test_a_reply_beside_a_key_of_another_type_expires(bench):
    bench.submit(texts(1))
    claim = bench.take()
    end(bench)
    bench.redis.set(bench.keys.lane("paper", "bulk"), "garbage")
    with pytest.raises(KeyConflictError):
        bench.run(claims.commit(bench.keys, claim.ref, LARGE))
    assert -1 not in expiries(bench).values()


def test_a_claim_that_fails_hides_no_commit(bench):
    bench.submit(texts(2))
    claim = bench.take()
    bench.redis.delete(bench.keys.turns("paper", "bulk"))
    bench.redis.set(bench.keys.turns("paper", "bulk"), "garbage")
    for reply in (b"small", LARGE):
        assert go_on(bench, claim.ref, reply) == (reply == b"small", Nothing())
    assert bench.status().chunks_done == 1


@pytest.mark.parametrize("reply", [b"small", LARGE])
@pytest.mark.parametrize("lost", [("commit",), ("claim",), ("commit", "claim")])
def test_a_commit_claims_the_next_chunk_also_where_the_server_has_lost_a_script(bench, reply, lost):
    bench.submit(texts(3))
    claim = bench.take()
    bench.redis.script_flush()
    bench.load_scripts(*{"commit", "claim"} - set(lost))
    is_wanted, following = go_on(bench, claim.ref, reply)
    assert (is_wanted, following.ref.chunk) == (True, claim.ref.chunk + 1)
    assert bench.redis.hlen(bench.keys.held) == 1


class Engine:
    """Serves the new fingerprint, and embeds nothing."""

    runtime = "none"

    def __init__(self, bench):
        self.card = bench.card(fingerprint="new")


def test_a_job_that_nobody_has_begun_is_not_taken_for_one_of_a_fingerprint_that_is_gone(bench):
    bench.announce(bench.card(fingerprint="new"))
    bench.live(fingerprint="new")
    for n in range(100):
        bench.submit(texts(2), job_id=f"old{n}")
    assert {bench.take("gone", "old").ref.job_id for _ in range(100)} == {f"old{n}" for n in range(100)}
    bench.submit(texts(1), job_id="fresh")
    child = ChunkProcessor(link=bench.link, keys=bench.keys, worker_id="w")
    child.work(bench.ring(), Engine(bench))
    assert bench.redis.hget(bench.keys.job("fresh"), "fingerprint") != b"old"
    for n in range(100):
        end(bench, f"old{n}")
    bench.submit(texts(1), job_id="fresher")
    child._reject_if_unserved(bench.ring(), Engine(bench), OtherFingerprint("old", b"old"))
    assert bench.redis.hget(bench.keys.job("fresher"), "fingerprint") is None


def test_jobs_that_others_serve_keep_back_no_other_tenant(bench):
    for n in range(101):
        bench.submit(texts(3), job_id=f"old{n}", tenant="big")
    assert len({bench.take("other", "old").ref.job_id for _ in range(101)}) == 101
    bench.submit(texts(60), job_id="fresh", tenant="small")
    assert [bench.take("w", "new").ref.job_id for _ in range(60)] == ["fresh"] * 60


def test_a_tenant_at_its_limit_rings_for_little(bench):
    bench.live(children=50)
    bench.submit(texts(300), tenant="t")
    policy = Policy(max_flight=10)
    bench.run(Reconciler(bench.keys, "w", max_flight=10).sweep())
    worked, in_vain = 0, -200  # what the submission and the sweep have rung
    while worked < 20:
        held = None
        while (bell := bench.pop()) is not None:
            claim = bench.claim(bell, policy=policy)
            if isinstance(claim, Work):
                held, worked = claim, worked + 1
            else:
                in_vain += 1
        assert bench.run(claims.commit(bench.keys, held.ref, b"reply", max_flight=10))
    assert in_vain <= 2 * worked


def test_a_record_that_begins_anew_is_gone_through_in_steps(bench):
    bench.submit(texts(700))
    for _ in range(600):
        bench.commit(bench.take())
    bench.redis.hset(bench.keys.job("job"), "next", 0)
    assert isinstance(bench.take(), Work)


def test_no_ring_stays_of_a_lane_that_is_forgotten(bench):
    bench.submit(texts(1), tenant="acme")
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        bench.redis.delete(key)
    sweeper = Reconciler(bench.keys, "w")
    for _ in range(5):
        bench.run(sweeper.sweep())
    assert [key for key in bench.redis.keys(f"{bench.namespace}*") if b":ring:" in key] == []


def test_a_cancelled_chunk_counts_no_longer_for_its_tenant_once_its_child_has_seen_it(bench):
    policy = Policy(max_flight=10)
    bench.submit(texts(4))
    claim = dataclasses.replace(bench.claim(bench.ring(), policy=policy), losses=1)  # its texts go one by one
    end(bench, how="cancel")
    ChunkProcessor(link=bench.link, keys=bench.keys, worker_id="w", policy=policy)._process(claim, Engine(bench))
    assert bench.redis.hlen(bench.keys.held) == 0
    assert bench.redis.zscore(bench.keys.flights("paper", "bulk"), "") == 0
