"""However many small jobs wait, what lost its doorbell or its worker is found, and interactive calls go on."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import redis

from embedmill import EmbeddingClient, JobState
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import Percentiles, latencies_ms, saturating, service_times_ms
from support.chaos.checks import COUNTERS
from support.servers import plain_redis
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"

#: Texts that the jobs draw from.
TEXTS = corpus.short(200, seed=21)

#: Seconds until all is done: no bound on speed, but an end.
LIMIT_S = 1_800.0

log = logging.getLogger(__name__)


def submit_all(client: EmbeddingClient, n_jobs: int) -> None:
    def submit(number: int) -> None:
        client.submit([TEXTS[number % len(TEXTS)]], job_id=f"job{number}")

    with ThreadPoolExecutor(4) as pool:
        for start in range(0, n_jobs, 1_000):
            list(pool.map(submit, range(start, min(start + 1_000, n_jobs))))


def check_all(client: EmbeddingClient, server: redis.Redis, keys: Keyspace, n_jobs: int) -> None:
    """Check every job's state, and the vectors of jobs from all over the queue, to the bit."""
    for start in range(0, n_jobs, 1_000):
        with server.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 1_000, n_jobs)):
                pipe.hmget(keys.job(f"job{number}"), "state", "left_texts")
            assert set(map(tuple, pipe.execute())) == {(b"done", b"0")}
    undisturbed = client.embed(TEXTS, lane="bulk", timeout_s=300)
    for number in islice(range(n_jobs), 0, None, max(1, n_jobs // 500)):
        job = client.job(f"job{number}")
        assert job.status().state is JobState.DONE
        assert np.array_equal(job.result(60).vectors[0], undisturbed[number % len(TEXTS)])


def survive(mill, n_jobs: int, *, meanwhile=lambda client: None) -> None:
    """Submit jobs, delete every doorbell, start two workers, kill one of them at work; all is done."""
    server, keys = plain_redis(mill.redis_url), Keyspace(mill.namespace)
    queue, active = keys.queue(MODEL, "bulk"), keys.active(MODEL, "bulk")
    first = mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        meanwhile(client)
        first.kill()
        submit_all(client, n_jobs)
        assert server.zcard(active) == n_jobs
        assert 0 < server.llen(queue) < 100  # however many jobs wait
        server.delete(queue)
        victim = mill.start_worker(EMBEDMILL_CONCURRENCY="1")
        mill.start_worker(EMBEDMILL_CONCURRENCY="2")
        wait_until(lambda: server.zcard(active) < n_jobs, "no lane was rung again", LIMIT_S)
        victim.kill()
        meanwhile(client)
        wait_until(lambda: not server.zcard(active), "jobs are left", LIMIT_S)
        check_all(client, server, keys, n_jobs)
    assert {int(count) for count in server.hmget(keys.lane(MODEL, "bulk"), COUNTERS)} == {0}
    said = mill.workers[-1].log
    assert "passed over" not in said
    assert "failed" not in said


def test_six_hundred_small_jobs_survive_their_doorbells_and_a_worker(own_mill):
    survive(own_mill, 600)


@pytest.mark.deep
def test_twenty_thousand_small_jobs_survive_their_doorbells_and_a_worker(own_mill):
    survive(own_mill, 20_000)


@pytest.mark.soak
def test_a_hundred_thousand_small_jobs_are_found_again_beside_interactive_calls(durable_mill):
    """Log how long interactive calls take meanwhile, and the bound for it in this run."""
    n_jobs = int(os.environ.get("EMBEDMILL_TEST_MANY_JOBS", "100000"))
    settings = ClientSettings.from_env(environ=durable_mill.env)
    with plain_redis(durable_mill.redis_url) as server:
        server.config_set("maxmemory", 4 << 30)  # admission stops at 70 % of the embedded server's 512 MiB
    taken: list[list[float]] = []
    service: list[float] = []

    def meanwhile(client: EmbeddingClient) -> None:
        latencies_ms(client, TEXTS[:20])
        taken.append(latencies_ms(client, corpus.short(500, seed=13)))
        part = Percentiles.of(taken[-1])
        log.warning("interactive p50, p95, p99: %.1f, %.1f, %.1f ms", part.p50, part.p95, part.p99)
        if not service:
            with saturating(client) as job:
                wait_until(lambda: job.status().chunks_done >= 100)
                service.extend(service_times_ms(settings, job))
        bound_ms = Percentiles.of(taken[0]).p99 + 1.5 * Percentiles.of(service).p95
        log.warning("bound for the p99 beside other work: %.1f ms", bound_ms)

    began_s = time.monotonic()
    survive(durable_mill, n_jobs, meanwhile=meanwhile)
    log.warning("%d jobs in %.0f s", n_jobs, time.monotonic() - began_s)
