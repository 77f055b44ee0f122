"""Processes are killed while they hold work; nothing is lost, nothing is rejected, no bit changes."""

import logging
import os
import random
import signal
import time

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill_worker.cli.measure import corpus
from support import apps
from support.chaos.checks import COUNTERS
from support.held_claims import Held, held_claims, is_alive
from support.servers import plain_redis, save
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"

log = logging.getLogger(__name__)


def freeze_one(server, keys, job, rng: random.Random) -> Held | None:
    """Freeze a child while it holds a claim, so that it cannot commit; None if the job is over instead."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if job.status().state.is_over:
            return None
        for held in sorted(held_claims(server, keys, job), key=lambda h: rng.random()):
            os.kill(held.child_pid, signal.SIGSTOP)
            if server.hexists(keys.held, held.token):
                return held
            os.kill(held.child_pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("no child held a claim for a minute")


def kill(mill, kind: str, held: Held) -> None:
    """Kill a frozen child or its whole worker, and start another worker for a killed one."""
    victim = held.child_pid if kind == "child" else held.worker_pid
    log.info(f"killing {kind} {victim}, which holds chunk {held.chunk}")
    os.kill(victim, signal.SIGKILL)
    if kind == "worker":
        os.kill(held.child_pid, signal.SIGKILL)
        next(w for w in mill.workers if w.pid == victim).process.wait(30)
        mill.start_worker(ready=False)


def survive(mill, texts: list[str], plan: list[str], seed: int) -> None:
    rng = random.Random(seed)
    rng.shuffle(plan)
    mill.start_worker()
    mill.start_worker()
    server, keys = plain_redis(mill.redis_url), Keyspace(mill.namespace)
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        undisturbed = client.submit(texts).result(300)
        assert undisturbed.rejected == ()

        jobs = [client.submit(texts)]
        for kind in plan:
            while (held := freeze_one(server, keys, jobs[-1], rng)) is None:  # it was faster than the kills
                jobs.append(client.submit(texts))
            kill(mill, kind, held)
            time.sleep(rng.uniform(0.0, 0.3))
        for job in jobs:
            reply = job.result(300)
            assert reply.rejected == ()
            assert reply.vectors.tobytes() == undisturbed.vectors.tobytes()
            assert np.array_equal(reply.token_counts, undisturbed.token_counts)
        assert {int(count) for count in server.hmget(keys.lane(MODEL, "bulk"), COUNTERS)} == {0}
        assert server.zcard(keys.active(MODEL, "bulk")) == 0


def test_a_job_survives_the_death_of_children_and_workers_to_the_bit(own_mill):
    survive(own_mill, corpus.short(800), ["child"] * 4 + ["worker"] * 2, seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_thousand_texts_survive_twenty_kills(own_mill, seed):
    survive(own_mill, corpus.short(5000), ["child"] * 12 + ["worker"] * 8, seed)


def test_a_chunk_whose_doorbell_vanished_is_found_and_rung_again(own_mill):
    server, keys = plain_redis(own_mill.redis_url), Keyspace(own_mill.namespace)
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
        wait_until(lambda: len(set(worker.children) - set(killed)) == len(killed))
    assert worker.log.count("loading all-MiniLM-L6-v2") == 1
    assert worker.log.count("loaded in") == 1
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("children", [1, 2])
def test_a_child_that_is_killed_while_its_worker_starts_is_replaced(own_mill, children):
    path = os.pathsep.join(filter(None, [apps.FOLDER, os.environ.get("PYTHONPATH", "")]))
    worker = own_mill.start_worker(app="early_death_app", PYTHONPATH=path, EMBEDMILL_CONCURRENCY=str(children))
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        assert client.embed(corpus.short(50)).shape == (50, 384)
    assert sum(map(is_alive, worker.children)) == children


def test_sigterm_finishes_the_running_chunks_and_exits_with_zero(own_mill):
    worker = own_mill.start_worker()
    server, keys = plain_redis(own_mill.redis_url), Keyspace(own_mill.namespace)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        job = client.submit(corpus.short(600))
        held = freeze_one(server, keys, job, random.Random(1))
        children = worker.children
        for pid in children:  # so that SIGTERM comes while chunks are under work, however fast they are
            os.kill(pid, signal.SIGSTOP)
        worker.process.terminate()
        wait_until(lambda: "Warm shutdown" in worker.log)
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        assert worker.process.wait(60) == 0
        assert held.chunk.encode() not in server.hkeys(keys.texts(job.id))
        assert server.hlen(keys.held) == 0  # what was begun is committed
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
        wait_until(lambda: job.status().texts_done >= 100)
        save(own_valkey.url)
        own_valkey.kill()
        own_valkey.restart()
        assert job.result(120).vectors.tobytes() == undisturbed.vectors.tobytes()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_leaves_a_folder_behind_however_it_and_its_children_end(own_mill, tmp_path, end):
    folder = tmp_path / "temporary"
    folder.mkdir()
    worker = own_mill.start_worker(TMPDIR=str(folder), EMBEDMILL_CONCURRENCY="1")
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        client.embed(["a"])
        (child,) = worker.children
        os.kill(child, signal.SIGKILL)
        client.embed(["b"])
    assert worker.children != [child]
    if end == signal.SIGTERM:
        assert worker.stop() == 0
    else:
        worker.kill()
    assert list(folder.glob("**/pymp-*")) == []
