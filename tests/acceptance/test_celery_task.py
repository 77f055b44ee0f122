"""``embedmill.embed`` as an ordinary Celery task, called by a program that knows only its name."""

import numpy as np
import pytest
from celery import Celery
from kombu import Exchange, Queue

from embedmill import EmbeddingClient
from embedmill_worker.broker import broker_url

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
