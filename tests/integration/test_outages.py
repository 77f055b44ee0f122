"""Redis goes away, freezes, comes back: clients fail in bounded time, or go on."""

import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from embedmill import AsyncEmbeddingClient, BrokerUnavailableError, EmbeddingClient
from embedmill.async_link import AsyncLink
from embedmill.link import Link

TEXTS = [f"{n:04d} " * 16 for n in range(5)]

#: Far more than any call here may take; the timeouts under test are a second.
BOUND_S = 5.0


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
    for link in (Link, AsyncLink):
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
    own_valkey.kill()
    with pytest.raises(BrokerUnavailableError):
        calls.status(job_id)
    own_valkey.restart()
    assert calls.status(job_id).chunks == 5
    while own_bench.work():
        pass
    assert np.array_equal(calls.result(job_id, 30).vectors, expected(TEXTS))


def test_a_frozen_redis_makes_no_call_hang(calls, own_valkey):
    with pytest.raises(BrokerUnavailableError):  # connected once: the freeze meets an open connection too
        calls.status("j") and None
    own_valkey.pause()
    try:
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="no answer in time"):
            calls.embed(timeout_s=1)
        assert time.monotonic() - began_s < BOUND_S
    finally:
        own_valkey.resume()
