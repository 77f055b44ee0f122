"""The signature of ``embedmill.embed``: it composes, and shows no text."""

import copy
import json

import numpy as np
import pytest
from celery import Celery, chain, group
from celery.canvas import maybe_signature

import embedmill
from embedmill.errors import InvalidRequestError, InvalidTextError, MessageError, SettingsError
from embedmill.protocol.vectors import Dtype, to_bytes
from embedmill.reply import Reason

TEXTS = ["zebra one", "zebra two", "zebra three"]


@pytest.fixture
def app():
    app = Celery("canvas", broker="memory://", set_as_current=False)

    @app.task(name="extract", shared=False)
    def extract(count):
        return TEXTS[:count]

    return app


def test_it_names_task_queue_and_options():
    made = embedmill.signature(TEXTS, model="m", input_type="query", dimensions=64, dtype="int8", truncate=False)
    assert made.task == "embedmill.embed"
    assert made.args == (TEXTS,)
    assert made.kwargs == {
        "model": "m",
        "input_type": "query",
        "dimensions": 64,
        "dtype": "int8",
        "truncate": False,
    }
    assert made.options["queue"] == "embedmill.embed"


def test_the_queue_is_the_namespace_s(monkeypatch):
    assert embedmill.signature(namespace="mine").options["queue"] == "mine.embed"
    monkeypatch.setenv("EMBEDMILL_NAMESPACE", "theirs")
    assert embedmill.signature().options["queue"] == "theirs.embed"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s, app: s,
        lambda s, app: s.clone(),
        lambda s, app: s.set(priority=3),
        copy.copy,
        copy.deepcopy,
        lambda s, app: maybe_signature(dict(s), app=app),
        lambda s, app: chain(app.tasks["extract"].s(3), s),
        lambda s, app: chain(app.tasks["extract"].s(3), s).clone(),
        lambda s, app: group(s, s) | app.tasks["extract"].s(),
        lambda s, app: s | app.tasks["extract"].s(),
    ],
    ids=["plain", "clone", "set", "copy", "deepcopy", "dict", "chain", "chain's clone", "group", "pipe"],
)
def test_no_repr_shows_a_text(app, wrap):
    made = embedmill.signature(TEXTS)
    wrapped = wrap(made) if wrap in (copy.copy, copy.deepcopy) else wrap(made, app)
    assert "zebra" not in repr(wrapped)
    assert "<3 texts>" in repr(wrapped)
    assert "zebra" in json.dumps(wrapped)


def test_headers_count_the_texts():
    assert embedmill.signature(TEXTS).options["argsrepr"] == "<3 texts>"
    assert embedmill.signature().options["argsrepr"] == "<texts>"


def test_the_task_before_it_gives_the_texts(app):
    last = chain(app.tasks["extract"].s(3), embedmill.signature(dtype="float16")).tasks[-1]
    assert last.clone((TEXTS,)).args == (TEXTS,)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"texts": ["a", 3]}, InvalidTextError),
        ({"texts": "one"}, InvalidRequestError),
        ({"dtype": "float64"}, InvalidRequestError),
        ({"dimensions": 0}, InvalidRequestError),
        ({"input_type": "document"}, InvalidRequestError),
        ({"model": "two words"}, SettingsError),
        ({"namespace": "a:b"}, SettingsError),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_is_sent(arguments, error):
    with pytest.raises(error):
        embedmill.signature(**arguments)


@pytest.mark.parametrize("dtype", Dtype)
def test_a_result_becomes_vectors(dtype):
    rows = np.random.default_rng(1).uniform(-1, 1, (3, 16)).astype(np.float32)
    result = {"vectors": to_bytes(rows, dtype), "shape": [3, dtype.columns(16)], "dtype": str(dtype)}
    vectors = embedmill.vectors_of(result)
    assert vectors.shape == (3, dtype.columns(16))
    assert vectors.tobytes() == result["vectors"]


@pytest.mark.parametrize(
    "result",
    [
        {},
        None,
        [],
        {"vectors": b"", "shape": [1, 4], "dtype": "float32"},
        {"vectors": b"1234", "shape": [1], "dtype": "float32"},
        {"vectors": b"1234", "shape": ["1", "1"], "dtype": "float32"},
        {"vectors": b"12345678", "shape": [1, 1], "dtype": "float64"},
        {"vectors": "1234", "shape": [1, 1], "dtype": "float32"},
    ],
)
def test_what_is_no_result_is_refused(result):
    with pytest.raises(MessageError, match=r"not a result of embedmill\.embed"):
        embedmill.vectors_of(result)


def result_of(rows, rejected=(), dtype=Dtype.FLOAT32):
    shape = [len(rows), dtype.columns(rows.shape[1])]
    return {"vectors": to_bytes(rows, dtype), "shape": shape, "dtype": str(dtype), "rejected": list(rejected)}


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.FLOAT16])
def test_a_row_of_a_result_that_is_not_finite_is_rejected_and_blank(dtype):
    rows = np.ones((3, 8), dtype=np.float32)
    rows[1, 2] = np.inf
    result = result_of(rows, [[0, "too_long", "9 > 8"]], dtype)
    assert [(r.index, r.reason) for r in embedmill.rejected_of(result)] == [
        (0, Reason.TOO_LONG),
        (1, Reason.NOT_FINITE),
    ]
    assert np.isnan(embedmill.vectors_of(result)[:2]).all()
    assert embedmill.vectors_of(result)[2].tolist() == [1.0] * 8


@pytest.mark.parametrize(
    "rejected", [[[2, "failed", ""]], [[60_000, "failed", ""]], [["0"]], "x", [[-1, "failed", ""]]]
)
def test_a_result_that_rejects_what_it_has_not_got_is_refused(rejected):
    result = result_of(np.ones((2, 8), dtype=np.float32)) | {"rejected": rejected}
    for read in (embedmill.vectors_of, embedmill.rejected_of):
        with pytest.raises(MessageError, match=r"not a result of embedmill\.embed"):
            read(result)
