"""A job's record in Redis, through the scripts: nothing half, nothing twice, nothing left behind."""

import json
import random

import pytest

from embedmill.errors import JobConflictError, MessageError, QueueFullError, ResultExpiredError
from embedmill.jobs import reading, submission
from embedmill.jobs.submission import Admission
from embedmill.limits import MAX_LOSSES, RING_WINDOW, UNFINISHED_TTL_S
from embedmill.protocol.chunks import unpack_chunk
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.records import JobState
from embedmill.protocol.vectors import Dtype
from embedmill.transport import flow
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import ChunkRef, Late, NotOurs, OtherFingerprint, OtherVersion, Work
from embedmill_worker.jobs.reconciler import Reconciler

#: Long enough for a chunk of its own.
TEXTS = [f"{n:04d} " * 16 for n in range(5)]


def lane_counts(bench, lane="bulk"):
    counts = bench.redis.hgetall(bench.keys.lane("paper", lane))
    return {name.decode(): int(value) for name, value in counts.items()}


def test_a_half_written_job_is_never_visible(bench, monkeypatch):
    monkeypatch.setattr(submission, "STAGE_BYTES", 100)
    storing = submission.submit(bench.keys, bench.prepare(TEXTS), Admission())
    ask = next(storing)
    steps = 0
    while True:
        with pytest.raises(ResultExpiredError):
            bench.status()
        assert bench.doorbells() == []
        assert lane_counts(bench) == {}
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
            ask = storing.send(bench.run(iter_ask(flow.RoundTrip([ask.commands[-1]]))))


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
    assert lane_counts(bench) == {}


def test_a_job_of_rejected_texts_alone_is_done_at_once(bench):
    bench.submit(["\ud800"])
    status = bench.status()
    assert (status.state, status.n_texts, status.texts_done) == (JobState.DONE, 1, 1)


def test_the_largest_job_takes_a_few_round_trips_and_is_cut_as_prepared(bench):
    texts = [str(n) for n in range(65_536)]
    prepared = bench.submit(texts, card=bench.card(1e6))
    assert bench.status().n_texts == 65_536
    assert len(bench.doorbells()) == min(RING_WINDOW, len(prepared.payloads))


def test_every_key_of_an_unfinished_job_has_a_life(bench):
    bench.submit(TEXTS)
    bench.live()
    ref = bench.pop()
    bench.claim(ref)
    bench.run(claims.note_position(bench.keys, ref, 0))
    bench.run(claims.release(bench.keys, ref.token))
    bench.work()
    second = bench.pop()
    bench.claim(second)
    assert bench.key_names() == {"", "texts", "weights", "claims", "crashes", "replies", "events"}
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        assert 0 < bench.redis.pttl(key) <= UNFINISHED_TTL_S * 1000


def test_a_finished_job_keeps_its_reply_for_its_ttl_and_nothing_else(bench):
    bench.submit(TEXTS, ttl_s=30.0)
    while bench.work():
        pass
    assert bench.key_names() == {"", "replies", "events"}
    for key in bench.redis.keys(f"{bench.keys.job('job')}*"):
        assert 25_000 < bench.redis.pttl(key) <= 30_000
    assert set(lane_counts(bench).values()) == {0}
    assert bench.redis.zcard(bench.keys.active("paper", "bulk")) == 0


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
    ref = bench.pop()
    claim = bench.claim(ref)
    bench.commit(ref, claim)
    assert not bench.redis.hexists(bench.keys.texts("job"), ref.chunk)
    assert bench.redis.hexists(bench.keys.replies("job"), ref.chunk)
    events = bench.run(reading.read_events(bench.keys, "job", "0-0", 0.001))
    assert (events.chunks, events.over) == ((ref.chunk,), None)


def test_the_first_commit_wins(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    assert bench.run(claims.commit(bench.keys, ref, b"first"))
    assert not bench.run(claims.commit(bench.keys, ref, b"second"))
    assert bench.redis.hget(bench.keys.replies("job"), ref.chunk) == b"first"
    assert bench.status().chunks_done == 1


def test_a_live_worker_s_chunk_is_held(bench):
    bench.submit(TEXTS)
    bench.live("w1")
    ref = bench.pop()
    assert isinstance(bench.claim(ref, "w1"), Work)
    bench.ask(claims.ring_again(bench.keys, ref, "", how="reclaim"))  # refused: the claim is another one by now
    assert bench.doorbells()[0] != f"job:{ref.chunk}"
    again = ring(bench, ref)
    assert bench.claim(again, "w2") == NotOurs("held")
    assert isinstance(bench.claim(ref, "w1"), Work)  # a claim whose answer got lost is asked for again


def ring(bench, ref):
    """Rings a chunk once more, whoever holds it."""
    held = (bench.redis.hget(bench.keys.claims(ref.job_id), ref.chunk) or b"").decode()
    assert bench.ask(claims.ring_again(bench.keys, ref, held, how="reclaim"))
    return bench.pop(lane=ref.lane)


def test_a_dead_worker_s_chunk_is_taken_over_and_the_loss_counted(bench):
    bench.submit(TEXTS)
    bench.live("w1")
    ref = bench.pop()
    bench.claim(ref, "w1")
    bench.die("w1")
    again = ring(bench, ref)
    claim = bench.claim(again, "w2")
    assert isinstance(claim, Work)
    assert (claim.losses, claim.crashes) == (1, 0)


def test_a_worker_with_another_model_counts_no_loss(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref, "dead", fingerprint="f")
    for _ in range(20):
        assert isinstance(bench.claim(ring(bench, ref), "w2", fingerprint="g"), OtherFingerprint)
    claim = bench.claim(ring(bench, ref), "w3", fingerprint="f")
    assert isinstance(claim, Work)
    assert claim.losses == 1


def test_a_job_keeps_to_the_fingerprint_of_its_first_claim(bench):
    bench.submit(TEXTS)
    assert bench.status().fingerprint == ""
    bench.claim(bench.pop(), fingerprint="f")
    other = bench.claim(bench.pop(), fingerprint="g")
    assert isinstance(other, OtherFingerprint)
    assert other.pinned == "f"
    assert unpack_chunk(other.texts).texts
    assert bench.status().fingerprint == "f"


def test_a_record_of_another_version_is_left_alone(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.redis.hset(bench.keys.job("job"), "v", 99)
    assert bench.claim(ref) == OtherVersion("99")
    assert bench.redis.hlen(bench.keys.claims("job")) == 0


def test_work_that_nobody_began_before_its_deadline_is_late(bench):
    bench.submit(TEXTS, deadline_s=0.001)
    ref = bench.pop()
    for _ in range(1_000):
        claim = bench.claim(ref)
        if isinstance(claim, Late):
            break
    assert isinstance(claim, Late)
    assert claim.waited_ms > claim.deadline_ms == 1
    assert unpack_chunk(claim.texts).texts
    assert bench.commit(ref, claim)


def test_a_crash_is_counted_under_the_text_that_was_alone(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref)
    for position in (4, 4, 2):
        bench.run(claims.note_position(bench.keys, ref, position))
        assert bench.run(claims.release(bench.keys, ref.token))
        ref = bench.pop()
        claim = bench.claim(ref)
    assert (claim.crashes, claim.crashes_alone, claim.losses) == (3, {4: 2, 2: 1}, 0)


def test_a_kill_is_a_loss_of_the_text_that_was_alone_and_no_crash(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref)
    for position in (None, 4, 4):
        if position is not None:
            bench.run(claims.note_position(bench.keys, ref, position))
        assert bench.run(claims.release(bench.keys, ref.token, was_killed=True))
        ref = bench.pop()
        claim = bench.claim(ref)
    assert (claim.crashes, claim.crashes_alone, claim.losses, claim.losses_alone) == (0, {}, 1, {4: 2})
    assert claim.is_suspect


def test_a_crash_when_no_text_was_alone_counts_as_a_loss_besides_so_that_it_has_an_end(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref)
    for _ in range(MAX_LOSSES):
        assert bench.run(claims.release(bench.keys, ref.token))
        ref = bench.pop()
        claim = bench.claim(ref)
    assert (claim.crashes, claim.losses) == (MAX_LOSSES, MAX_LOSSES)


def test_a_text_under_which_whole_workers_are_lost_is_known_and_its_neighbours_are_not_blamed(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS[:1])
    for n in range(MAX_LOSSES + 1):
        bench.live()
        bench.live(f"w{n}")
        ref = bench.pop()
        claim = bench.claim(ref, f"w{n}")
        assert claim.is_suspect == (n > 0)
        if n:
            bench.run(claims.note_position(bench.keys, ref, 0))
        bench.die(f"w{n}")
        assert sweep() == 1
    claim = bench.claim(bench.pop(), "w")
    assert (claim.losses, claim.losses_alone) == (1, {0: MAX_LOSSES})


def test_a_released_chunk_is_the_next_one(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref)
    assert bench.run(claims.release(bench.keys, ref.token))
    assert bench.doorbells()[0] == f"job:{ref.chunk}"


def test_a_crash_after_the_commit_changes_nothing(bench):
    bench.submit(TEXTS)
    ref = bench.work()
    assert not bench.run(claims.release(bench.keys, ref.token))
    assert not bench.run(claims.release(bench.keys, "6a1f8e0c-some-other-task"))
    assert not bench.run(claims.release(bench.keys, "gone:0:1"))
    assert bench.redis.exists(f"{bench.keys.job('job')}:crashes") == 0


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_over_takes_no_commit_no_claim_and_no_note(bench, how):
    bench.submit(TEXTS)
    first, second, third = bench.pop(), bench.pop(), bench.pop()
    claim = bench.claim(first)
    bench.claim(second)
    assert bench.run(reading.end(bench.keys, "job", how))
    assert not bench.commit(first, claim)
    assert bench.claim(third) == NotOurs("over")
    bench.run(claims.note_position(bench.keys, first, 1))
    assert not bench.run(claims.release(bench.keys, second.token))
    assert not bench.ask(claims.ring_again(bench.keys, second, "", how="reclaim"))
    assert bench.key_names() == ({"", "events"} if how == "cancel" else set())
    assert set(lane_counts(bench).values()) == {0}
    assert bench.redis.zcard(bench.keys.active("paper", "bulk")) == 0


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
    old, waiting = bench.pop(), bench.pop()
    claim = bench.claim(old)
    bench.run(reading.end(bench.keys, "job", "delete"))
    bench.submit(["other " * 12, "words " * 12], lane="interactive")
    assert not bench.commit(old, claim)
    assert not bench.run(claims.release(bench.keys, old.token))
    assert bench.claim(waiting) == NotOurs("over")
    bench.run(claims.note_position(bench.keys, old, 1))
    assert bench.status().chunks_done == 0
    assert bench.key_names() == {"", "texts", "weights"}
    assert set(lane_counts(bench).values()) == {0}
    assert lane_counts(bench, "interactive")["texts"] == 2


def test_a_job_rings_a_bounded_number_of_chunks_ahead(bench):
    texts = [f"{n:04d} " * 16 for n in range(RING_WINDOW + 3)]
    bench.submit(texts)
    assert bench.doorbells() == [f"job:{n}" for n in range(RING_WINDOW)]
    for done in range(1, 6):
        bench.work()
        assert len(bench.doorbells()) == RING_WINDOW - max(0, done - 3)
    while bench.work():
        pass
    assert bench.status().state is JobState.DONE


def test_chunks_may_finish_in_any_order(bench):
    bench.submit(TEXTS)
    refs = [bench.pop() for _ in TEXTS]
    random.Random(3).shuffle(refs)
    for ref in refs:
        assert bench.commit(ref, bench.claim(ref))
    replies = bench.run(reading.fetch(bench.keys, "job", range(5)))
    assert sorted(int(i) for reply in replies for i in reply.indices) == list(range(5))


def test_a_doorbell_for_no_chunk_is_over(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    beyond = ChunkRef(job_id="job", chunk=99, model="paper", lane="bulk", token=ref.token.replace(":0:", ":99:"))
    assert bench.claim(beyond) == NotOurs("over")
    assert not bench.run(claims.commit(bench.keys, beyond, b"reply"))


def sweeper(bench, monkeypatch, worker_id="w"):
    reconciler = Reconciler(bench.keys, worker_id)
    return lambda: bench.run(reconciler.sweep())


def test_a_lost_doorbell_is_rung_again_in_the_second_sweep(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live()
    lost = bench.pop()
    assert [sweep(), sweep(), sweep()] == [0, 1, 0]
    assert bench.doorbells()[0] == f"job:{lost.chunk}"


def test_a_dead_worker_s_chunk_is_rung_again_at_once(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live()
    bench.live("w1")
    ref = bench.pop()
    bench.claim(ref, "w1")
    bench.die("w1")
    assert sweep() == 1
    assert bench.claim(bench.pop(), "w").losses == 1


def test_a_chunk_that_its_live_worker_forgot_is_rung_again_and_the_try_counted(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref, "w")
    bench.live(active=[ref.token])
    assert [sweep(), sweep()] == [0, 0]
    bench.live(active=[])
    assert [sweep(), sweep()] == [0, 1]
    assert bench.claim(bench.pop(), "w2").losses == 1


def test_tries_without_a_death_and_without_a_result_have_an_end(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS[:1])
    bench.live()
    for position in (None, *[4] * MAX_LOSSES):
        ref = bench.pop()
        bench.claim(ref)
        if position is not None:
            bench.run(claims.note_position(bench.keys, ref, position))
        assert [sweep(), sweep()] == [0, 1]
    claim = bench.claim(bench.pop())
    assert (claim.losses, claim.losses_alone, claim.crashes) == (1, {4: MAX_LOSSES}, 0)


def test_after_its_last_text_a_chunk_s_loss_is_no_text_s(bench):
    bench.submit(TEXTS)
    ref = bench.pop()
    bench.claim(ref)
    assert bench.run(claims.note_position(bench.keys, ref, 4))
    assert bench.run(claims.note_position(bench.keys, ref, None))
    assert bench.run(claims.release(bench.keys, ref.token, was_killed=True))
    claim = bench.claim(bench.pop())
    assert (claim.losses, claim.losses_alone) == (1, {})


def test_one_worker_sweeps_at_a_time(bench, monkeypatch):
    first, second = sweeper(bench, monkeypatch, "w1"), sweeper(bench, monkeypatch, "w2")
    bench.submit(TEXTS)
    bench.pop()
    assert [first(), second(), second(), first()] == [0, 0, 0, 1]


def test_an_expired_job_leaves_the_lane_and_dead_workers_the_list(bench, monkeypatch):
    sweep = sweeper(bench, monkeypatch)
    bench.submit(TEXTS)
    bench.live("w1")
    bench.die("w1")
    bench.redis.delete(bench.keys.job("job"))
    sweep()
    assert bench.redis.zcard(bench.keys.active("paper", "bulk")) == 0
    assert bench.redis.zcard(bench.keys.workers) == 0


def test_a_long_queue_is_read_to_its_end(bench, monkeypatch):
    monkeypatch.setattr("embedmill_worker.jobs.reconciler.JOBS_PAGE", 3)
    monkeypatch.setattr("embedmill_worker.jobs.reconciler.MESSAGES_PAGE", 7)
    sweep = sweeper(bench, monkeypatch)
    for n in range(20):
        bench.submit(TEXTS, job_id=f"job{n}")
    assert [sweep(), sweep()] == [0, 0]
    lost = bench.pop()
    assert [sweep(), sweep()] == [0, 1]
    assert bench.doorbells()[0] == f"{lost.job_id}:{lost.chunk}"


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
    lost = bench.pop()
    bench.claim(bench.pop(), "dead")
    bench.live()
    assert [sweep(), sweep()] == [1, 1]
    assert bench.doorbells()[0].startswith(lost.job_id)
    assert bench.run(reading.end(bench.keys, f"job{jobs - 1}", "cancel"))
    assert bench.run(reading.end(bench.keys, f"job{jobs - 2}", "delete"))
    ref = bench.pop()
    work = bench.claim(ref)
    assert isinstance(work, Work)
    assert bench.run(claims.commit(bench.keys, ref, b"reply", [b"a dead letter" * 100]))
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


def test_a_claim_that_is_given_back_counts_as_nothing_and_its_chunk_is_found(bench):
    bench.live("w1")
    bench.submit(TEXTS[:1])
    sweeper = Reconciler(bench.keys, "w1")
    for _ in range(MAX_LOSSES + 2):
        ref = bench.pop()
        claim = bench.claim(ref, "w1")
        assert not claim.is_suspect
        assert bench.run(claims.give_back(bench.keys, ref))
        assert not bench.run(claims.give_back(bench.keys, ref))
        assert [bench.run(sweeper.sweep()) for _ in range(2)] == [0, 1]
    bench.work()
    assert bench.status().state is JobState.DONE
