"""A real worker with a model that is NaN on one word and whose tokenizer panics on another: see odd_models.py."""

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
from celery import Celery

import embedmill
from embedmill import AsyncEmbeddingClient, EmbeddingClient, Reason, TextsRejectedError
from embedmill.protocol.vectors import Dtype
from embedmill_worker import exit_codes
from embedmill_worker.service.broker import broker_url
from support import apps
from support.odd_models import NAN_WORD, PANIC_WORD, write_odd_model
from support.reindexer import Reindexer, rows, write_jsonl
from support.servers import plain_redis

from .conftest import PATIENCE_S, Mill, close, new_mill

TEXTS = ["the river", f"the {NAN_WORD}", "a", f"river {PANIC_WORD} quagga", "a river", "the"]
#: By position: why it has no vector.
REJECTED = {1: Reason.NOT_FINITE, 3: Reason.FAILED}
KEPT = [i for i in range(len(TEXTS)) if i not in REJECTED]


@pytest.fixture(scope="module")
def odd_mill(valkey, tmp_path_factory) -> Iterator[Mill]:
    """A mill with one worker of the odd model; afterwards no text is in its log or in Redis."""
    folder = tmp_path_factory.mktemp("odd")
    mill = new_mill(valkey.url, folder / "data", folder)
    model = write_odd_model(folder / "model")
    try:
        mill.start_worker(EMBEDMILL_MODEL=f"odd={model}", EMBEDMILL_CONCURRENCY="1", RUST_BACKTRACE="1")
        yield mill
        assert mill.worker.process.poll() is None
        assert "PanicException" in mill.worker.log
        for word in (NAN_WORD, PANIC_WORD, "quagga", "panicked", "backtrace", "Traceback"):
            assert word not in mill.worker.log
        assert not any(word in data for word in (b"quagga", b"retry-limit") for data in everything(mill))
    finally:
        close(mill)


def everything(mill: Mill) -> list[bytes]:
    """What Redis holds of a mill, as it would be dumped."""
    with plain_redis(mill.redis_url) as server:
        return [server.dump(key) or b"" for key in server.keys(f"{mill.namespace}*")]


@pytest.fixture
def client(odd_mill) -> Iterator[EmbeddingClient]:
    with EmbeddingClient(odd_mill.redis_url, namespace=odd_mill.namespace) as made:
        made.dead.drop_all()
        yield made


@pytest.fixture(scope="module")
def sound(odd_mill):
    """The vectors of the texts that have one, embedded without the others."""
    with EmbeddingClient(odd_mill.redis_url, namespace=odd_mill.namespace) as made:
        return made.embed([TEXTS[i] for i in KEPT])


def reasons(reply) -> dict[int, str]:
    return {r.index: r.reason for r in reply.rejected}


def test_a_text_that_panics_and_one_that_is_nan_are_rejected_and_their_neighbours_embedded(client, sound):
    reply = client.submit(TEXTS).result(PATIENCE_S)

    assert reasons(reply) == REJECTED
    assert reply.vectors[KEPT].tobytes() == sound.tobytes()
    assert np.isnan(reply.vectors[list(REJECTED)]).all()
    letters = {letter.index: letter for letter in client.dead.list()}
    assert {i: (letter.reason, letter.attempts) for i, letter in letters.items()} == {
        i: (reason, 1) for i, reason in REJECTED.items()
    }
    assert letters[1].n_chars == len(TEXTS[1])


@pytest.mark.parametrize("dtype", Dtype)
def test_no_dtype_hides_it(client, dtype):
    reply = client.submit(TEXTS, dtype=dtype, dimensions=8).result(PATIENCE_S)

    assert reasons(reply) == REJECTED
    lost = reply.vectors[list(REJECTED)]
    assert np.isnan(lost).all() if lost.dtype.kind == "f" else not lost.any()
    assert np.isfinite(reply.vectors[KEPT]).all()


def test_every_way_of_reading_says_the_same(client, odd_mill, sound):
    with pytest.raises(TextsRejectedError) as caught:
        client.embed(TEXTS)
    assert_right(caught.value.reply.vectors, reasons(caught.value.reply), sound)

    parts = list(client.submit(TEXTS).iter_results())
    vectors = np.empty((len(TEXTS), sound.shape[1]), dtype=np.float32)
    for part in parts:
        vectors[part.indices] = part.vectors
    assert_right(vectors, {r.index: r.reason for part in parts for r in part.rejected}, sound)

    async def awaited():
        async with AsyncEmbeddingClient(odd_mill.redis_url, namespace=odd_mill.namespace) as client:
            outcomes = await asyncio.gather(*(client.embed([text]) for text in TEXTS), return_exceptions=True)
            parts = [part async for part in (await client.submit(TEXTS)).iter_results()]
            return outcomes, {r.index: r.reason for part in parts for r in part.rejected}

    outcomes, rejected = asyncio.run(awaited())
    assert rejected == REJECTED
    for i, outcome in enumerate(outcomes):
        if i in REJECTED:
            assert isinstance(outcome, TextsRejectedError)
            assert reasons(outcome.reply) == {0: REJECTED[i]}
        else:
            assert outcome.tobytes() == sound[KEPT.index(i)].tobytes()


def assert_right(vectors, rejected, sound):
    assert rejected == REJECTED
    assert vectors[KEPT].tobytes() == sound.tobytes()
    assert np.isnan(vectors[list(REJECTED)]).all()


def test_the_canvas_task_says_the_same(odd_mill, sound):
    url = broker_url(odd_mill.redis_url)
    app = Celery("caller", broker=url, backend=url, set_as_current=False)
    app.conf.update(result_serializer="msgpack", accept_content=["json"], result_accept_content=["json", "msgpack"])
    app.conf.broker_transport_options = {"priority_steps": [0]}
    pending = app.send_task("embedmill.embed", args=[TEXTS], queue=f"{odd_mill.namespace}.embed")
    result = pending.get(timeout=PATIENCE_S)
    pending.forget()
    app.close()

    assert_right(embedmill.vectors_of(result), {r.index: r.reason for r in embedmill.rejected_of(result)}, sound)


def test_reindex_says_the_same(odd_mill, sound, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    env = {**odd_mill.env, "PYTHONPATH": apps.FOLDER}
    report = Reindexer(env, (source, "--to", tmp_path / "vectors")).run(exit_codes.REJECTED)

    assert (report["added"], report["rejected"]) == (len(KEPT), len(REJECTED))
    lines = (tmp_path / "vectors.rejects.jsonl").read_text().splitlines()
    assert {(line["id"], line["reason"]) for line in map(json.loads, lines)} == {
        (f"d{i}", str(reason)) for i, reason in REJECTED.items()
    }
    assert {id: vector for id, (vector, _) in rows(tmp_path / "vectors").items()} == {
        f"d{i}": sound[n].tobytes() for n, i in enumerate(KEPT)
    }
