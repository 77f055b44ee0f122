"""Redis goes away, freezes, comes back: clients fail in bounded time, or go on."""

import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from embedmill import AsyncEmbeddingClient, BrokerUnavailableError, EmbeddingClient
from embedmill.transport.aio import AsyncRedisTransport
from embedmill.transport.sync import RedisTransport
from support.servers import save
from support.waiting import join, wait_until

TEXTS = [f"{n:04d} " * 16 for n in range(5)]

#: Less than the half minute for which a call that waits for vectors tries Redis again; the timeouts here are a second.
BOUND_S = 25.0


class Sync:
    """Calls of the blocking client."""

    def __init__(self, url, namespace):
        self.client = EmbeddingClient(url, "paper", namespace=namespace)

    def embed(self, **options):
        return self.client.embed(TEXTS, **options)

    def submit(self):
        return self.client.submit(TEXTS).id

    def status(self, job_id):
        return self.client.job(job_id).status()

    def result(self, job_id, timeout_s):
        return self.client.job(job_id).result(timeout_s)

    def close(self):
        self.client.close()


class Async:
    """The same calls of the asyncio client, each in the same event loop."""

    def __init__(self, url, namespace):
        self.runner = asyncio.Runner()
        self.client = AsyncEmbeddingClient(url, "paper", namespace=namespace)

    def embed(self, **options):
        return self.runner.run(self.client.embed(TEXTS, **options))

    def submit(self):
        async def submit():
            return (await self.client.submit(TEXTS)).id

        return self.runner.run(submit())

    def status(self, job_id):
        return self.runner.run(self.client.job(job_id).status())

    def result(self, job_id, timeout_s):
        return self.runner.run(self.client.job(job_id).result(timeout_s))

    def close(self):
        self.runner.run(self.client.close())
        self.runner.close()


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def calls(request, own_valkey, namespace, monkeypatch):
    """A client of a server of its own, with little patience where a call names no timeout."""
    for link in (RedisTransport, AsyncRedisTransport):
        monkeypatch.setitem(link.run.__kwdefaults__, "outage_s", 0.5)
    made = request.param(own_valkey.url, namespace)
    yield made
    made.close()


@pytest.fixture
def own_bench(own_valkey, namespace, make_bench):
    """Hands for the server of its own."""
    made = make_bench(own_valkey.url, namespace)
    yield made
    made.close()


def test_a_stopped_redis_is_said_to_be_unavailable(calls, own_valkey):
    own_valkey.kill()
    for call in (lambda: calls.embed(timeout_s=1), calls.submit, lambda: calls.status("j")):
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
            call()
        assert time.monotonic() - began_s < BOUND_S


def test_a_redis_that_comes_back_serves_the_next_call(calls, own_valkey, own_bench, expected):
    job_id = calls.submit()
    save(own_valkey.url)
    own_valkey.kill()
    with pytest.raises(BrokerUnavailableError):
        calls.status(job_id)
    own_valkey.restart()
    assert calls.status(job_id).n_texts == 5
    while own_bench.work():
        pass
    assert np.array_equal(calls.result(job_id, 30).vectors, expected(TEXTS))


def test_a_frozen_redis_makes_no_call_hang(calls, own_valkey):
    job_id = calls.submit()  # so that the freeze meets an open connection
    own_valkey.pause()
    try:
        for call in (lambda: calls.embed(timeout_s=1), lambda: calls.result(job_id, 1)):
            began_s = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match="no answer in time"):
                call()
            assert time.monotonic() - began_s < BOUND_S
    finally:
        own_valkey.resume()


def test_a_redis_that_freezes_under_a_waiting_call_makes_it_fail_in_time(calls, own_valkey, own_bench):
    def freeze():
        wait_until(lambda: own_bench.redis.exists(own_bench.keys.active("paper", "interactive")))
        own_valkey.pause()

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            calls.embed(timeout_s=1)
        assert time.monotonic() - began_s < BOUND_S
    finally:
        join(thread)
        own_valkey.resume()


def test_a_waiting_call_outlives_a_restart(calls, own_valkey, own_bench, expected):
    job_id = calls.submit()

    def restart():
        wait_until(lambda: own_bench.redis.info("clients")["blocked_clients"])  # the call waits for events
        save(own_valkey.url)
        own_valkey.kill()
        time.sleep(0.7)  # longer than a call would be patient that does not wait for vectors
        own_valkey.restart()
        while own_bench.work():
            pass

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        assert np.array_equal(calls.result(job_id, 60).vectors, expected(TEXTS))
    finally:
        join(thread)


def test_a_wrong_password_is_said_at_once_and_not_shown(calls, own_valkey, own_bench, namespace):
    own_bench.redis.config_set("requirepass", "zebra")
    with pytest.raises(BrokerUnavailableError, match="refuses the user or password"):
        calls.embed(timeout_s=20)
    wrong = type(calls)(own_valkey.url.replace("unix://", "unix://:quartz@"), namespace)
    with pytest.raises(BrokerUnavailableError, match="refuses the user or password") as caught:
        wrong.embed(timeout_s=20)
    assert "quartz" not in str(caught.value)
    right = type(calls)(own_valkey.url.replace("unix://", "unix://:zebra@"), namespace)
    assert right.submit()
    for other in (wrong, right):
        other.close()


FORKING = """
import os, sys
import numpy as np
from embedmill import EmbeddingClient

client = EmbeddingClient(sys.argv[1], "paper", namespace=sys.argv[2])
before = client.embed(["before"])
job = client.submit(["kept over the fork"])
reader, writer = os.pipe()
pid = os.fork()
mine = [client.embed([f"{'child' if pid == 0 else 'parent'} {n}"]) for n in range(30)]
kept = job.result(60).vectors
if pid == 0:
    os.write(writer, np.concatenate([*mine, kept]).tobytes())
    os._exit(0)
os.close(writer)
theirs = np.frombuffer(os.fdopen(reader, "rb").read(), dtype="<f4").reshape(-1, 8)
assert os.waitpid(pid, 0)[1] == 0
np.save(sys.argv[3], np.concatenate([before, *mine, kept, theirs]))
"""


def test_both_sides_of_a_fork_may_use_the_client(bench, tmp_path, expected):
    with bench.worker():
        command = [sys.executable, "-c", FORKING, bench.redis_url, bench.namespace, str(tmp_path / "rows.npy")]
        subprocess.run(command, check=True, timeout=120)
    sides = [[*(f"{side} {n}" for n in range(30)), "kept over the fork"] for side in ("parent", "child")]
    assert np.array_equal(np.load(tmp_path / "rows.npy"), expected(["before", *sides[0], *sides[1]]))
