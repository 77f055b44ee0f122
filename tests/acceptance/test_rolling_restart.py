"""Workers are replaced one by one, as an upgrade does, and Redis comes and goes under Celery's own tasks."""

import threading
import time

import msgpack
import numpy as np
import psutil
import pytest
import redis
from celery import Celery
from kombu import Exchange, Queue

from embedmill import EmbeddingClient
from embedmill_worker import corpus
from embedmill_worker.broker import broker_url

MODEL = "all-MiniLM-L6-v2"


def test_replacing_every_worker_under_load_loses_and_rejects_nothing(own_mill):
    first = [own_mill.start_worker(), own_mill.start_worker()]
    texts = corpus.short(200)
    replaced = threading.Event()
    replies = []

    def produce():
        with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
            while not replaced.is_set():
                jobs = [client.submit(texts), client.submit(texts, lane="interactive")]
                replies.extend(job.result(120) for job in jobs)

    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        undisturbed = client.submit(texts).result(120)
    producer = threading.Thread(target=produce)
    producer.start()
    exit_codes = []
    for worker in first:
        own_mill.start_worker()  # the next one is there before the last one goes
        exit_codes.append(worker.stop())
    replaced.set()
    producer.join()
    assert exit_codes == [0, 0]
    assert len(replies) >= 2
    assert all(reply.rejected == () for reply in replies)
    assert {reply.vectors.tobytes() for reply in replies} == {undisturbed.vectors.tobytes()}
    for worker in own_mill.workers:
        assert "a child died" not in worker.log


@pytest.fixture
def call_task(durable_mill):
    """Sends ``embedmill.embed`` as somebody else's Celery app does, and reads its result as it stands in Redis."""
    app = Celery("stranger", broker=broker_url(durable_mill.redis_url), set_as_current=False)
    queue = f"{durable_mill.namespace}.embed"
    app.conf.update(
        task_queues=[Queue(queue, Exchange(durable_mill.namespace), routing_key=queue)],
        broker_transport_options={"priority_steps": [0]},
    )

    def call(texts):
        task_id = app.send_task("embedmill.embed", args=[texts], queue=queue).id

        def result():
            with redis.Redis.from_url(durable_mill.redis_url) as server:
                stored = server.get(f"celery-task-meta-{task_id}")
            return stored and msgpack.unpackb(stored)["result"]

        return result

    yield call
    app.close()


def test_a_worker_busy_with_a_late_acknowledged_task_outlives_a_restart_of_redis(durable_mill, own_valkey, call_task):
    worker = durable_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    text = "word " * 190_000  # seconds of tokenizing: the task is under way when Redis goes
    idle_s = psutil.Process(worker.children[0]).cpu_times().user
    result = call_task([text])
    child = psutil.Process(worker.children[0])
    while child.cpu_times().user < idle_s + 0.2:  # until the child is at it
        time.sleep(0.01)
    own_valkey.kill()
    time.sleep(0.5)
    own_valkey.restart()
    deadline = time.monotonic() + 60
    while not result() and time.monotonic() < deadline:
        assert worker.process.poll() is None, worker.log[-3000:]
        time.sleep(0.05)
    assert result() and "vectors" in result(), (result(), worker.log[-6000:])
    vectors = np.frombuffer(result()["vectors"], dtype="<f4")
    with EmbeddingClient(durable_mill.redis_url, MODEL, namespace=durable_mill.namespace) as client:
        assert client.embed([text]).tobytes() == vectors.tobytes()
    assert worker.log.count("Connected to") > 1  # it lost Redis and found it again
