"""Workers are replaced one by one, as an upgrade does, and Redis comes and goes under Celery's own tasks."""

import os
import signal
import threading
import time

import msgpack
import numpy as np
import psutil
import pytest
from celery import Celery
from kombu import Exchange, Queue

from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill_worker.cli.measure import corpus
from embedmill_worker.service.broker import broker_url
from support import apps
from support.servers import plain_redis
from support.waiting import join

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
    join(producer)
    assert exit_codes == [0, 0]
    assert len(replies) >= 2
    assert all(reply.rejected == () for reply in replies)
    assert {reply.vectors.tobytes() for reply in replies} == {undisturbed.vectors.tobytes()}
    for worker in own_mill.workers:
        assert "child process died" not in worker.log


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
            with plain_redis(durable_mill.redis_url) as server:
                stored = server.get(f"celery-task-meta-{task_id}")
            return stored and msgpack.unpackb(stored)["result"]

        return result

    yield call
    app.close()


@pytest.mark.parametrize("app", ["embedmill_worker.app", "remote_app"])
def test_a_worker_busy_with_a_late_acknowledged_task_outlives_a_restart_of_redis(
    durable_mill, own_valkey, call_task, app
):
    """Celery 5.7.0 ends such a worker, if its remote control is on: so `remote_app` shows what pool.py mends.

    A child stands still in its task until the main process has lost Redis and found it again, so no speed decides. The
    other child idles: a main process whose children are all busy does not listen to Redis, and would notice nothing.
    """
    paths = os.pathsep.join([apps.FOLDER, os.environ.get("PYTHONPATH", "")])
    worker = durable_mill.start_worker(app=app, EMBEDMILL_CONCURRENCY="2", PYTHONPATH=paths)
    text = "word " * 190_000  # half a second of tokenizing, in which the child is found
    used_s = {pid: psutil.Process(pid).cpu_times().user for pid in worker.children}
    result = call_task([text])
    busy = stop_the_busy_child(worker, used_s)
    own_valkey.kill()
    wait_for(worker, lambda: "Connection to broker lost" in worker.log)
    own_valkey.restart()
    wait_for(worker, lambda: worker.log.count("Connected to redis") >= 2)
    os.kill(busy, signal.SIGCONT)
    wait_for(worker, result)
    assert "vectors" in result(), (result(), worker.log[-6000:])
    vectors = np.frombuffer(result()["vectors"], dtype="<f4")
    with EmbeddingClient(durable_mill.redis_url, MODEL, namespace=durable_mill.namespace) as client:
        assert client.embed([text]).tobytes() == vectors.tobytes()
    if app == "remote_app":
        return  # what it could not acknowledge is delivered once more, when its visibility timeout is over
    with plain_redis(durable_mill.redis_url) as server:
        wait_for(worker, lambda: not server.hlen(Keyspace(durable_mill.namespace).unacked))


def stop_the_busy_child(worker, used_s):
    """Freezes the child that has computed since `used_s` was taken; gives its pid."""
    found = []

    def is_stopped():
        found.extend(pid for pid, s in used_s.items() if psutil.Process(pid).cpu_times().user > s + 0.1)
        return bool(found)

    wait_for(worker, is_stopped)
    os.kill(found[0], signal.SIGSTOP)
    return found[0]


def wait_for(worker, is_so):
    """Waits for something that a living worker does."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert worker.process.poll() is None, worker.log[-6000:]
        assert "Unrecoverable error" not in worker.log, worker.log[-6000:]
        assert time.monotonic() < deadline, worker.log[-6000:]
        time.sleep(0.02)
