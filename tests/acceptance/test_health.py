"""A worker that does not consume is found, by itself and by probes; Redis being away ends none."""

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill_worker import exit_codes
from support import apps
from support.chaos.proxy import Proxy
from support.waiting import status_of

MODEL = "all-MiniLM-L6-v2"

log = logging.getLogger(__name__)

#: Within which a worker that stopped to consume must be found.
FOUND_WITHIN_S = 30.0


def probe(worker, which: str) -> int:
    command = [sys.executable, "-m", "embedmill_worker.cli", "health", f"--{which}"]
    return subprocess.run(command, env=worker.env, capture_output=True, timeout=30, check=False).returncode


def eventually(condition, within_s: float = FOUND_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true in {within_s} s"
        time.sleep(0.2)


def states(mill) -> list[str]:
    settings = ClientSettings(redis_url=mill.redis_url, namespace=mill.namespace)
    return [worker.state for worker in status_of(settings).workers]


@pytest.fixture
def client(own_mill):
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        yield client


@pytest.fixture
def watched(request, own_mill, tmp_path):
    app = getattr(request, "param", "embedmill_worker.app")
    path = os.pathsep.join([apps.FOLDER, os.environ.get("PYTHONPATH", "")])
    health = {"EMBEDMILL_HEALTH_FILE": str(tmp_path / "health.json"), "EMBEDMILL_GRACE_S": "3", "PYTHONPATH": path}
    worker = own_mill.start_worker(app=app, **health)
    yield worker
    for pid in [worker.pid, *worker.children] if worker.process.poll() is None else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.soak
@pytest.mark.parametrize("watched", ["remote_app"], indirect=True)
def test_a_worker_whose_consumer_was_cancelled_is_found_and_ends_itself(own_mill, watched, client):
    assert (probe(watched, "live"), probe(watched, "ready")) == (exit_codes.OK, exit_codes.OK)
    command = [sys.executable, "-m", "celery", "-A", "remote_app", "control", "cancel_consumer"]
    command += [Keyspace(own_mill.namespace).queue(MODEL, "bulk")]
    subprocess.run(command, env=watched.env, check=True, capture_output=True, timeout=60)
    job = client.submit(["a text that nobody takes"])
    eventually(lambda: probe(watched, "live") == exit_codes.UNHEALTHY)
    assert states(own_mill) == ["stalled"]
    assert watched.process.wait(FOUND_WITHIN_S) == exit_codes.STALLED
    assert "this worker is stalled" in watched.log
    assert states(own_mill) == []
    own_mill.start_worker()
    assert np.isfinite(job.result(60).vectors).all()


@pytest.mark.soak
def test_a_worker_whose_children_are_frozen_is_found_and_ends_itself(own_mill, watched, client):
    for pid in watched.children:
        os.kill(pid, signal.SIGSTOP)
    job = client.submit(["a text that a frozen child is given"])
    eventually(lambda: "stalled" in states(own_mill))
    assert probe(watched, "ready") == exit_codes.UNHEALTHY
    assert watched.process.wait(FOUND_WITHIN_S) == exit_codes.STALLED
    own_mill.start_worker()
    assert job.result(60).rejected == ()


@pytest.mark.soak
def test_a_frozen_main_process_is_found(own_mill, watched):
    os.kill(watched.pid, signal.SIGSTOP)
    eventually(lambda: probe(watched, "live") == exit_codes.UNHEALTHY and states(own_mill) == [])
    os.kill(watched.pid, signal.SIGCONT)
    eventually(lambda: probe(watched, "ready") == exit_codes.OK)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["down", "frozen"])
def test_a_worker_without_redis_stays_live_and_is_ready_again_with_it(durable_mill, own_valkey, tmp_path, how):
    worker = durable_mill.start_worker(EMBEDMILL_HEALTH_FILE=str(tmp_path / "health.json"))
    if how == "down":
        own_valkey.kill()
    else:
        os.kill(own_valkey.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 25
    ready = []
    while time.monotonic() < deadline:
        assert probe(worker, "live") == exit_codes.OK
        ready.append(probe(worker, "ready"))
        time.sleep(1)
    assert ready[-1] == exit_codes.UNHEALTHY
    if how == "down":
        own_valkey.start()
    else:
        os.kill(own_valkey.pid, signal.SIGCONT)
    eventually(lambda: probe(worker, "ready") == exit_codes.OK, 60)


def test_a_stop_ends_in_bounded_time_although_a_child_hangs(own_mill, watched, client):
    job = client.submit(["the text of a child that hangs " * 20] * 200)
    eventually(lambda: job.status().chunks_done > 0)
    for pid in watched.children:
        os.kill(pid, signal.SIGSTOP)
    watched.process.terminate()
    assert watched.process.wait(30) == exit_codes.GRACE
    own_mill.start_worker()
    assert job.result(120).rejected == ()


@pytest.mark.soak
def test_a_worker_whose_connections_a_firewall_forgot_works_on(own_mill, valkey):
    proxy = Proxy(valkey.socket)
    worker = own_mill.start_worker(EMBEDMILL_REDIS_URL=proxy.url)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        before = client.embed(["a text"])
        assert proxy.strand() > 0
        began = time.monotonic()
        assert client.embed(["a text"], timeout_s=120).tobytes() == before.tobytes()
        log.info(f"found out and back at work after {time.monotonic() - began:.0f} s")
    assert worker.process.poll() is None
    own_mill.workers[0].kill()
    proxy.close()
