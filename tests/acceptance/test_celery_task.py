"""``embedmill.embed`` as an ordinary Celery task, called by a program that knows only its name."""

import base64
import json

import msgpack
import numpy as np
import pytest
from celery import Celery, chain
from celery.canvas import Signature, maybe_signature
from kombu import Exchange, Queue

from embedmill import EmbeddingClient, signature, vectors_of
from embedmill_worker.service.broker import broker_url
from support.servers import plain_redis
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def stranger(mill):
    """Somebody else's Celery app on the same Redis."""
    app = Celery(
        "stranger", broker=broker_url(mill.redis_url), backend=broker_url(mill.redis_url), set_as_current=False
    )
    queue = f"{mill.namespace}.embed"
    app.conf.update(
        result_serializer="msgpack",
        accept_content=["json", "msgpack"],
        result_accept_content=["json", "msgpack"],
        task_queues=[Queue(queue, Exchange(mill.namespace), routing_key=queue)],
        broker_transport_options={"priority_steps": [0]},
    )

    def call(serializer, *args, **kwargs):
        result = app.send_task("embedmill.embed", args=args, kwargs=kwargs, queue=queue, serializer=serializer)
        try:
            return result.get(timeout=60)
        finally:
            result.forget()

    yield call
    app.close()


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_any_celery_producer_gets_the_same_bits_as_the_client(mill, stranger, serializer):
    result = stranger(serializer, ["Selamat pagi", "good morning"])
    vectors = np.frombuffer(result["vectors"], dtype="<f4").reshape(result["shape"])
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        assert vectors.tobytes() == client.embed(["Selamat pagi", "good morning"]).tobytes()


def test_more_than_a_chunk_is_refused_naming_submit(stranger):
    with pytest.raises(Exception, match="submit"):
        stranger("json", ["many words " * 100] * 300)


def test_what_is_no_text_is_refused_with_its_place(stranger):
    with pytest.raises(Exception, match=r"texts\[1\] is int"):
        stranger("json", ["fine", 3])


def test_no_text_reaches_the_worker_s_log(mill, stranger):
    stranger("json", ["zebra crossing quartz"])
    with pytest.raises(Exception, match="submit"):
        stranger("json", ["zebra crossing quartz " * 100] * 300)
    assert "quartz" not in mill.worker.log


def test_what_follows_in_a_chain_goes_into_the_queue_that_it_names(mill):
    own, url = f"{mill.namespace}.somebody", broker_url(mill.redis_url)
    app = Celery("somebody", broker=url, backend=url, set_as_current=False)
    app.conf.update(result_accept_content=["json", "msgpack"])
    made = maybe_signature(signature(["a text"], namespace=mill.namespace), app=app)
    ended = chain(made, Signature("store", app=app, options={"queue": own, "serializer": "msgpack"}), app=app)()
    with plain_redis(mill.redis_url) as server:
        message = json.loads(wait_until(lambda: server.rpop(own)))
    assert message["headers"]["task"] == "store"
    assert vectors_of(msgpack.unpackb(base64.b64decode(message["body"]))[0][0]).shape == (1, 384)
    ended.parent.forget()
    app.close()
