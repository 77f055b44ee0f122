"""Anything may lie in a queue: a real worker drops it, executes nothing of it, and goes on serving.

The pickles here are real: opened anywhere, by whatever hand, they would leave a file.
"""

import base64
import bz2
import json
import lzma
import os
import pickle
import shlex
import time
import zlib

import numpy as np
import psutil
import pytest
import redis

from embedmill import EmbeddingClient
from embedmill.keys import Keyspace

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
        self.redis = redis.Redis.from_url(mill.redis_url)
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
    "a doorbell of another's id": message(body("job", 0), task="embedmill.chunk", id="other:0:1"),
    "a doorbell that names no chunk": message(body("job"), task="embedmill.chunk", id="job:0:1"),
    "a doorbell of no job's name": message(body("../../x y", 0), task="embedmill.chunk", id="../../x y:0:1"),
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
    bomb = compress(bytes(256 << 20))
    before = psutil.Process(wire.mill.worker.pid).memory_info().rss
    for task in ("embedmill.chunk", "embedmill.embed"):
        wire.put("embed", message(b64(bomb), task=task, compression=name, properties={"body_encoding": "base64"}))
    assert psutil.Process(wire.mill.worker.pid).memory_info().rss < before + (64 << 20)
    wire.serves()
    assert "it is compressed" in wire.mill.worker.log
