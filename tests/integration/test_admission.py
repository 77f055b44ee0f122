"""How much may be queued: by tokens and by memory, asked atomically, counted from the records."""

import asyncio
import itertools
import random
import threading

import numpy as np
import pytest

from embedmill import AsyncEmbeddingClient, EmbeddingClient, JobTooLargeError, QueueFullError
from embedmill.jobs import reading, submission
from embedmill.jobs.request import row_bytes
from embedmill.jobs.submission import Admission
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.records import JobState
from embedmill.transport import flow
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.reconciler import Reconciler
from support.waiting import PATIENCE_S, join

from .conftest import vector_of

#: Texts of one chunk each.
TEXTS = [f"{n:04d} " * 16 for n in range(5)]


@pytest.fixture
def small_valkey(valkey_binary):
    with EmbeddedValkey(persistent=False, maxmemory_bytes=16 << 20) as server:
        yield server


def store(bench, texts, *, job_id, max_queued_tokens=0, **how):
    prepared = bench.prepare(texts, job_id=job_id, **how)
    bench.run(submission.submit(bench.keys, prepared, Admission(max_queued_tokens=max_queued_tokens)))
    return prepared


def counts(bench, lane="bulk"):
    found = bench.counts(lane=lane)
    is_there = bench.redis.hexists(bench.keys.lane("paper", lane), "chunks")
    return {name: found[name] for name in ("chunks", "texts", "tokens", "bytes")} if is_there else {}


def incompressible(seed, n_bytes):
    return random.Random(seed).randbytes(n_bytes // 2).hex()


def test_a_lane_takes_no_more_tokens_than_it_may_hold(bench):
    first = store(bench, TEXTS, job_id="one", max_queued_tokens=150)
    tokens = sum(tokens for _, tokens in first.weights)
    with pytest.raises(QueueFullError) as caught:
        store(bench, TEXTS, job_id="two", max_queued_tokens=150)
    assert (caught.value.depth, caught.value.limit, caught.value.unit) == (tokens, 150, "tokens")
    assert not bench.redis.keys(f"{bench.keys.job('two')}*")
    bench.work()
    store(bench, TEXTS[:1], job_id="three", max_queued_tokens=150)  # what is done has made room


def test_an_empty_lane_takes_a_job_of_any_size(bench):
    store(bench, TEXTS, job_id="one", max_queued_tokens=1)
    assert bench.status("one").chunks == 5


def test_the_other_lane_has_room_of_its_own(bench):
    store(bench, TEXTS, job_id="one", max_queued_tokens=100)
    store(bench, TEXTS, job_id="two", lane="interactive", max_queued_tokens=100)


def test_the_same_job_again_is_no_more_work_however_full_the_lane_is(bench):
    store(bench, TEXTS, job_id="one", max_queued_tokens=1)
    store(bench, TEXTS, job_id="one", max_queued_tokens=1)
    assert counts(bench)["chunks"] == 5


def test_vectors_to_come_count_against_redis_memory(small_valkey, namespace, make_bench):
    bench = make_bench(small_valkey.url, namespace)
    card = bench.card()
    wide = type(card)(**{f: getattr(card, f) for f in card.__dataclass_fields__} | {"dimension": 4096})
    texts = [f"text {n}" for n in range(300)]  # a few kilobytes, whose vectors take 5 MB
    assert row_bytes(EmbedOptions(), wide) * len(texts) > 4 << 20
    with pytest.raises(QueueFullError) as caught:
        for n in range(9):
            store(bench, texts, job_id=f"job{n}", card=wide)
    assert caught.value.queue == "Redis"
    assert caught.value.unit == "bytes"
    assert caught.value.limit == int(0.7 * (16 << 20))
    assert n == 2  # 4.9 MB each
    assert int(bench.redis.info("memory")["used_memory"]) < 6 << 20  # it was all about vectors to come
    store(bench, texts[:50], job_id="now", lane="interactive", card=wide)  # interactive work has a reserve
    bench.close()


def test_a_job_that_never_fits_is_refused_for_good_before_its_texts_are_sent(small_valkey, namespace, make_bench):
    bench = make_bench(small_valkey.url, namespace)
    texts = [incompressible(n, 900_000) for n in range(30)]
    sent = bench.redis.info("stats")["total_net_input_bytes"]
    with pytest.raises(JobTooLargeError, match="submit smaller jobs"):
        store(bench, texts, job_id="one")
    assert bench.redis.info("stats")["total_net_input_bytes"] - sent < 100_000
    assert bench.redis.keys(f"{namespace}:*") == []
    bench.close()


@pytest.mark.parametrize("awaited", [False, True])
def test_embed_cuts_what_is_too_large_for_this_redis(small_valkey, namespace, make_bench, awaited):
    bench = make_bench(small_valkey.url, namespace)
    texts = [incompressible(n, 900_000) for n in range(30)]  # 27 MB, of which interactive work may take 12.8
    with bench.worker():
        if awaited:

            async def embed():
                async with AsyncEmbeddingClient(
                    small_valkey.url, "paper", namespace=namespace, timeout_s=PATIENCE_S
                ) as client:
                    return await client.embed(texts)

            rows = asyncio.run(embed())
        else:
            with EmbeddingClient(small_valkey.url, "paper", namespace=namespace, timeout_s=PATIENCE_S) as client:
                rows = client.embed(texts)
    assert rows.tobytes() == b"".join(vector_of(text).tobytes() for text in texts)
    assert not bench.redis.keys(f"{bench.keys.job_prefix}*")
    bench.close()


def test_a_refused_job_leaves_nothing_behind(small_valkey, namespace, make_bench):
    bench = make_bench(small_valkey.url, namespace)
    with pytest.raises(QueueFullError):
        for n in itertools.count():
            store(bench, [incompressible(n, 200_000)], job_id=f"job{n}")
    assert bench.redis.keys(f"{bench.keys.job(f'job{n}')}*") == []
    assert counts(bench)["texts"] == n
    bench.close()


def test_many_clients_at_once_never_drive_redis_to_its_limit_and_it_drains(small_valkey, namespace, make_bench):
    bench = make_bench(small_valkey.url, namespace)
    stored, refused, broken = [], [], []

    def produce(who):
        with EmbeddingClient(small_valkey.url, "paper", namespace=namespace) as client:
            for n in range(40):
                try:
                    stored.append(client.submit([incompressible(f"{who}{n}", 150_000)]).id)
                except QueueFullError as error:
                    refused.append(error)
                except Exception as error:
                    broken.append(error)

    threads = [threading.Thread(target=produce, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert refused and not broken
    assert {error.unit for error in refused} == {"bytes"}  # refused by us, never by Redis itself
    while bench.work():
        pass
    assert all(bench.status(job_id).state is JobState.DONE for job_id in stored)
    assert set(counts(bench).values()) == {0}
    bench.close()


@pytest.fixture(params=["blocking", "asyncio"])
def submit_blocking(request, bench):
    """Submits TEXTS through a client that lets 100 tokens wait, with block=True."""

    def blocking(timeout_s):
        with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            return client.submit(TEXTS, block=True, timeout_s=timeout_s).id

    async def awaited(timeout_s):
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            return (await client.submit(TEXTS, block=True, timeout_s=timeout_s)).id

    return blocking if request.param == "blocking" else lambda timeout_s: asyncio.run(awaited(timeout_s))


def test_a_blocking_submit_waits_until_there_is_room(bench, submit_blocking, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_MAX_QUEUED_TOKENS", "100")
    store(bench, TEXTS, job_id="before")
    drained = threading.Timer(0.5, lambda: [bench.work() for _ in TEXTS])
    drained.start()
    job_id = submit_blocking(60)
    join(drained)
    assert bench.status("before").state is JobState.DONE
    assert bench.status(job_id).chunks > 0


def test_a_blocking_submit_gives_up_in_time(bench, submit_blocking, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_MAX_QUEUED_TOKENS", "100")
    store(bench, TEXTS, job_id="before")
    with pytest.raises(QueueFullError, match="of 100 tokens are taken"):
        submit_blocking(0.3)


def test_the_windows_of_one_long_call_do_not_stand_in_each_other_s_way(bench, expected, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_MAX_QUEUED_TOKENS", "1")
    monkeypatch.setitem(submission.submit.__globals__, "SHORTEST_PAUSE_S", 0.01)
    from embedmill.jobs.chunking import split_into_jobs

    monkeypatch.setitem(split_into_jobs.__kwdefaults__, "max_texts", 2)
    with bench.worker(), EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        assert np.array_equal(client.embed(TEXTS, timeout_s=60), expected(TEXTS))


def sweep(bench):
    bench.run(Reconciler(bench.keys, "sweeper").sweep())


@pytest.mark.parametrize("drift", ["wrong", "gone"])
def test_counters_that_drifted_are_put_right_from_the_records(bench, drift):
    bench.live("sweeper")
    bench.submit(TEXTS)
    bench.work()
    right = counts(bench)
    assert right == {
        "chunks": 4,
        "texts": 4,
        "tokens": right["tokens"],
        "bytes": 4 * (8 * 4 + 24 + (4_400 + 5 * 400) // 5),
    }
    if drift == "gone":
        bench.redis.delete(bench.keys.lane("paper", "bulk"))
    else:
        bench.redis.hset(bench.keys.lane("paper", "bulk"), mapping={"chunks": -7, "tokens": 10**9, "bytes": -1})
    sweep(bench)
    assert counts(bench) == right
    while bench.work():
        pass
    assert set(counts(bench).values()) == {0}


def test_a_job_whose_record_expired_is_counted_no_more(bench):
    bench.live("sweeper")
    bench.submit(TEXTS, job_id="kept")
    kept = counts(bench)
    bench.submit(TEXTS, job_id="expired")
    bench.redis.delete(bench.keys.job("expired"))
    sweep(bench)
    assert counts(bench) == kept
    assert bench.redis.zrange(bench.keys.active("paper", "bulk"), 0, -1) == [b"kept"]


def test_retry_after_follows_the_measured_drain_rate(bench):
    bench.live("sweeper")
    first = store(bench, TEXTS, job_id="one")
    tokens = sum(tokens for _, tokens in first.weights)
    sweep(bench)
    bench.work()
    seconds, micros = bench.redis.time()
    ago_ms = seconds * 1000 + micros // 1000 - 10_000  # as if the sweep before had been ten seconds ago
    bench.redis.hset(bench.keys.lane("paper", "bulk"), "counted_ms", ago_ms)
    bench.redis.hdel(bench.keys.lane("paper", "bulk"), "rate")
    sweep(bench)
    rate = float(bench.redis.hget(bench.keys.lane("paper", "bulk"), "rate"))
    assert rate == pytest.approx(first.weights[0][1] / 10, rel=0.2)
    with pytest.raises(QueueFullError) as caught:
        store(bench, TEXTS, job_id="two", max_queued_tokens=tokens)
    assert caught.value.retry_after_s == pytest.approx((tokens - first.weights[0][1]) / rate, rel=0.2)


def test_a_rate_that_nobody_has_measured_for_half_a_minute_is_no_time_to_try_again(bench):
    store(bench, TEXTS, job_id="one")
    seconds, _ = bench.redis.time()
    for age_s, wanted in ((5, True), (60, False)):
        measured = {"rate": "100.0", "counted_ms": (seconds - age_s) * 1000}
        bench.redis.hset(bench.keys.lane("paper", "bulk"), mapping=measured)
        with pytest.raises(QueueFullError) as caught:
            store(bench, TEXTS, job_id="two", max_queued_tokens=1)
        assert (caught.value.retry_after_s is not None) == wanted


def test_a_waiting_job_asks_for_room_before_it_sends_its_texts_again(bench):
    store(bench, TEXTS, job_id="before")
    waiting = submission.submit(
        bench.keys, bench.prepare(TEXTS), Admission(max_queued_tokens=1), block_until_s=float("inf")
    )
    ask, sent = next(waiting), []
    for _ in range(8):
        if isinstance(ask, flow.Sleep):
            assert submission.SHORTEST_PAUSE_S <= ask.seconds <= submission.LONGEST_PAUSE_S
            ask = waiting.send(None)
        else:
            sent.append({command[0] for command in ask.commands})
            ask = waiting.send(bench.link.run(answer(ask), timeout_s=10))
    assert [("HSET" in names) for names in sent] == [True, False, False, False]
    waiting.close()


def answer(ask):
    return (yield ask)


def test_texts_that_a_full_redis_took_in_part_are_dropped_at_once(small_valkey, namespace, make_bench, monkeypatch):
    monkeypatch.setattr(submission, "STAGE_BYTES", 100_000)
    monkeypatch.setattr(submission, "ASK_FIRST_BYTES", 1 << 30)  # as if it filled up while the texts were sent
    bench = make_bench(small_valkey.url, namespace)
    texts = [incompressible(n, 900_000) for n in range(30)]
    with pytest.raises(QueueFullError, match="it has reached its maxmemory; nothing was submitted"):
        store(bench, texts, job_id="one")
    assert bench.redis.keys(f"{namespace}:*") == []
    bench.close()


def test_a_chunk_without_a_weight_is_committed_and_its_job_ends_with_counters_at_zero(bench):
    bench.submit(TEXTS)
    bench.redis.hset(bench.keys.texts("job"), 0, b"short")
    while (bell := bench.pop()) is not None:
        bench.run(claims.commit(bench.keys, bench.claim(bell).ref, b"reply"))
    assert bench.status().state is JobState.DONE
    assert set(counts(bench).values()) == {0}


def test_nobody_who_drains_is_no_time_to_try_again(bench):
    store(bench, TEXTS, job_id="one")
    with pytest.raises(QueueFullError) as caught:
        store(bench, TEXTS, job_id="two", max_queued_tokens=1)
    assert caught.value.retry_after_s is None
    assert "once workers drain it" in str(caught.value)


def test_live_workers_are_expected_to_work_as_their_card_says(bench):
    bench.announce(bench.card(tokens_per_s=50.0))
    bench.live(children=2)
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace, max_queued_tokens=1) as client:
        client.submit(TEXTS)
        with pytest.raises(QueueFullError) as caught:
            client.submit(TEXTS)
    waiting = counts(bench)["tokens"]
    assert caught.value.retry_after_s == pytest.approx((2 * waiting - 1) / 100, rel=0.01)


def test_what_somebody_else_fills_still_drains(small_valkey, namespace, make_bench):
    bench = make_bench(small_valkey.url, namespace)
    for n in range(10):
        store(bench, TEXTS, job_id=f"job{n}")
    with pytest.raises(Exception, match="maxmemory"):
        for n in itertools.count():
            bench.redis.set(f"{namespace}:filler:{n}", bytes(50_000))
    bench.live("sweeper")
    sweep(bench)
    with pytest.raises(QueueFullError):
        store(bench, TEXTS, job_id="refused")
    while bench.work():
        pass
    assert all(bench.status(f"job{n}").state is JobState.DONE for n in range(10))
    assert set(counts(bench).values()) == {0}
    assert bench.run(reading.end(bench.keys, "job0", "delete"))
    bench.close()


def test_a_submission_tells_what_waits_in_a_bulk_lane_besides(bench):
    def submit(**how):
        return bench.run(
            submission.submit(bench.keys, bench.prepare(["six of these words here"] * 3, **how), Admission())
        )

    assert submit(job_id="one") == 0
    waiting = int(bench.redis.hget(bench.keys.lane("paper", "bulk"), "tokens"))
    assert submit(job_id="two") == waiting > 0
    assert submit(job_id="two") == waiting  # it was there
    assert submit(job_id="three", lane="interactive") == 0
    bench.redis.hset(bench.keys.lane("paper", "bulk"), "tokens", "many")
    assert submit(job_id="four") >= 0
