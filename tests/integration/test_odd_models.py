"""A model that is NaN on one word, behind the embedding cache: what is no vector is neither kept nor given."""

import numpy as np
import pytest

from embedmill.reply import Reason
from embedmill_worker.cache import cache_entry
from embedmill_worker.cache.cache_entry import CacheEntry
from embedmill_worker.cache.cached_engine import CachedEngine
from embedmill_worker.cache.store import EmbeddingCache, read_info
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.engine import load
from embedmill_worker.models import resolve
from support.odd_models import DIMENSION, NAN_WORD, write_odd_model
from support.servers import plain_redis

TEXTS = ["the river", f"the {NAN_WORD}", "the"]


@pytest.fixture
def cached(valkey_binary, bench, tmp_path, monkeypatch):
    """The model behind a cache of its own, and a connection to the cache's server."""
    monkeypatch.setattr("embedmill_worker.cache.store.REPLY_S", 60.0)  # a busy machine is not a cache that is gone
    engine = load(resolve(f"odd={write_odd_model(tmp_path / 'model')}", data_dir=tmp_path), cache_dir=None)
    with EmbeddedValkey(persistent=False) as server, plain_redis(server.url) as raw:
        raw.config_set("maxmemory-policy", "allkeys-lfu")
        cache = EmbeddingCache(server.url, bench.namespace)
        cache.check(bench.run(read_info()))
        yield CachedEngine(engine=engine, cache=cache), raw


def test_a_vector_that_is_not_finite_is_rejected_each_time_and_never_kept(cached):
    engine, raw = cached
    for _ in range(2):
        embedded = engine.embed(TEXTS)
        assert [(r.index, r.reason) for r in embedded.rejected] == [(1, Reason.NOT_FINITE)]
        assert np.isfinite(embedded.vectors[[0, 2]]).all()
        assert len(raw.keys()) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_entry_that_is_not_finite_is_not_given(cached, bench, value):
    engine, raw = cached
    expected = engine.embed(["the"]).vectors
    (key,) = raw.keys()
    hash = bytes.fromhex(key.decode().rpartition(":")[2])
    entry = CacheEntry(vector=np.full(DIMENSION, value, dtype=np.float32), token_count=1, is_truncated=False)
    raw.set(key, cache_entry.pack(entry, hash))
    assert engine.embed(["the"]).vectors.tobytes() == expected.tobytes()
