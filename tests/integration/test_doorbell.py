"""The message that Lua writes into a lane's queue is one that kombu and Celery read."""

import json

import pytest
from celery import Celery
from celery.worker.request import Request
from kombu import Connection, Consumer, Exchange, Queue

from embedmill_worker.jobs.claims import is_token
from embedmill_worker.service.broker import broker_url

TEXTS = [f"{n:04d} " * 16 for n in range(3)]


@pytest.fixture
def receive(bench):
    """Returns the next message of a lane, as kombu's consumer hands it to Celery."""
    connection = Connection(
        broker_url(bench.redis_url), transport_options={"unacked_key": f"{bench.namespace}.unacked"}
    )

    def next_message(name):
        queue, received = Queue(name, Exchange(bench.namespace), routing_key=name), []
        with Consumer(connection, [queue], accept=["json"], on_message=received.append):
            while not received:
                connection.drain_events(timeout=20)
        return received[0]

    yield next_message
    connection.release()


def test_kombu_reads_body_headers_and_id(bench, receive):
    bench.submit(TEXTS, lane="interactive", job_id="j.1")
    message = receive(bench.keys.queue("paper", "interactive"))
    assert message.payload == [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    assert message.headers["task"] == "embedmill.chunk"
    assert is_token(message.headers["id"])
    assert message.properties["correlation_id"] == message.headers["id"]
    assert message.delivery_info["routing_key"] == bench.keys.queue("paper", "interactive")
    message.ack()
    assert bench.redis.hlen(f"{bench.namespace}.unacked") == 0


@pytest.mark.parametrize("model", ["o/model-1.5", "a@b+c_d", "x" * 128])
def test_any_model_s_name_fits_into_the_message(bench, receive, model):
    bench.submit(TEXTS, model=model)
    message = receive(bench.keys.queue(model, "bulk"))
    assert message.delivery_info["routing_key"] == f"{bench.namespace}.v2.{model}.bulk"
    message.ack()


def test_celery_runs_it_as_its_task(bench, receive):
    bench.submit(TEXTS)
    app = Celery("reader", broker=broker_url(bench.redis_url), set_as_current=False)
    calls = []

    @app.task(name="embedmill.chunk", bind=True, ignore_result=True, shared=False)
    def chunk(self):
        calls.append((self.request.id, self.request.delivery_info["routing_key"]))

    message = receive(bench.keys.queue("paper", "bulk"))
    request = Request(message, app=app, task=app.tasks["embedmill.chunk"])
    assert request.argsrepr == request.kwargsrepr == ""
    request.execute()
    assert calls == [(message.headers["id"], bench.keys.queue("paper", "bulk"))]
    message.ack()
    app.close()


def test_every_ring_has_an_id_of_its_own(bench):
    bench.submit(TEXTS)
    raw = [json.loads(m) for m in bench.redis.lrange(bench.keys.queue("paper", "bulk"), 0, -1)]
    ids = [m["headers"]["id"] for m in raw]
    assert len(set(ids)) == 3
    assert all(m["properties"]["delivery_tag"] == m["headers"]["id"] for m in raw)


def test_one_worker_s_reserved_message_comes_back_in_its_queue(bench, receive):
    bench.submit(TEXTS)
    message = receive(bench.keys.queue("paper", "bulk"))
    message.requeue()
    assert len(set(bench.doorbells())) == 3
