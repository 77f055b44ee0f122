"""Many small calls of one async client, against a real worker on a server of their own."""

import asyncio

import numpy as np
import pytest

from embedmill import AsyncEmbeddingClient, TextsRejectedError
from embedmill.protocol.keys import Keyspace
from embedmill.reply import Reason
from embedmill_worker.cli.measure import corpus
from support.servers import plain_redis, save

MODEL = "all-MiniLM-L6-v2"


def commands(server, name):
    """How often Redis ran a command. A job is submitted by the only script with a RENAME, a key per job."""
    return server.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)


@pytest.fixture
def server(durable_mill):
    """A connection to the mill's server."""
    with plain_redis(durable_mill.redis_url) as connection:
        yield connection


@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.deep)])
def test_calls_that_share_jobs_have_the_bits_of_one_call_of_all(durable_mill, server, count):
    durable_mill.start_worker()
    texts = corpus.mixed(count, seed=12)

    async def use():
        async with AsyncEmbeddingClient(durable_mill.redis_url, MODEL, namespace=durable_mill.namespace) as client:
            together = await client.embed(texts, timeout_s=240)
            before = commands(server, "rename")
            calls = [client.embed([text], truncate=False) for text in [texts[0], "too long " * 600, "x\ud800"]]
            calls += [client.embed([text], timeout_s=240) for text in texts]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            return together, outcomes, commands(server, "rename") - before

    together, (short, long, broken, *alone), jobs = asyncio.run(use())
    assert np.array_equal(np.concatenate(alone).view(np.uint32), together.view(np.uint32))
    assert np.array_equal(short[0], together[0])
    assert [type(error) for error in (long, broken)] == [TextsRejectedError] * 2
    reasons = [[(r.index, r.reason) for r in error.reply.rejected] for error in (long, broken)]
    assert reasons == [[(0, Reason.TOO_LONG)], [(0, Reason.INVALID_UNICODE)]]
    assert 0 < jobs < count / 3
    assert list(server.scan_iter(Keyspace(durable_mill.namespace).job("*"))) == []


def test_a_restart_of_redis_loses_no_caller_s_text(durable_mill, server, own_valkey):
    durable_mill.start_worker()
    texts = corpus.mixed(100, seed=13)

    async def use():
        async with AsyncEmbeddingClient(durable_mill.redis_url, MODEL, namespace=durable_mill.namespace) as client:
            calls = [asyncio.create_task(client.embed([text], timeout_s=240)) for text in texts]
            while not any(call.done() for call in calls):
                await asyncio.sleep(0.001)
            assert not all(call.done() for call in calls)
            await asyncio.to_thread(save, own_valkey.url)  # or a job deleted a moment before lies there again
            await asyncio.to_thread(own_valkey.kill)
            await asyncio.to_thread(own_valkey.restart)
            vectors = await asyncio.gather(*calls)
            return np.concatenate(vectors), await client.embed(texts, timeout_s=240)

    alone, together = asyncio.run(use())
    assert np.array_equal(alone.view(np.uint32), together.view(np.uint32))
    assert list(server.scan_iter(Keyspace(durable_mill.namespace).job("*"))) == []
