"""A job's record in Redis, through the scripts: nothing half, nothing twice, nothing left behind."""

import json
import random

import pytest

from embedmill.errors import JobConflictError, MessageError, QueueFullError, ResultExpiredError
from embedmill.jobs import reading, submission
from embedmill.jobs.submission import Admission
from embedmill.limits import BELLS_A_CHILD, MAX_LOSSES, UNFINISHED_TTL_S
from embedmill.protocol.chunks import unpack_chunk
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.records import JobState
from embedmill.protocol.vectors import Dtype
from embedmill.transport import flow
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Bell, Late, Nothing, OtherFingerprint, Work
from embedmill_worker.jobs.reconciler import Reconciler

#: Doorbells of a lane whose children no sweep has counted.
USUAL_BELLS = 8

#: Long enough for a chunk of its own.
TEXTS = [f"{n:04d} " * 16 for n in range(5)]


def lane_counts(bench, lane="bulk"):
    return bench.counts(lane=lane)


def is_idle(bench, lane="bulk"):
    """Whether nothing is left of a lane's work."""
    return set(lane_counts(bench, lane).values()) == {0} and not bench.redis.zcard(bench.keys.active("paper", lane))


def test_a_half_written_job_is_never_visible(bench, monkeypatch):
    monkeypatch.setattr(submission, "STAGE_BYTES", 100)
    storing = submission.submit(bench.keys, bench.prepare(TEXTS), Admission())
    ask = next(storing)
    steps = 0
    while True:
        with pytest.raises(ResultExpiredError):
            bench.status()
        assert bench.doorbells() == []
        assert is_idle(bench)
        assert {name.split(":")[0] for name in bench.key_names()} <= {"staged"}
        replies = bench.run(iter_ask(ask))
        assert all(0 < bench.redis.pttl(key) <= submission.STAGED_TTL_S * 1000 for key in staged(bench))
        try:
            ask = storing.send(replies)
        except StopIteration:
            break
        steps += 1
    assert steps == 2
    assert bench.status().state is JobState.QUEUED
    assert staged(bench) == []


def iter_ask(ask):
    return (yield ask)


def staged(bench):
    return bench.redis.keys(f"{bench.keys.job('job')}:staged:*")


def test_a_job_whose_texts_were_lost_on_the_way_is_staged_again(bench):
    storing = submission.submit(bench.keys, bench.prepare(TEXTS), Admission())
    ask = next(storing)
    without_texts = flow.RoundTrip([c for c in ask.commands if c[0] != "HSET"])
    again = storing.send(bench.run(iter_ask(without_texts)))
    assert [c[0] for c in again.commands] == [c[0] for c in ask.commands]
    with pytest.raises(StopIteration):
        storing.send(bench.run(iter_ask(again)))
    assert bench.status().chunks == 5


def test_texts_that_never_stay_are_given_up(bench):
    storing = submission.submit(bench.keys, bench.prepare(TEXTS), Admission())
    ask = next(storing)
    with pytest.raises(QueueFullError):
        for _ in range(9):
            ask = storing.send(bench.run(iter_ask(flow.RoundTrip([*ask.commands[-2:]]))))


def test_the_same_id_and_content_again_changes_nothing(bench):
    bench.submit(TEXTS)
    bench.work()
    before = bench.redis.hgetall(bench.keys.job("job")), bench.doorbells(), lane_counts(bench)
    bench.submit(TEXTS, ttl_s=5.0, lane="interactive")
    assert (bench.redis.hgetall(bench.keys.job("job")), bench.doorbells(), lane_counts(bench)) == before
    assert staged(bench) == []


@pytest.mark.parametrize(
    "other", [{"texts": TEXTS[:-1]}, {"options": EmbedOptions(dtype=Dtype.INT8)}, {"model": "other"}]
)
def test_the_same_id_with_other_content_is_a_conflict(bench, other):
    bench.submit(TEXTS)
    with pytest.raises(JobConflictError, match="job job exists"):
        bench.submit(**{"texts": TEXTS, **other})
    while bench.work():
        pass
    assert bench.status().state is JobState.DONE
    with pytest.raises(JobConflictError):
        bench.submit(**{"texts": TEXTS, **other})
    assert staged(bench) == []


def test_an_empty_job_is_done_at_once(bench):
    bench.submit([])
    status = bench.status()
    assert (status.state, status.n_texts, status.chunks) == (JobState.DONE, 0, 0)
    assert bench.key_names() == {"", "events"}
    assert bench.doorbells() == []
    assert is_idle(bench)


def test_a_job_of_rejected_texts_alone_is_done_at_once(bench):
    bench.submit(["\ud800"])
    status = bench.status()
    assert (status.state, status.n_texts, status.texts_done) == (JobState.DONE, 1, 1)


def test_the_largest_job_takes_a_few_round_trips_and_is_cut_as_prepared(bench):
    texts = [str(n) for n in range(65_536)]
    prepared = bench.submit(texts, card=bench.card(1e6))
    assert bench.status().n_texts == 65_536
    assert bench.counts()["open"] == bench.status().chunks == len(prepared.payloads)


def test_every_key_of_an_unfinished_job_has_a_life(bench):
    bench.submit(TEXTS)
    bench.live()
    claim = bench.take()
    bench.run(claims.note_position(bench.keys, claim.ref, 0))
    assert bench.give_back(claim.ref.token)
    bench.work()
    bench.take()
    assert bench.key_names() == {"", "texts", "crashes", "replies", "events"}
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        assert 0 < bench.redis.pttl(key) <= UNFINISHED_TTL_S * 1000


def test_a_finished_job_keeps_its_reply_for_its_ttl_and_nothing_else(bench):
    bench.submit(TEXTS, ttl_s=30.0)
    while bench.work():
        pass
    assert bench.key_names() == {"", "replies", "events"}
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        assert 25_000 < bench.redis.pttl(key) <= 30_000
    assert is_idle(bench)


def test_a_reply_is_gone_when_its_ttl_is_over(bench):
    bench.submit(TEXTS[:1], ttl_s=0.05)
    bench.work()
    for _ in range(1_000):
        if not bench.key_names():
            break
        bench.redis.execute_command("PING")
    else:
        raise AssertionError(bench.key_names())
    with pytest.raises(ResultExpiredError):
        bench.status()


def test_a_commit_removes_the_texts_and_tells_the_waiters_in_one_step(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    chunk = claim.ref.chunk
    assert bench.commit(claim)
    assert not bench.redis.hexists(bench.keys.texts("job"), chunk)
    assert bench.redis.hexists(bench.keys.replies("job"), chunk)
    assert bench.redis.hlen(bench.keys.held) == 0
    events = bench.run(reading.read_events(bench.keys, "job", "0-0", 0.001))
    assert (events.chunks, events.over) == ((chunk,), None)


def test_the_first_commit_wins(bench):
    bench.submit(TEXTS)
    ref = bench.take().ref
    assert bench.run(claims.commit(bench.keys, ref, b"first"))
    assert not bench.run(claims.commit(bench.keys, ref, b"second"))
    assert bench.redis.hget(bench.keys.replies("job"), ref.chunk) == b"first"
    assert bench.status().chunks_done == 1


def test_a_commit_may_claim_the_next_chunk_by_the_same_doorbell(bench):
    bench.submit(TEXTS)
    first = bench.take()
    is_wanted, second = bench.commit_and_claim(first)
    assert is_wanted
    assert (second.ref.token, second.ref.chunk) == (first.ref.token, first.ref.chunk + 1)
    assert bench.redis.hlen(bench.keys.held) == 1
    for _ in TEXTS[1:-1]:
        is_wanted, second = bench.commit_and_claim(second)
        assert is_wanted
    assert bench.commit_and_claim(second) == (True, Nothing())
    assert (bench.status().state, bench.redis.hlen(bench.keys.held)) == (JobState.DONE, 0)


def test_a_commit_and_claim_whose_answer_got_lost_may_be_sent_again(bench):
    bench.submit(TEXTS)
    first = bench.take()
    _, second = bench.commit_and_claim(first)
    is_wanted, again = bench.commit_and_claim(first)
    assert (is_wanted, again.ref) == (False, second.ref)
    assert bench.status().chunks_done == 1
    assert not bench.redis.hexists(bench.keys.replies("job"), second.ref.chunk)
    assert bench.commit(again)


def test_a_commit_and_claim_of_two_jobs_in_turn_may_be_sent_again(bench):
    bench.submit(TEXTS[:2], job_id="one")
    bench.submit(TEXTS[:2], job_id="two")
    first = bench.take()
    _, second = bench.commit_and_claim(first)
    assert second.ref.job_id != first.ref.job_id
    is_wanted, again = bench.commit_and_claim(first)
    assert (is_wanted, again.ref) == (False, second.ref)
    assert bench.commit(again)


def test_nothing_is_claimed_with_a_commit_while_queues_that_go_first_have_messages(bench):
    bench.submit(TEXTS)
    bench.submit(TEXTS, job_id="urgent", lane="interactive")
    others = (bench.keys.queue("paper", "interactive"), bench.keys.embed_queue)
    first = bench.take()
    assert bench.commit_and_claim(first, yields_to=others) == (True, Nothing())
    assert bench.counts()["open"] == len(TEXTS) - 1
    assert bench.doorbells()  # for whoever is free next
    bench.redis.delete(*others)
    _, following = bench.commit_and_claim(bench.take(), yields_to=others)
    assert isinstance(following, Work)


def test_a_chunk_that_was_given_back_leaves_its_token_to_no_other(bench):
    bench.load_scripts("commit", "claim")
    bench.submit(TEXTS)
    first = bench.take()
    assert bench.give_back(first.ref.token) is not None
    is_wanted, following = bench.commit_and_claim(first)
    assert not is_wanted
    assert following.ref.chunk == first.ref.chunk  # the next one of its job, under a crash that is counted
    assert following.crashes == 1


LARGE = b"r" * claims.LARGE_REPLY_BYTES


def committed(bench, claim, reply=LARGE):
    return bench.run(claims.commit(bench.keys, claim.ref, reply))


def test_a_large_reply_is_stored_and_the_first_one_wins(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    assert committed(bench, claim)
    assert not committed(bench, claim, LARGE + b"again")
    assert bench.redis.hgetall(bench.keys.replies("job")) == {b"%d" % claim.ref.chunk: LARGE}
    assert bench.redis.pttl(bench.keys.replies("job")) > 0
    assert bench.status().chunks_done == 1


@pytest.mark.parametrize("how", ["given back", "cancelled", "deleted", "another", "shorter"])
def test_of_a_large_reply_that_is_not_wanted_nothing_stays(bench, how):
    bench.submit(TEXTS)
    bench.take()
    claim = bench.take()  # of chunk 1
    if how == "given back":
        bench.give_back(claim.ref.token)
    elif how == "cancelled":
        bench.run(reading.end(bench.keys, "job", "cancel"))
    else:
        bench.run(reading.end(bench.keys, "job", "delete"))
        if how != "deleted":
            bench.submit(TEXTS[:1] if how == "shorter" else TEXTS)
    assert not committed(bench, claim)
    assert not bench.redis.exists(bench.keys.replies("job"))


def test_a_large_reply_that_is_late_changes_nothing_of_a_job_that_is_done(bench):
    bench.submit(TEXTS[:1])
    late = bench.take()
    bench.give_back(late.ref.token)
    assert committed(bench, bench.take(), LARGE)
    assert bench.status().state is JobState.DONE
    assert not committed(bench, late, LARGE + b"late")
    assert bench.redis.hget(bench.keys.replies("job"), 0) == LARGE


def test_a_large_reply_goes_another_way_where_a_command_of_its_own_is_refused(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    bench.redis.set(bench.keys.replies("job"), "garbage")
    assert committed(bench, claim)
    bench.redis.script_flush()
    again = bench.take()
    bench.redis.script_flush()
    assert committed(bench, again)
    assert set(bench.redis.hgetall(bench.keys.replies("job")).values()) == {LARGE}


def test_a_large_commit_and_claim_whose_answer_got_lost_may_be_sent_again(bench):
    bench.submit(TEXTS)
    first = bench.take()
    following = claims.Claimant(
        bell=Bell(model="paper", lane="bulk", token=first.ref.token), worker_id="w", fingerprint="f"
    )
    _, second = bench.run(claims.commit_and_claim(bench.keys, first.ref, LARGE, (), following))
    is_wanted, again = bench.run(claims.commit_and_claim(bench.keys, first.ref, LARGE, (), following))
    assert (is_wanted, again.ref) == (False, second.ref)
    assert set(bench.redis.hgetall(bench.keys.replies("job"))) == {b"%d" % first.ref.chunk}


def test_a_claim_whose_answer_got_lost_is_asked_for_again(bench):
    bench.submit(TEXTS)
    bell = bench.pop()
    first = bench.claim(bell, "w1")
    assert bench.claim(bell, "w1").ref == first.ref
    assert bench.claim(bell, "w2") == Nothing()
    assert bench.take("w2").ref.chunk != first.ref.chunk
    assert bench.counts()["open"] == len(TEXTS) - 2


def test_no_chunk_is_given_twice_and_none_is_kept_back(bench):
    bench.submit(TEXTS)
    assert {bench.take().ref.chunk for _ in TEXTS} == set(range(len(TEXTS)))
    assert bench.take() == Nothing()
    assert bench.redis.hlen(bench.keys.held) == len(TEXTS)


def test_a_zombie_s_commit_is_refused_once_its_chunk_was_given_back(bench):
    bench.submit(TEXTS[:1])
    zombie = bench.take("w1")
    assert bench.give_back(zombie.ref.token, "lost")
    again = bench.take("w2")
    assert not bench.commit(zombie)
    assert bench.commit(again)
    assert bench.status().state is JobState.DONE


def test_a_dead_worker_s_chunk_is_taken_over_and_the_loss_counted(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live("w1")
    lost = bench.take("w1")
    bench.die("w1")
    assert sweep() == 1
    claim = bench.take("w2")
    assert claim.ref.chunk == lost.ref.chunk
    assert (claim.losses, claim.crashes) == (1, 0)


def test_a_job_keeps_to_the_fingerprint_of_its_first_claim(bench):
    bench.submit(TEXTS)
    assert bench.status().fingerprint == ""
    bench.take(fingerprint="f")
    n_bells = len(bench.doorbells())
    assert bench.take(fingerprint="g") == OtherFingerprint("f", b"f")
    assert len(bench.doorbells()) == n_bells + 1  # for a worker that can serve it
    assert bench.status().fingerprint == "f"
    assert bench.counts()["open"] == len(TEXTS) - 1


def test_workers_of_two_fingerprints_find_their_jobs_among_many(bench):
    for n in range(150):
        bench.submit(TEXTS[:2], job_id=f"f{n}")
    for _ in range(150):
        assert bench.take(fingerprint="f").ref.chunk == 0
    for n in range(5):
        bench.submit(TEXTS[:2], job_id=f"g{n}")
    found = [bench.take(fingerprint="g") for _ in range(14)]
    assert {claim.ref.job_id for claim in found if isinstance(claim, Work)} == {f"g{n}" for n in range(5)}
    assert all(isinstance(bench.take(fingerprint="f"), Work) for _ in range(150))


def test_work_that_nobody_began_before_its_deadline_is_late(bench):
    bench.submit(TEXTS, deadline_s=0.001)
    bell = bench.pop()
    for _ in range(1_000):
        claim = bench.claim(bell)
        if isinstance(claim, Late):
            break
    assert isinstance(claim, Late)
    assert claim.waited_ms > claim.deadline_ms == 1
    assert unpack_chunk(claim.texts).texts
    assert bench.commit(claim)


def test_a_crash_is_counted_under_the_text_that_was_alone(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    for position in (4, 4, 2):
        assert bench.run(claims.note_position(bench.keys, claim.ref, position))
        assert bench.give_back(claim.ref.token)
        claim = bench.take()
    assert (claim.crashes, claim.crashes_alone, claim.losses) == (3, {4: 2, 2: 1}, 0)


def test_a_kill_is_a_loss_of_the_text_that_was_alone_and_no_crash(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    for position in (None, 4, 4):
        if position is not None:
            bench.run(claims.note_position(bench.keys, claim.ref, position))
        assert bench.give_back(claim.ref.token, "lost")
        claim = bench.take()
    assert (claim.crashes, claim.crashes_alone, claim.losses, claim.losses_alone) == (0, {}, 1, {4: 2})
    assert claim.is_suspect


def test_a_crash_when_no_text_was_alone_counts_as_a_loss_besides_so_that_it_has_an_end(bench):
    bench.submit(TEXTS)
    claim = bench.take()
    for _ in range(MAX_LOSSES):
        assert bench.give_back(claim.ref.token)
        claim = bench.take()
    assert (claim.crashes, claim.losses) == (MAX_LOSSES, MAX_LOSSES)


def test_a_text_under_which_whole_workers_are_lost_is_known_and_its_neighbours_are_not_blamed(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS[:1])
    for n in range(MAX_LOSSES + 1):
        bench.live()
        bench.live(f"w{n}")
        claim = bench.take(f"w{n}")
        assert claim.is_suspect == (n > 0)
        if n:
            bench.run(claims.note_position(bench.keys, claim.ref, 0))
        bench.die(f"w{n}")
        assert sweep() == 1
    claim = bench.take("w")
    assert (claim.losses, claim.losses_alone) == (1, {0: MAX_LOSSES})


def test_a_chunk_that_was_given_back_is_the_next_one_of_its_tenant(bench):
    bench.submit(TEXTS)
    bench.submit(TEXTS, job_id="other")
    first, second = bench.take(), bench.take()
    bench.take()
    for claim in (first, second):
        assert str(bench.give_back(claim.ref.token)) == f"{claim.ref.job_id}:{claim.ref.chunk}"
    again = [bench.take().ref for _ in range(2)]
    assert {(ref.job_id, ref.chunk) for ref in again} == {("job", 0), ("other", 0)}


def test_a_crash_after_the_commit_changes_nothing(bench):
    bench.submit(TEXTS)
    claim = bench.work()
    for token in (claim.ref.token, "6a1f8e0c-some-other-task", "1-1"):
        assert bench.give_back(token) is None
    assert bench.redis.exists(f"{bench.keys.job('job')}:crashes") == 0


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_over_takes_no_commit_no_claim_and_no_note(bench, how):
    bench.submit(TEXTS)
    first, second, third = bench.take(), bench.take(), bench.take()
    assert bench.run(reading.end(bench.keys, "job", how))
    assert not bench.run(claims.note_position(bench.keys, first.ref, 1))
    assert not bench.commit(first)
    assert bench.take() == Nothing()
    assert bench.give_back(second.ref.token) is None
    assert not bench.ask(claims.give_back(bench.keys, third.ref, "lost"))
    assert bench.redis.hlen(bench.keys.held) == 0
    assert bench.key_names() == ({"", "events"} if how == "cancel" else set())
    assert is_idle(bench)


def test_a_cancelled_job_stays_as_a_tombstone_for_its_ttl(bench):
    bench.submit(TEXTS, ttl_s=30.0)
    bench.work()
    bench.run(reading.end(bench.keys, "job", "cancel"))
    assert bench.status().state is JobState.CANCELLED
    events = bench.run(reading.read_events(bench.keys, "job", "0-0", 0.001))
    assert events.over is JobState.CANCELLED
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        assert 25_000 < bench.redis.pttl(key) <= 30_000


def test_cancelling_a_finished_job_leaves_it_finished(bench):
    bench.submit(TEXTS)
    while bench.work():
        pass
    bench.run(reading.end(bench.keys, "job", "cancel"))
    assert bench.status().state is JobState.DONE
    assert bench.redis.hlen(bench.keys.replies("job")) == 5


def test_there_is_nothing_to_end_of_a_job_that_is_not_there(bench):
    assert not bench.run(reading.end(bench.keys, "job", "cancel"))
    assert not bench.run(reading.end(bench.keys, "job", "delete"))


def test_vectors_of_a_deleted_job_never_reach_the_next_one_of_its_id(bench):
    bench.submit(TEXTS)
    old, older = bench.take(), bench.take()
    bench.run(reading.end(bench.keys, "job", "delete"))
    bench.submit(["other " * 12, "words " * 12], lane="interactive")
    assert not bench.run(claims.note_position(bench.keys, old.ref, 1))
    assert not bench.commit(old)
    assert bench.give_back(older.ref.token) is None
    assert bench.take() == Nothing()
    assert bench.status().chunks_done == 0
    assert bench.key_names() == {"", "texts"}
    assert set(lane_counts(bench).values()) == {0}
    assert lane_counts(bench, "interactive")["texts"] == 2


def test_a_lane_holds_few_doorbells_and_always_enough_of_them(bench):
    for n in range(20):
        bench.submit(TEXTS, job_id=f"job{n}")
    bench.live()
    for n_left in range(100, 0, -1):
        assert min(n_left, USUAL_BELLS // 2) <= len(bench.doorbells()) <= USUAL_BELLS
        assert isinstance(bench.work(), Work)
    assert bench.doorbells() == []
    assert is_idle(bench)


def test_chunks_may_finish_in_any_order(bench):
    bench.submit(TEXTS)
    taken = [bench.take() for _ in TEXTS]
    random.Random(3).shuffle(taken)
    for claim in taken:
        assert bench.commit(claim)
    replies = bench.run(reading.fetch(bench.keys, "job", range(5)))
    assert sorted(int(i) for reply in replies for i in reply.indices) == list(range(5))


def test_doorbells_beyond_the_work_find_nothing(bench):
    bench.submit(TEXTS[:1])
    assert isinstance(bench.take(), Work)
    assert bench.take() == Nothing()
    assert bench.claim(bench.pop()) == Nothing()


def sweeper(bench, monkeypatch, worker_id="w"):
    reconciler = Reconciler(bench.keys, worker_id)
    return lambda: bench.run(reconciler.sweep())


def test_lost_doorbells_are_rung_again_by_the_next_sweep(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live(children=4)
    bench.redis.delete(bench.keys.queue("paper", "bulk"))
    assert sweep() == 0
    assert len(bench.doorbells()) == len(TEXTS)


def test_the_sweep_rings_for_each_child_that_serves_a_lane(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    for n in range(20):
        bench.submit(TEXTS, job_id=f"job{n}")
    bench.live(children=3)
    bench.live("w2", children=2)
    sweep()
    assert len(bench.doorbells()) == BELLS_A_CHILD * 5


def test_a_dead_worker_s_chunk_is_given_back_at_once(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live()
    bench.live("w1")
    bench.take("w1")
    bench.die("w1")
    assert sweep() == 1
    assert bench.claim(bench.pop(), "w").losses == 1


def test_a_chunk_that_its_live_worker_forgot_is_given_back_and_the_try_counted(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    claim = bench.take("w")
    bench.live(active=[claim.ref.token])
    assert [sweep(), sweep()] == [0, 0]
    bench.live(active=[])
    assert [sweep(), sweep()] == [0, 1]
    assert bench.take("w2").losses == 1


def test_tries_without_a_death_and_without_a_result_have_an_end(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS[:1])
    bench.live()
    for position in (None, *[4] * MAX_LOSSES):
        claim = bench.take()
        if position is not None:
            bench.run(claims.note_position(bench.keys, claim.ref, position))
        assert [sweep(), sweep()] == [0, 1]
    claim = bench.take()
    assert (claim.losses, claim.losses_alone, claim.crashes) == (1, {4: MAX_LOSSES}, 0)


def test_after_its_last_text_a_chunk_s_loss_is_no_text_s(bench):
    bench.submit(TEXTS)
    ref = bench.take().ref
    assert bench.run(claims.note_position(bench.keys, ref, 4))
    assert bench.run(claims.note_position(bench.keys, ref, None))
    assert bench.give_back(ref.token, "lost")
    claim = bench.take()
    assert (claim.losses, claim.losses_alone) == (1, {})


def test_one_worker_sweeps_at_a_time(bench, monkeypatch):
    first, second = sweeper(bench, monkeypatch, "w1"), sweeper(bench, monkeypatch, "w2")
    bench.submit(TEXTS)
    bench.take("gone")
    assert [second(), first()] == [1, 0]
    bench.take("gone")
    assert [first(), second()] == [0, 1]


def test_an_expired_job_leaves_the_lane_and_dead_workers_the_list(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live("w1")
    bench.die("w1")
    bench.redis.delete(bench.keys.job("job"))
    sweep()
    assert is_idle(bench)
    assert bench.redis.zcard(bench.keys.workers) == 0


def test_no_text_is_in_a_doorbell_an_event_or_the_record(bench):
    bench.submit(["zebra quartz " * 5])
    bench.work()
    for key in bench.redis.keys(f"{bench.namespace}*"):
        assert b"quartz" not in dump(bench.redis, key), key


def dump(client, key):
    kind = client.type(key)
    if kind == b"hash":
        return b"".join(b" ".join(pair) for pair in client.hgetall(key).items())
    if kind == b"list":
        return b"".join(client.lrange(key, 0, -1))
    if kind == b"stream":
        return json.dumps(str(client.xrange(key))).encode()
    return client.get(key) if kind == b"string" else b""


@pytest.fixture
def small_valkey(valkey_binary):
    with EmbeddedValkey(persistent=False, maxmemory_bytes=6 << 20) as server:
        yield server


def test_a_full_redis_refuses_new_work_and_finishes_what_it_has(small_valkey, namespace, make_bench, monkeypatch):
    bench = make_bench(small_valkey.url, namespace)
    sweep = sweeper(bench, monkeypatch)
    bench.live()
    texts = [random.Random(n).randbytes(20_000).hex() for n in range(10)]
    with pytest.raises(QueueFullError):
        for n in range(1_000):
            bench.submit(texts, job_id=f"job{n}")
            jobs = n + 1
    filler = 1
    while True:
        try:
            bench.redis.set(f"{namespace}:filler:{filler}", bytes(10_000))
        except Exception as error:
            assert "maxmemory" in str(error)
            break
        filler += 1
    bench.take("dead")
    bench.live()
    assert [sweep(), sweep()] == [1, 0]
    assert bench.run(reading.end(bench.keys, f"job{jobs - 1}", "cancel"))
    assert bench.run(reading.end(bench.keys, f"job{jobs - 2}", "delete"))
    work = bench.claim(bench.pop())
    assert isinstance(work, Work)
    assert bench.run(claims.commit(bench.keys, work.ref, b"reply", [b"a dead letter" * 100]))
    assert bench.redis.xlen(bench.keys.dead) == 1
    while bench.work():
        pass
    assert all(bench.status(f"job{n}").state is JobState.DONE for n in range(jobs - 2))
    bench.close()


def test_what_cannot_be_read_in_redis_is_a_message_error(bench):
    bench.submit(TEXTS)
    bench.redis.hset(bench.keys.job("job"), "options", b"\x80junk")
    with pytest.raises(MessageError):
        bench.status()


def test_a_reply_that_redis_refused_counts_as_nothing(bench):
    bench.submit(TEXTS[:1])
    for _ in range(MAX_LOSSES + 2):
        claim = bench.take("w1")
        assert not claim.is_suspect
        assert bench.give_back(claim.ref.token, "refused")
        assert bench.give_back(claim.ref.token, "refused") is None
    bench.work()
    assert bench.status().state is JobState.DONE
