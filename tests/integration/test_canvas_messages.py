"""``embedmill.signature()`` in somebody's own Celery app: what is published shows no text but in its body."""

import base64
import json

import numpy as np
import pytest
from celery import Celery, chain
from celery.canvas import maybe_signature
from celery.contrib.testing.worker import start_worker

import embedmill
from embedmill.protocol.vectors import Dtype, to_bytes
from embedmill_worker.service.broker import broker_url

# Celery 5.7.0 stores results by a command that redis-py 8 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

TEXTS = ["zebra one", "zebra two", "zebra three"]


@pytest.fixture
def app(bench):
    """Somebody's app: its own queue, JSON, results in msgpack as the workers write them."""
    url = broker_url(bench.redis_url)
    app = Celery("somebody", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_default_queue=f"{bench.namespace}-somebody",
        result_serializer="msgpack",
        accept_content=["json", "msgpack"],
        result_accept_content=["json", "msgpack"],
        worker_hijack_root_logger=False,
        broker_transport_options={"unacked_key": f"{bench.namespace}-somebody.unacked"},
    )

    @app.task(name="extract", shared=False)
    def extract(count):
        return TEXTS[:count]

    yield app
    app.close()


def read(message):
    """Returns a message's headers and its body."""
    raw = json.loads(message)
    return raw["headers"], json.loads(base64.b64decode(raw["body"]))


def test_headers_count_the_texts_that_the_body_holds(bench, app):
    made = embedmill.signature(TEXTS, dtype="float16", namespace=bench.namespace)
    maybe_signature(made, app=app).apply_async()
    headers, (args, kwargs, _) = read(bench.redis.rpop(bench.keys.embed_queue))
    assert "zebra" not in json.dumps(headers)
    assert (headers["task"], headers["argsrepr"]) == ("embedmill.embed", "<3 texts>")
    assert args == [TEXTS]
    assert kwargs == {"dtype": "float16", "truncate": True}


def test_a_chain_hands_texts_on_without_showing_them(bench, app):
    made = embedmill.signature(model="m", namespace=bench.namespace)
    result = chain(app.tasks["extract"].s(2), made).apply_async()
    headers, _ = read(bench.redis.lindex(app.conf.task_default_queue, 0))
    assert "zebra" not in json.dumps(headers)
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="warning", shutdown_timeout=30):
        _, message = bench.redis.blpop(bench.keys.embed_queue, timeout=60)
    headers, (args, kwargs, _) = read(message)
    assert "zebra" not in json.dumps(headers)
    assert headers["argsrepr"] == "<texts>"
    assert args == [TEXTS[:2]]
    assert kwargs == {"model": "m", "dtype": "float32", "truncate": True}
    assert headers["id"] == result.id


def test_texts_of_a_later_link_are_not_shown_either(bench, app):
    made = embedmill.signature(TEXTS, namespace=bench.namespace).set(immutable=True)
    chain(app.tasks["extract"].s(2), made).apply_async()
    headers, body = read(bench.redis.lindex(app.conf.task_default_queue, 0))
    assert "zebra" not in json.dumps(headers)
    assert "zebra" in json.dumps(body)


@pytest.mark.parametrize("dtype", Dtype)
def test_a_result_comes_back_as_vectors(app, dtype):
    rows = np.random.default_rng(1).uniform(-1, 1, (3, 16)).astype(np.float32)
    stored = {"vectors": to_bytes(rows, dtype), "shape": [3, dtype.columns(16)], "dtype": str(dtype)}
    task_id = f"stored-{dtype}"
    app.backend.store_result(task_id, stored, "SUCCESS")
    vectors = embedmill.vectors_of(app.AsyncResult(task_id).get(timeout=20))
    assert vectors.tobytes() == stored["vectors"]
    app.AsyncResult(task_id).forget()
