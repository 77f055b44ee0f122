"""Inputs that nobody should send and somebody will: each has a defined result or a clear error."""

import numpy as np
import pytest

from embedmill import EmbeddingClient, InvalidRequestError, InvalidTextError, TextsRejectedError, TooManyTextsError
from embedmill.protocol.keys import Keyspace
from support.chaos.checks import COUNTERS
from support.servers import plain_redis

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def client(mill):
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as made:
        yield made


def test_no_texts_give_no_rows(client):
    assert client.embed([]).shape == (0, 384)
    reply = client.submit([]).result(10)
    assert reply.vectors.shape == (0, 384)


def test_an_empty_string_is_embedded_as_the_model_does(client):
    vectors = client.embed(["", "   ", "word"])
    assert np.isfinite(vectors).all()
    assert vectors[0].tobytes() == vectors[1].tobytes() != vectors[2].tobytes()


def test_a_text_of_a_hundred_thousand_characters_is_cut_and_reported(client):
    reply = client.submit(["long " * 20_000, "short"]).result(60)
    assert reply.truncated.tolist() == [True, False]
    assert reply.token_counts.tolist() == [20_002, 3]
    assert np.isfinite(reply.vectors).all()


def test_a_long_text_is_rejected_with_its_length_when_truncation_is_off(client):
    with pytest.raises(TextsRejectedError) as caught:
        client.embed(["long " * 1_000, "short"], truncate=False)
    (rejected,) = caught.value.reply.rejected
    assert (rejected.index, rejected.reason) == (0, "too_long")
    assert "1002" in rejected.detail and "256" in rejected.detail
    assert np.isnan(caught.value.reply.vectors[0]).all() and np.isfinite(caught.value.reply.vectors[1]).all()


def test_a_text_beyond_a_million_characters_is_rejected_before_it_is_sent(client):
    reply = client.submit(["x" * 1_000_001, "short"]).result(60)
    assert [(r.index, r.reason) for r in reply.rejected] == [(0, "too_large")]
    assert np.isfinite(reply.vectors[1]).all()


def test_lone_surrogates_are_rejected_and_nul_characters_are_embedded(client):
    with pytest.raises(TextsRejectedError) as caught:
        client.embed(["fine", "bad \ud800 text", "nul \x00 inside", "\x00"])
    assert [(r.index, r.reason) for r in caught.value.reply.rejected] == [(1, "invalid_unicode")]
    assert np.isfinite(caught.value.reply.vectors[[0, 2, 3]]).all()
    assert "bad" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["nested"], float("nan")])
def test_what_is_not_a_string_is_refused_before_anything_is_sent(client, mill, wrong):
    server = plain_redis(mill.redis_url)
    before = set(server.scan_iter(Keyspace(mill.namespace).job("*")))
    with pytest.raises(InvalidTextError, match=r"texts\[1\]"):
        client.embed(["fine", wrong])
    with pytest.raises(InvalidRequestError, match="write \\[text\\]"):
        client.embed("one string")
    assert set(server.scan_iter(Keyspace(mill.namespace).job("*"))) == before


def test_more_texts_than_a_job_holds_are_refused_by_submit_and_cut_by_embed(client):
    texts = ["word"] * 65_537
    with pytest.raises(TooManyTextsError, match="65536"):
        client.submit(texts)


@pytest.mark.soak
def test_a_million_one_word_texts_are_embedded_in_order(client):
    words = ("air", "api", "tanah", "angin")
    vectors = client.embed([words[i % 4] for i in range(1_000_000)], lane="bulk", timeout_s=3_000)
    assert vectors.shape == (1_000_000, 384)
    few = client.embed(list(words))
    assert all((vectors[i::4] == few[i]).all() for i in range(4))


def test_nothing_of_embed_stays_in_redis(client, mill):
    client.embed(["a", "b"])
    with pytest.raises(TextsRejectedError):
        client.embed(["a", "\ud800"])
    server, keys = plain_redis(mill.redis_url), Keyspace(mill.namespace)
    assert server.zcard(keys.active(MODEL, "interactive")) == 0
    assert {int(v) for v in server.hmget(keys.lane(MODEL, "interactive"), COUNTERS)} == {0}
