"""Redis fills: work is refused before it has to, what is there is done, and nothing is evicted."""

import threading
from contextlib import suppress

import numpy as np
import pytest
import redis

from embedmill import EmbeddingClient, JobState, QueueFullError
from embedmill.protocol.keys import Keyspace
from embedmill_worker.cli.local.server import EmbeddedValkey
from support.chaos.checks import COUNTERS
from support.servers import plain_redis
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"
MAXMEMORY_BYTES = 24 << 20
PATIENCE_S = 120.0


@pytest.fixture
def small_mill(valkey_binary, make_mill):
    """A mill on a server of 24 MiB that no test but this one uses, without workers yet."""
    with EmbeddedValkey(persistent=False, maxmemory_bytes=MAXMEMORY_BYTES) as server:
        yield make_mill(server.url)


def long_texts(seed):
    """Four texts of 100 kB, which shrink by half at most; of private characters, so that a tokenizer is soon done."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0xF0000, 0xFFFFD, 25_000).astype("<u4").tobytes().decode("utf-32-le") for _ in range(4)]


def has_refused(server):
    """Whether Redis itself has refused a command for want of memory."""
    return "errorstat_OOM" in server.info("errorstats")


def transactions(server):
    """How many Redis has done. A full Redis 7.0 refuses them all, also those that free memory."""
    return server.info("commandstats")["cmdstat_exec"]["calls"]


def counts(server, keys):
    return {int(count) for count in server.hmget(keys.lane(MODEL, "bulk"), COUNTERS)}


def until_fetched(jobs):
    """Each job's reply, all of them whole."""
    for job in jobs:
        reply = job.result(PATIENCE_S)
        assert reply.rejected == ()
        assert np.isfinite(reply.vectors).all()


def test_submissions_of_several_clients_stop_short_of_redis_s_limit_and_all_of_it_is_done(small_mill):
    server, keys = plain_redis(small_mill.redis_url), Keyspace(small_mill.namespace)
    small_mill.start_worker().stop()  # its card stays, and nothing makes room while four clients fill the lane
    submitted, refused, broken = [], [], []

    def produce(who, client):
        try:
            for n in range(1_000):
                submitted.append(client.submit(long_texts(1_000 * who + n)))
        except QueueFullError as error:
            refused.append(error)
        except Exception as error:
            broken.append(error)

    with EmbeddingClient(small_mill.redis_url, MODEL, namespace=small_mill.namespace) as client:
        threads = [threading.Thread(target=produce, args=(who, client)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert broken == []
        assert [error.unit for error in refused] == ["bytes"] * 4  # by admission; Redis itself names no number
        assert not has_refused(server)
        assert {error.limit for error in refused} == {int(0.7 * MAXMEMORY_BYTES)}
        small_mill.start_worker()
        before = transactions(server)
        assert client.embed(["interactive work still has room"]).shape == (1, 384)
        client.submit(long_texts(9_999), block=True, timeout_s=PATIENCE_S).result(PATIENCE_S)
        until_fetched(submitted)
    assert counts(server, keys) == {0}
    assert server.info("stats")["evicted_keys"] == 0
    assert not has_refused(server)
    assert transactions(server) == before, "chunks are done in scripts, which may end what they have begun"


def test_a_redis_that_something_else_has_filled_still_drains(small_mill):
    server, keys = plain_redis(small_mill.redis_url), Keyspace(small_mill.namespace)
    with EmbeddingClient(small_mill.redis_url, MODEL, namespace=small_mill.namespace) as client:
        jobs = [client.submit([f"text {k} of job {n}" for k in range(40)]) for n in range(10)]
        small_mill.start_worker()
        stopped = threading.Event()
        filler = threading.Thread(target=keep_full, args=(small_mill.redis_url, stopped))
        filler.start()
        try:
            wait_until(lambda: has_refused(server))
            wait_until(lambda: all(job.status().state is JobState.DONE for job in jobs))
            with pytest.raises(QueueFullError):
                client.submit(["no room for more"])
        finally:
            stopped.set()
            filler.join(PATIENCE_S)
        until_fetched(jobs)
    assert counts(server, keys) == {0}
    assert server.info("stats")["evicted_keys"] == 0


def keep_full(url, stopped):
    """Fills Redis with what is not ours, and again whatever becomes free."""
    with plain_redis(url) as server:
        n = 0
        for size in (100_000, 1_000, 10):
            with suppress(redis.exceptions.OutOfMemoryError):
                while not stopped.is_set():
                    server.set(f"filler:{n}", bytes(size))
                    n += 1
        while not stopped.wait(0.01):
            with suppress(redis.exceptions.OutOfMemoryError):
                server.set(f"filler:{n}", bytes(1_000))
                n += 1


def test_jobs_of_one_text_take_more_than_their_vectors_and_are_refused_in_time(small_mill):
    server, keys = plain_redis(small_mill.redis_url), Keyspace(small_mill.namespace)
    small_mill.start_worker().stop()
    maxmemory_bytes = MAXMEMORY_BYTES // 3
    server.config_set("maxmemory", maxmemory_bytes)
    with EmbeddingClient(small_mill.redis_url, MODEL, namespace=small_mill.namespace) as client:
        jobs = []
        with pytest.raises(QueueFullError) as caught:
            for n in range(10_000):
                jobs.append(client.submit([f"text {n}"]))
        assert caught.value.unit == "bytes"
        small_mill.start_worker()
        wait_until(lambda: not server.zcard(keys.active(MODEL, "bulk")), "jobs are left", PATIENCE_S)
        assert not has_refused(server)
        # Their replies, and what Redis keeps around each, take what was reckoned with, to a tenth.
        assert 0.6 * maxmemory_bytes < server.info("memory")["used_memory"] < 0.77 * maxmemory_bytes
        until_fetched(jobs[:: len(jobs) // 20])
