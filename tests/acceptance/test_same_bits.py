"""A vector depends on its text and nothing else: not on company, order, chunk or worker."""

import random

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill.limits import MAX_CHUNK_TEXTS
from embedmill_worker.cli.measure import corpus

MODEL = "all-MiniLM-L6-v2"


def rows_that_differ(a: np.ndarray, b: np.ndarray) -> int:
    return int((a.view(np.uint32) != b.view(np.uint32)).any(axis=1).sum())


@pytest.mark.parametrize(
    "count", [100, pytest.param(250, marks=pytest.mark.deep), pytest.param(1000, marks=pytest.mark.soak)]
)
def test_texts_have_the_same_bits_alone_shuffled_in_other_chunks_and_from_two_workers(own_mill, monkeypatch, count):
    texts = corpus.mixed(count, seed=11)
    first = own_mill.start_worker()
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        reference = client.submit(texts).result(240).vectors

        # Each text in a chunk of its own.
        monkeypatch.setattr("embedmill.jobs.chunking.MAX_CHUNK_TEXTS", 1)
        alone = client.submit(texts)
        assert alone.status().chunks == len(texts)
        assert rows_that_differ(alone.result(240).vectors, reference) == 0
        monkeypatch.setattr("embedmill.jobs.chunking.MAX_CHUNK_TEXTS", MAX_CHUNK_TEXTS)

        # Three shuffles: other neighbours in every chunk; the second worker does the last two.
        for seed in range(3):
            if seed == 1:
                own_mill.start_worker()
                assert first.stop() == 0
            order = list(range(len(texts)))
            random.Random(seed).shuffle(order)
            if seed == 2:
                monkeypatch.setattr("embedmill.jobs.chunking.MAX_CHUNK_TEXTS", 23)
            shuffled = client.submit([texts[i] for i in order]).result(240).vectors
            assert rows_that_differ(shuffled, reference[order]) == 0


def test_the_queue_gives_the_vectors_that_the_golden_set_has(mill, golden):
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        reply = client.submit(golden.texts).result(120)
    cosines = (reply.vectors * golden.vectors).sum(axis=1)
    assert cosines.min() >= 0.9999
    assert reply.token_counts.tolist() == golden.token_counts
