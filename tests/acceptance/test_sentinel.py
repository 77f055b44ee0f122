"""Sentinels fail over to a replica under a running job, for worker, Celery and both clients."""

import asyncio
import time

import pytest

from embedmill import AsyncEmbeddingClient, BrokerUnavailableError, EmbeddingClient, JobState, QueueError
from embedmill.errors import ResultExpiredError
from embedmill_worker.cli.measure import corpus
from support.servers import Watched, free_port
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def watched(valkey_binary, tmp_path):
    with Watched(valkey_binary, tmp_path) as servers:
        yield servers


@pytest.fixture
def sentinel_mill(watched, make_mill):
    return make_mill(watched.url)


def test_a_failover_under_a_job_is_survived_by_worker_and_clients(sentinel_mill, watched):
    worker = sentinel_mill.start_worker()
    texts = corpus.short(600)
    with EmbeddingClient(watched.url, MODEL, namespace=sentinel_mill.namespace) as client:
        undisturbed = client.submit(texts).result(120)
        job = client.submit(texts, job_id="kept")
        wait_until(lambda: job.status().chunks_done)
        watched.servers[0].kill()
        deadline = time.monotonic() + 120
        while True:  # as a producer does that holds its texts
            try:
                reply = client.submit(texts, job_id="kept").result(60)
                break
            except (QueueError, ResultExpiredError):
                assert time.monotonic() < deadline, worker.log[-3000:]
                time.sleep(0.2)
        assert reply.vectors.tobytes() == undisturbed.vectors.tobytes()
        assert client.embed(texts[:1]).tobytes() == undisturbed.vectors[:1].tobytes()

    async def awaited():
        async with AsyncEmbeddingClient(watched.url, MODEL, namespace=sentinel_mill.namespace) as client:
            assert (await client.job("kept").status()).state is JobState.DONE
            return await client.embed(texts[:1])

    assert asyncio.run(awaited()).tobytes() == undisturbed.vectors[:1].tobytes()
    assert worker.process.poll() is None
    with watched.servers[1].client(password=watched.password) as replica:
        assert replica.info("replication")["role"] == "master"
    for secret in (watched.password, watched.sentinel_password):
        assert secret not in worker.log


def test_sentinels_that_are_all_away_make_no_call_hang(namespace):
    hosts = ",".join(f"127.0.0.1:{free_port()}" for _ in range(3))
    url = f"redis+sentinel://:zebra@{hosts}/mymaster"

    async def awaited():
        async with AsyncEmbeddingClient(url, MODEL, namespace=namespace) as client:
            await client.embed(["a"], timeout_s=1)

    with EmbeddingClient(url, MODEL, namespace=namespace) as client:
        for call in (lambda: client.embed(["a"], timeout_s=1), lambda: asyncio.run(awaited())):
            began_s = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match="unavailable") as caught:
                call()
            assert time.monotonic() - began_s < 60
            assert "zebra" not in str(caught.value)
