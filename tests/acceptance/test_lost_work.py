"""Processes are killed while they hold work; nothing is lost, nothing is rejected, no bit changes."""

import logging
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis

from embedmill import EmbeddingClient, Job
from embedmill.keys import Keyspace
from embedmill_worker import corpus

MODEL = "all-MiniLM-L6-v2"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A claim as it stands in Redis."""

    worker_pid: int
    child_pid: int
    chunk: str
    token: str


def held_claims(server: redis.Redis, keys: Keyspace, job: Job) -> list[Held]:
    """The claims of processes that are alive."""
    found = []
    for chunk, claim in server.hgetall(keys.claims(job.id)).items():
        if b":" in chunk:
            continue
        worker, token, pid = claim.decode().split(" ")
        held = Held(int(worker.split(".")[-2]), int(pid), chunk.decode(), token)
        if is_alive(held.child_pid) and is_alive(held.worker_pid):
            found.append(held)
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_one(mill, server, keys, job, kind: str, rng: random.Random) -> None:
    """Kills a child or a whole worker at a moment when it holds a claim, and starts another worker for a killed one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert not job.status().state.is_over, f"the job was over before a {kind} could be killed: use more texts"
        for held in sorted(held_claims(server, keys, job), key=lambda h: rng.random()):
            victim = held.child_pid if kind == "child" else held.worker_pid
            os.kill(victim, signal.SIGSTOP)  # so that it cannot commit between the look and the kill
            claim = server.hget(keys.claims(job.id), held.chunk)
            if claim is None or held.token not in claim.decode():
                os.kill(victim, signal.SIGCONT)
                continue
            log.info(f"killing {kind} {victim}, which holds chunk {held.chunk}: {claim.decode()}")
            os.kill(victim, signal.SIGKILL)
            if kind == "worker":
                next(w for w in mill.workers if w.pid == victim).process.wait(30)
                mill.start_worker(ready=False)
            return
        time.sleep(0.002)
    raise AssertionError(f"no {kind} held a claim for a minute")


def survive(mill, texts: list[str], plan: list[str], seed: int) -> None:
    rng = random.Random(seed)
    rng.shuffle(plan)
    mill.start_worker()
    mill.start_worker()
    server, keys = redis.Redis.from_url(mill.redis_url), Keyspace(mill.namespace)
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        began = time.monotonic()
        undisturbed = client.submit(texts).result(300)
        calm_s = time.monotonic() - began
        assert undisturbed.rejected == ()

        began = time.monotonic()
        job = client.submit(texts)
        for kind in plan:
            kill_one(mill, server, keys, job, kind, rng)
            time.sleep(rng.uniform(0.0, 0.3))
        reply = job.result(calm_s + 15 * plan.count("worker") + 60)
        log.info(f"undisturbed {calm_s:.1f} s, with {len(plan)} kills {time.monotonic() - began:.1f} s")

        assert reply.rejected == ()
        assert reply.vectors.tobytes() == undisturbed.vectors.tobytes()
        assert np.array_equal(reply.token_counts, undisturbed.token_counts)
        lane = server.hgetall(keys.lane(MODEL, "bulk"))
        assert {int(count) for count in lane.values()} == {0}
        assert server.zcard(keys.active(MODEL, "bulk")) == 0


def test_a_job_survives_the_death_of_children_and_workers_to_the_bit(own_mill):
    survive(own_mill, corpus.short(1500), ["child"] * 4 + ["worker"] * 2, seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_thousand_texts_survive_twenty_kills(own_mill, seed):
    survive(own_mill, corpus.short(5000), ["child"] * 12 + ["worker"] * 8, seed)


def test_a_chunk_whose_doorbell_vanished_is_found_and_rung_again(own_mill):
    server, keys = redis.Redis.from_url(own_mill.redis_url), Keyspace(own_mill.namespace)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        job = client.submit(["a text whose message is lost"])
        assert server.delete(keys.queue(MODEL, "bulk")) == 1
        own_mill.start_worker()
        reply = job.result(60)
    assert np.isfinite(reply.vectors).all()


def test_a_killed_child_is_replaced_without_loading_the_model_again(own_mill):
    worker = own_mill.start_worker()
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        before = client.embed(["the same text"])
        killed = worker.children
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        after = client.embed(["the same text"])
        deadline = time.monotonic() + 60
        while len(set(worker.children) - set(killed)) < len(killed) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(set(worker.children) - set(killed)) == len(killed)
    assert worker.log.count("loading all-MiniLM-L6-v2") == 1
    assert worker.log.count("loaded in") == 1
    assert before.tobytes() == after.tobytes()


def test_a_child_that_dies_while_its_worker_starts_is_replaced(own_mill):
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    worker = own_mill.start_worker(app="early_death_app", PYTHONPATH=path, EMBEDMILL_CONCURRENCY="2")
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        assert client.embed(corpus.short(50)).shape == (50, 384)
    assert sum(map(is_alive, worker.children)) == 2


def test_sigterm_finishes_the_running_chunks_and_exits_with_zero(own_mill):
    worker = own_mill.start_worker()
    server, keys = redis.Redis.from_url(own_mill.redis_url), Keyspace(own_mill.namespace)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        job = client.submit(corpus.short(600))
        while not held_claims(server, keys, job):
            time.sleep(0.002)
        assert worker.stop() == 0
        assert server.hlen(keys.claims(job.id)) == 0  # what was begun is committed
        assert not server.exists(*[keys.worker(w.decode()) for w in server.zrange(keys.workers, 0, -1)] or ["none"])
        assert 0 < job.status().texts_done < 600
        own_mill.start_worker()
        assert job.result(60).rejected == ()


def test_redis_restarted_under_a_job_loses_nothing(durable_mill, own_valkey):
    durable_mill.start_worker()
    texts = corpus.short(800)
    with EmbeddingClient(durable_mill.redis_url, MODEL, namespace=durable_mill.namespace) as client:
        undisturbed = client.submit(texts).result(120)
        job = client.submit(texts)
        while job.status().texts_done < 100:
            time.sleep(0.02)
        time.sleep(1.2)  # everysec: what is older than a second is on disk
        own_valkey.kill()
        own_valkey.restart()
        assert job.result(120).vectors.tobytes() == undisturbed.vectors.tobytes()
