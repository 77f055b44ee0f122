"""The embedding cache: what a worker has embedded, no worker embeds again, and no bit changes."""

import os
import signal

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill_worker.cli.measure import corpus
from support import apps
from support.breakable import BreakableValkey
from support.servers import plain_redis

from .conftest import PATIENCE_S, Mill, WorkerHandle, close, new_mill


def start_cache() -> BreakableValkey:
    """A server as a cache wants it."""
    server = BreakableValkey(persistent=False)
    server.start()
    with plain_redis(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lfu")
    return server


def start_patient(mill: Mill, cache_url: str, *, ready: bool = True) -> WorkerHandle:
    """Start a worker that gives its cache far more than the usual quarter of a second to answer."""
    path = os.pathsep.join(filter(None, [apps.FOLDER, os.environ.get("PYTHONPATH", "")]))
    env = {"PYTHONPATH": path, "EMBEDMILL_CONCURRENCY": "1", "EMBEDMILL_CACHE_URL": cache_url}
    return mill.start_worker(app="patient_cache_app", ready=ready, **env)


@pytest.fixture
def cache_server(valkey_binary):
    """A cache's server for one test alone."""
    server = start_cache()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cached_mill(valkey, data_dir, tmp_path_factory):
    """A mill whose worker has a cache."""
    server = start_cache()
    mill = new_mill(valkey.url, data_dir, tmp_path_factory.mktemp("cached"))
    try:
        start_patient(mill, server.url)
        with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
            yield client, server
    finally:
        close(mill)
        server.stop()


@pytest.fixture
def cached(cached_mill):
    """Its client and its cache, which is empty."""
    client, server = cached_mill
    with plain_redis(server.url) as raw:
        raw.flushdb()
    return client, server


def embed(client, texts, **options):
    """The reply of a job, which is deleted."""
    job = client.submit(texts, **options)
    reply = job.result(120)
    job.delete()
    return reply


def entries(server) -> dict[bytes, bytes]:
    with plain_redis(server.url) as client:
        return {key: client.get(key) for key in client.scan_iter("*:cache:*")}


def test_a_text_is_embedded_once_and_gives_the_same_bits_in_every_form(cached, mill):
    client, _ = cached
    texts = [*corpus.mixed(50), "", "twice", "twice"]
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as uncached:
        wanted = embed(uncached, texts)
        first = embed(client, texts)
        again = embed(client, texts)
        assert first.timings_ms["inference"] > 0
        assert again.timings_ms["inference"] == 0.0
        for reply in (first, again):
            assert reply.vectors.tobytes() == wanted.vectors.tobytes()
            assert np.array_equal(reply.token_counts, wanted.token_counts)
            assert np.array_equal(reply.truncated, wanted.truncated)
        for options in ({"dtype": "float16"}, {"dtype": "int8"}, {"dtype": "binary"}, {"dimensions": 128}):
            derived = embed(client, texts, **options)
            assert derived.timings_ms["inference"] == 0.0
            assert derived.vectors.tobytes() == embed(uncached, texts, **options).vectors.tobytes()


def test_another_input_type_is_another_entry(cached):
    client, server = cached
    embed(client, ["one text"])
    embed(client, ["one text"], input_type="query")
    assert len(entries(server)) == 2


def test_a_text_that_is_too_long_is_rejected_although_the_cache_has_it_cut(cached):
    client, _ = cached
    long = corpus.long(1)[0]
    assert embed(client, [long]).truncated.tolist() == [True]
    reply = embed(client, ["short", long], truncate=False)
    assert [(r.index, r.reason) for r in reply.rejected] == [(1, "too_long")]


def test_no_text_lies_in_the_cache(cached):
    client, server = cached
    embed(client, ["zebra quartz marmalade"])
    held = entries(server)
    assert len(held) == 1
    assert not any(b"zebra" in key + value for key, value in held.items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-1],
        lambda value: value + b"x",
        lambda value: value[:40] + bytes([value[40] ^ 1]) + value[41:],
        lambda value: bytes([value[0] + 1]) + value[1:],
        lambda value: b"",
        lambda value: b"\x80\x04\x95 a pickle",
        None,
    ],
    ids=["cut", "longer", "a bit", "version", "empty", "garbage", "another type"],
)
def test_a_damaged_entry_is_replaced(cached, damage):
    client, server = cached
    wanted = embed(client, ["one text"])
    ((key, value),) = entries(server).items()
    with plain_redis(server.url) as raw:
        raw.delete(key)
        if damage is None:
            raw.rpush(key, "a list")
        else:
            raw.set(key, damage(value))
    again = embed(client, ["one text"])
    assert again.vectors.tobytes() == wanted.vectors.tobytes()
    assert again.timings_ms["inference"] > 0
    assert entries(server) == {key: value}


def test_a_cache_that_freezes_or_dies_stops_no_work(own_mill, cache_server):
    worker = own_mill.start_worker(EMBEDMILL_CONCURRENCY="1", EMBEDMILL_CACHE_URL=cache_server.url)
    with EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        os.kill(cache_server.pid, signal.SIGSTOP)
        try:
            assert not embed(client, corpus.short(50)).rejected
        finally:
            os.kill(cache_server.pid, signal.SIGCONT)
        cache_server.kill()
        assert not embed(client, corpus.short(50, seed=9)).rejected
    assert "the embedding cache is not used for 30 s" in worker.log


def test_the_queue_s_own_server_is_refused_under_any_of_its_names(own_mill):
    worker = start_patient(own_mill, own_mill.redis_url.replace("db=0", "db=1"), ready=False)
    assert worker.process.wait(PATIENCE_S) == 3
    assert "it is the queue's own server" in worker.log


def test_a_cache_that_would_forget_nothing_is_refused(own_mill, cache_server):
    with plain_redis(cache_server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
    worker = start_patient(own_mill, cache_server.url, ready=False)
    assert worker.process.wait(PATIENCE_S) == 3
    assert "CONFIG SET maxmemory-policy allkeys-lfu" in worker.log


def test_a_cache_that_is_away_at_the_start_is_a_warning(own_mill, cache_server):
    url = cache_server.url
    cache_server.kill()
    worker = start_patient(own_mill, url)
    assert "the embedding cache is not used for now" in worker.log
    # And it is looked at before it is used: a server of another policy may be there by then.
    cache_server.restart()
    with plain_redis(url) as raw, EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        raw.config_set("maxmemory-policy", "noeviction")
        assert not embed(client, ["one"]).rejected
        assert raw.dbsize() == 0
    assert "its maxmemory-policy is noeviction" in worker.log


def test_an_entry_under_another_text_s_name_is_not_taken(cached):
    client, server = cached
    embed(client, ["one text"])
    with plain_redis(server.url) as raw:
        ((first, value),) = entries(server).items()
        wanted = embed(client, ["another"])
        (second,) = entries(server).keys() - {first}
        raw.set(second, value)
    assert embed(client, ["another"]).vectors.tobytes() == wanted.vectors.tobytes()
