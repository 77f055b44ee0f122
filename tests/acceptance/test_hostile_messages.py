"""Anything may lie in a queue: a real worker drops it, executes nothing of it, and goes on serving.

The pickles here are real: opened anywhere, by whatever hand, they would leave a file.
"""

import base64
import bz2
import json
import lzma
import os
import pickle
import secrets
import shlex
import signal
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager, suppress

import msgpack
import numpy as np
import psutil
import pytest
from celery import Celery

from embedmill import EmbeddingClient, EmbedError
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill_worker.service.broker import broker_url
from support.servers import plain_redis
from support.waiting import status_of

MODEL = "all-MiniLM-L6-v2"
PICKLE, YAML, JSON, MSGPACK = (f"application/{kind}" for kind in ("x-python-serialize", "x-yaml", "json", "x-msgpack"))
PATIENCE_S = 20.0

EMPTY = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def mark(tmp_path):
    """The file that a payload leaves; the test fails if it is there at the end."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def evil(mark) -> bytes:
    return pickle.dumps(Payload(f"touch {shlex.quote(str(mark))}"))


def test_the_payload_would_be_seen(tmp_path):
    executed = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(f"touch {shlex.quote(str(executed))}")))
    assert executed.exists()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def message(body="[[], {}, {}]", *, task="embedmill.embed", queue="q", content=JSON, properties=None, **headers):
    """A message as Celery writes it, but for what is asked."""
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": content,
        "headers": {"lang": "py", "task": task, "id": "an-id", "root_id": "an-id", "retries": 0, **headers},
        "properties": {
            "correlation_id": "an-id",
            "delivery_mode": 2,
            "delivery_tag": "a-tag",
            "delivery_info": {"exchange": "", "routing_key": queue},
            **(properties or {}),
        },
    }


def body(*args, kwargs=None, embed=None) -> str:
    return json.dumps([list(args), kwargs or {}, EMPTY | (embed or {})])


class Wire:
    """The worker under attack."""

    def __init__(self, mill) -> None:
        self.mill = mill
        self.redis = plain_redis(mill.redis_url)
        self.keys = Keyspace(mill.namespace)
        self.queues = {
            "bulk": self.keys.queue(MODEL, "bulk"),
            "interactive": self.keys.queue(MODEL, "interactive"),
            "embed": self.keys.embed_queue,
        }
        self.began = psutil.Process(mill.worker.pid).create_time()

    def put(self, where: str, value: bytes | str | dict) -> None:
        """Puts something into a queue and waits until it is taken out."""
        queue = self.queues[where]
        if isinstance(value, dict):
            info = (
                value.get("properties", {}).get("delivery_info") if isinstance(value.get("properties"), dict) else None
            )
            if isinstance(info, dict) and info.get("routing_key") == "q":
                info["routing_key"] = queue
            value = json.dumps(value)
        self.redis.lpush(queue, value)
        self.until(lambda: not self.redis.llen(queue))

    def until(self, is_so) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self.mill.worker.process.poll() is None, self.mill.worker.log[-3_000:]
            assert time.monotonic() < deadline, self.mill.worker.log[-3_000:]
            time.sleep(0.01)

    def serves(self) -> None:
        """The same process still serves, and nothing is kept of what it was given."""
        with EmbeddingClient(self.mill.redis_url, MODEL, namespace=self.mill.namespace) as client:
            assert np.isfinite(client.embed(["still here"], timeout_s=PATIENCE_S)).all()
        assert psutil.Process(self.mill.worker.pid).create_time() == self.began
        self.until(lambda: not self.redis.exists(self.keys.unacked))


@pytest.fixture
def wire(module_mill):
    made = Wire(module_mill)
    yield made
    made.redis.close()


EVERYWHERE = pytest.mark.parametrize("where", ["bulk", "interactive", "embed"])


@EVERYWHERE
def test_a_pickle_is_dropped_unopened_whatever_it_calls_itself(wire, evil, where):
    for content in (PICKLE, YAML, "pickle", "application/data", JSON, MSGPACK):
        for task in ("embedmill.chunk", "embedmill.embed"):
            wire.put(where, message(b64(evil), task=task, content=content, properties={"body_encoding": "base64"}))
            wire.put(where, message(evil.decode("latin-1"), task=task, content=content))
    wire.put(where, evil)
    wire.serves()


def test_yaml_that_would_make_objects_is_dropped_unopened(wire, mark):
    evil = f"!!python/object/apply:os.system ['touch {mark}']"
    wire.put("embed", message(evil, content=YAML))
    wire.put("bulk", message(evil, task="embedmill.chunk", content=YAML))
    wire.serves()


def changed(**changes):
    """A message with other fields."""
    return message() | changes


def without(field, part=None):
    made = message()
    del (made[part] if part else made)[field]
    return made


GARBAGE = {
    "no bytes": b"",
    "no text": b"\xff\xfe\x00",
    "no JSON": b"ping",
    "cut off": json.dumps(message())[:-9].encode(),
    "a number": b"3",
    "null": b"null",
    "a list": b"[]",
    "a delivery": json.dumps([message(body(["a"])), "", "q"]).encode(),
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "ten megabytes": json.dumps(message("x" * 10_000_000)).encode(),
    "above the limit": json.dumps(message("x" * (25 << 20))).encode(),
    "a type of kombu's": b'{"__type__": "base64", "__value__": "!"}',
    "no headers": without("headers"),
    "no properties": without("properties"),
    "no body": without("body"),
    "no content type": without("content-type"),
    "no task": without("task", "headers"),
    "no id": without("id", "headers"),
    "no tag": without("delivery_tag", "properties"),
    "no delivery info": without("delivery_info", "properties"),
    "headers that are a list": changed(headers=[]),
    "properties that are null": changed(properties=None),
    "a body that is a number": changed(body=3),
    "an unknown task": message(task="os.system"),
    "a task of Celery's own": message(body({"task": "embedmill.embed"}, [["a"]] * 9), task="celery.map"),
    "a task that is a list": message(task=["embedmill.embed"]),
    "an id that is a table": message(id={}),
    "an id that is no UTF-8": message(id="\ud800"),
    "an endless id": message(id="x" * 100_000),
    "a tag that is a list": message(properties={"delivery_tag": []}),
    "a tag that is no UTF-8": message(properties={"delivery_tag": "\udfff"}),
    "an unknown body encoding": message(properties={"body_encoding": "rot13"}),
    "no base64": message("!!!", properties={"body_encoding": "base64"}),
    "bodies that are no triple": message("[1, 2]"),
    "a body of the first protocol": message(
        json.dumps({"task": "embedmill.embed", "id": "i", "args": [], "kwargs": {}})
    ),
    "a body that is deep": message("[" * 100_000),
    "arguments that are a table": message("[{}, {}, {}]"),
    "keyword arguments that are a list": message("[[], [], {}]"),
    "a limit that is a word": message(timelimit="abc"),
    "a limit that is no pair": message(timelimit=[1]),
    "a limit of words": message(timelimit=["x", "y"]),
    "a limit below zero": message(timelimit=[-5, None]),
    "an endless limit": message(timelimit=[float("inf"), None]),
    "a limit of eternity": message(timelimit=[10**400, None]),
    "a date that is a table": message(eta={}),
    "retries that are a word": message(retries="x"),
    "a chord that is a word": message(body(["a"], embed={"chord": "x"})),
    "callbacks that are words": message(body(["a"], embed={"callbacks": ["os.system"]})),
    "an unknown compression": message(compression="application/x-nothing"),
    "a doorbell whose id is no token": message(body(), task="embedmill.chunk", id="other:0:1"),
    "a doorbell with arguments": message(body("job", 0), task="embedmill.chunk", id="5-1"),
    "a doorbell of a path": message(body(), task="embedmill.chunk", id="../../x y"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_dropped_once_and_the_worker_serves_on(wire, what):
    before = wire.mill.worker.log.count("was dropped")
    wire.put("interactive", GARBAGE[what])
    wire.put("embed", GARBAGE[what])
    wire.serves()
    assert wire.mill.worker.log.count("was dropped") == before + 2


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_compressed_message_is_not_inflated(wire, name, compress):
    """64 MB of zeros take 64 kB, 50 B and 10 kB; kombu would unpack them in the worker's main process."""
    bomb = compress(bytes(64 << 20))
    before = psutil.Process(wire.mill.worker.pid).memory_info().rss
    for task in ("embedmill.chunk", "embedmill.embed"):
        wire.put("embed", message(b64(bomb), task=task, compression=name, properties={"body_encoding": "base64"}))
    assert psutil.Process(wire.mill.worker.pid).memory_info().rss < before + (32 << 20)
    wire.serves()
    assert "it is compressed" in wire.mill.worker.log


def test_msgpack_that_announces_lists_takes_no_memory(wire):
    """Each of these levels announces a list of 65,535, for which msgpack would take half a megabyte."""
    before = psutil.Process(wire.mill.worker.pid).memory_info().rss
    for bomb in (b"\xdc\xff\xff" * 400_000, b"\x93\xdd\x00\xff\xff\xff", b"\x93" + b"\xdf\xff\xff\xff\xff" * 9):
        wire.put("embed", message(b64(bomb), content=MSGPACK, properties={"body_encoding": "base64"}))
    assert psutil.Process(wire.mill.worker.pid).memory_info().rss < before + (32 << 20)
    wire.serves()


def outcome(wire, *args, kwargs=None) -> dict:
    """Calls ``embedmill.embed`` as any program may; gives what Celery wrote."""
    task_id = secrets.token_hex(8)
    wire.put("embed", message(body(*args, kwargs=kwargs), id=task_id))
    wire.until(lambda: wire.redis.exists(f"celery-task-meta-{task_id}"))
    return msgpack.unpackb(wire.redis.get(f"celery-task-meta-{task_id}"))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([None], {}),
        (["one text"], {}),
        ([{"a": "b"}], {}),
        ([[1, 2]], {}),
        ([["a"], "m", "query", 8, "float32", True, "more"], {}),
        ([["a"]], {"model": {"a": 1}}),
        ([["a"]], {"model": ["x"]}),
        ([["a"]], {"model": "../../etc"}),
        ([["a"]], {"dimensions": 10**30}),
        ([["a"]], {"dimensions": -1}),
        ([["a"]], {"dtype": []}),
        ([["a"]], {"dtype": "x" * 1_000_000}),
        ([["a"]], {"input_type": {}}),
        ([["a"]], {"truncate": "yes"}),
        ([["a"]], {"unknown": 1, "self": 2}),
        ([[""] * 1_000_000], {}),
        ([["x" * 3_000_000]], {}),
        ([["\ud800"]], {}),
        ([[["a"] * 3] * 3], {}),
        ([{"__type__": "base64", "__value__": "AAAA"}], {}),
    ],
)
def test_arguments_that_cannot_be_served_fail_that_task_alone(wire, args, kwargs):
    written = outcome(wire, *args, kwargs=kwargs)
    assert written["status"] == "FAILURE"
    assert len(str(written["result"])) < 2_000
    wire.serves()


@pytest.mark.parametrize(
    "embed",
    [
        {"callbacks": [{}]},
        {"callbacks": [{"task": "os.system", "args": ["touch /tmp/never"], "kwargs": {}, "options": {}}]},
        {"callbacks": [{"task": 3, "options": {"queue": {}}}]},
        {"errbacks": [{}, {"task": "celery.map", "immutable": True, "args": [{"task": "embedmill.embed"}, [["a"]]]}]},
        {"chain": [{}]},
        {"chain": [{"task": "embedmill.chunk", "args": ["x", 0], "options": {"serializer": "pickle"}}]},
        {"chord": {}},
        {"chord": {"task": "x", "options": {"task_id": {}}}},
    ],
)
def test_what_should_follow_a_task_may_be_anything_and_the_worker_serves_on(wire, embed):
    for texts in (["a"], [3]):
        wire.put("embed", message(body(texts, embed=embed), id=secrets.token_hex(8), group="g", group_index=0))
    wire.serves()


@pytest.mark.parametrize("eta", ["0001-01-01T00:00:00+23:59", "x", "2020-01-01", "2020-02-30T00:00:00"])
@pytest.mark.parametrize("name", ["eta", "expires"])
def test_dates_of_no_time_are_dropped_or_ignored(wire, name, eta):
    wire.put("embed", message(body(["a"]), **{name: eta, "id": secrets.token_hex(8)}))
    wire.serves()


def test_a_result_that_lies_where_one_will_be_written_is_not_opened(wire, evil):
    for task_id, planted in (("a" * 32, evil), ("b" * 32, b"\xdc\xff\xff" * 1_000), ("c" * 32, b"{")):
        wire.redis.set(f"celery-task-meta-{task_id}", planted, ex=60)
        wire.put("embed", message(body(["a"]), id=task_id))
    wire.serves()


def test_a_caller_s_result_that_was_forged_executes_nothing(wire, evil, mark):
    """As README says to set up a caller: json and msgpack alone."""
    key = "celery-task-meta-forged"
    command = f"touch {shlex.quote(str(mark))}"
    forged = [{"exc_module": "os", "exc_type": "system", "exc_message": [command]}]
    forged += [{"exc_module": "builtins", "exc_type": "eval", "exc_message": [f"__import__('os').system('{command}')"]}]
    planted = [evil, b64(evil).encode(), json.dumps({"status": "SUCCESS", "result": evil.decode("latin-1")}).encode()]
    planted += [
        msgpack.packb({"status": "FAILURE", "result": one, "traceback": None, "children": []}) for one in forged
    ]
    url = broker_url(wire.mill.redis_url)
    app = Celery("stranger", broker=url, backend=url, set_as_current=False)
    app.conf.update(result_serializer="msgpack", result_accept_content=["json", "msgpack"])
    for content in planted:
        wire.redis.set(key, content, ex=60)
        with pytest.raises(Exception):  # noqa: B017  Celery has an error of its own for each
            assert app.AsyncResult("forged").result
    app.backend.client.connection_pool.disconnect()
    app.close()


def test_nobody_listens_to_remote_control(wire, evil):
    channels = wire.redis.execute_command("PUBSUB", "CHANNELS", f"*{wire.mill.namespace}*")
    assert channels == []
    command = message(json.dumps({"method": "shutdown", "arguments": {}, "destination": None}))
    for made in (json.dumps(command), evil):
        for channel in (f"/0.{wire.mill.namespace}.control.pidbox", "/0.celery.pidbox"):
            assert wire.redis.publish(channel, made) == 0
    wire.serves()


@pytest.mark.parametrize("what", ["interactive", "embed", "models", "workers"])
def test_a_key_of_another_type_is_waited_out(wire, what):
    """While it is there nobody is served, but no worker ends; once it is gone all goes on."""
    keys = wire.keys
    name = wire.queues.get(what) or getattr(keys, what)
    kept = wire.redis.dump(name)
    wire.redis.set(name, "another type")
    time.sleep(1.5)
    assert wire.mill.worker.process.poll() is None
    wire.redis.delete(name)
    if kept is not None:
        wire.redis.restore(name, 0, kept)
    wire.serves()


@contextmanager
def stopped(wire):
    """A worker that takes nothing for a while; what it has asked Redis for already gets garbage."""
    os.kill(wire.mill.worker.pid, signal.SIGSTOP)
    try:
        for queue in (wire.queues["bulk"], wire.queues["interactive"]):
            wire.redis.lpush(queue, "garbage")
            time.sleep(0.05)
        yield
    finally:
        os.kill(wire.mill.worker.pid, signal.SIGCONT)


def test_a_chunk_behind_a_garbage_doorbell_is_found(wire, evil):
    with EmbeddingClient(wire.mill.redis_url, MODEL, namespace=wire.mill.namespace) as client:
        with stopped(wire):
            wire.redis.delete(wire.queues["bulk"])
            job = client.submit(["behind garbage"])
            assert wire.redis.llen(wire.queues["bulk"]) == 1
            wire.redis.lset(wire.queues["bulk"], 0, evil)
        assert np.isfinite(job.result(PATIENCE_S).vectors).all()
    wire.serves()


RECORD = ["state", "tenant", "fingerprint", "deadline_ms", "options", "created_ms", "n_chunks", "next", "back", "born"]
RECORD += ["left_texts", "left_tokens", "row_bytes", "unfinished_ttl_ms", "limit_s", "id", "n_rows", "hurt"]


@pytest.mark.parametrize("field", [*RECORD, "texts", "held", "crashes", "rejected", "events"])
def test_a_pickle_in_a_job_s_record_spoils_that_job_alone(wire, evil, field):
    with EmbeddingClient(wire.mill.redis_url, MODEL, namespace=wire.mill.namespace) as client:
        with stopped(wire):
            job = client.submit(["a text"])
            record = wire.keys.job(job.id)
            match field:
                case "texts":
                    wire.redis.hset(wire.keys.texts(job.id), 0, evil)
                case "crashes":
                    wire.redis.hset(record, "hurt", 1)
                    wire.redis.hset(f"{record}:crashes", mapping={"0": evil, evil: evil, "0:at": evil})
                case "held":
                    wire.redis.hset(wire.keys.held, mapping={"5-1": evil, evil: evil, "5-1:at": evil})
                case "events":
                    wire.redis.xadd(f"{record}:events", {evil: evil})
                case _:
                    wire.redis.hset(record, field, evil)
        wire.serves()
        for call in (job.status, lambda: job.result(0.3), job.cancel, job.delete):
            with suppress(EmbedError):
                call()
    wire.redis.delete(*wire.redis.keys(f"{wire.keys.job(job.id)}*"), "nothing")
    wire.redis.zrem(wire.keys.active(MODEL, "bulk"), job.id)
    wire.redis.delete(wire.queues["bulk"])


def test_pickles_for_a_card_and_a_worker_s_entry_hide_nobody(wire, evil):
    server, keys = wire.redis, wire.keys
    server.hset(keys.models, "evil", evil)
    server.zadd(keys.workers, {"evil": time.time() * 1000, evil: time.time() * 1000})
    server.set(keys.worker("evil"), evil, ex=60)
    server.sadd(keys.lanes, evil, b"evil bulk", b"no-lane")
    server.zadd(keys.active("evil", "bulk"), {evil: 1, "job": float("inf")})
    server.hset(keys.lane("evil", "bulk"), mapping={"chunks": evil, "texts": "-5", "tokens": "1e999"})
    server.xadd(keys.dead, {evil: evil})
    settings = ClientSettings(redis_url=wire.mill.redis_url, namespace=wire.mill.namespace)
    try:
        wire.serves()
        assert any(worker.model == MODEL for worker in status_of(settings).workers)
        with EmbeddingClient(wire.mill.redis_url, namespace=wire.mill.namespace) as client:
            assert [letter.reason for letter in client.dead.list(limit=1)] == ["unreadable"]
            assert client.dead.drop_all() >= 1
        before = wire.mill.worker.log.count("beat failed")
        time.sleep(3)
        assert wire.mill.worker.log.count("beat failed") == before
    finally:
        server.hdel(keys.models, "evil")
        server.zrem(keys.workers, "evil", evil)
        server.srem(keys.lanes, evil, b"evil bulk", b"no-lane")
        server.delete(keys.worker("evil"), keys.active("evil", "bulk"), keys.lane("evil", "bulk"))


RESTORE = """
import sys, time, json
from kombu import Connection, Exchange, Queue
from embedmill_worker.celery_patches import message_guard
message_guard.guard()
url, ns = sys.argv[1:]
options = {"unacked_key": f"{ns}.u", "unacked_index_key": f"{ns}.ui", "unacked_mutex_key": f"{ns}.um"}
with Connection(url, transport_options=options | {"priority_steps": [0], "visibility_timeout": 300}) as connection:
    channel = connection.default_channel
    Queue(f"{ns}.q", Exchange(ns), routing_key=f"{ns}.q", channel=channel).declare()
    channel.qos.restore_visible(num=100, interval=1)
"""


def test_deliveries_that_cannot_be_read_do_not_hide_those_that_can(redis_url, namespace, evil):
    server = plain_redis(redis_url)
    good = message(body(["a"]), queue=f"{namespace}.q")
    planted = {"a": evil, "b": b"null", "c": b"[1, 2, 3]", "d": json.dumps([good, "", f"{namespace}.q"]), "e": b"["}
    for tag, value in planted.items():
        server.hset(f"{namespace}.u", tag, value)
        server.zadd(f"{namespace}.ui", {tag: 1})
    command = [sys.executable, "-c", RESTORE, broker_url(redis_url), namespace]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert server.zcard(f"{namespace}.ui") == server.hlen(f"{namespace}.u") == 0
    assert [json.loads(one)["headers"]["id"] for one in server.lrange(f"{namespace}.q", 0, -1)] == ["an-id"]
    server.close()
