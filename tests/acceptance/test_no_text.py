"""A made-up word is sent through every entry, with every slip, at DEBUG, and then looked for wherever it must not be.

Looked through are the logs of worker and client, what commands print, everything that is left in Redis once the work is
done, all that was published, the server's logs of commands, temporary files, and process titles.
"""

import asyncio
import base64
import json
import logging
import os
import secrets
import subprocess
import sys
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis
from celery import Celery
from celery.canvas import maybe_signature
from kombu import Exchange, Queue

import embedmill
from embedmill import AsyncEmbeddingClient, EmbeddingClient, EmbedError
from embedmill_worker import exit_codes
from embedmill_worker.service.broker import broker_url
from support import apps
from support.servers import plain_redis
from support.waiting import wait_until

from .conftest import PATIENCE_S

MODEL = "all-MiniLM-L6-v2"
COMMAND = [sys.executable, "-m", "embedmill_worker.cli"]

#: No word of any language, and long enough that no part of base64 holds it by chance.
WORD = "canary" + secrets.token_hex(10)
TEXT = f"the {WORD} sings"
QUOTING = f"☠quotes {WORD}"

log = logging.getLogger("somebody")


def encoded() -> list[bytes]:
    """The word, and what base64 makes of it at each of three offsets."""
    word = WORD.encode()
    forms = [word]
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + word)[: (offset + len(word)) // 3 * 4]
        forms.append(whole[(0, 2, 3)[offset] :])
    return forms


def holds(data: bytes) -> bool:
    """Returns whether data hold the word: as it is, in base64, or in a compressed frame."""
    if any(form in data for form in encoded()):
        return True
    at = data.find(b"x\x01")
    while at >= 0:
        with suppress(zlib.error):
            if WORD.encode() in zlib.decompressobj().decompress(data[at:], 16 << 20):
                return True
        at = data.find(b"x\x01", at + 1)
    return False


def test_the_word_would_be_found():
    for data in (TEXT.encode(), *(base64.b64encode(b"x" * n + TEXT.encode()) for n in range(3))):
        assert holds(b"before" + data + b"after")
    assert holds(b"\x01" + zlib.compress(TEXT.encode() * 9, 1))
    assert not holds(b"nothing x\x01 of it")


def values_of(server: redis.Redis, key: bytes) -> bytes:
    """All that lies under a key, its name included."""
    match server.type(key):
        case b"string":
            found = server.get(key)
        case b"hash":
            found = server.hgetall(key)
        case b"list":
            found = server.lrange(key, 0, -1)
        case b"set":
            found = server.smembers(key)
        case b"zset":
            found = server.zrange(key, 0, -1)
        case b"stream":
            found = server.xrange(key)
        case _:
            found = b""
    return key + b" " + b" ".join(flat(found))


def flat(found) -> list[bytes]:
    if isinstance(found, bytes):
        return [found]
    if isinstance(found, dict):
        return [part for pair in found.items() for value in pair for part in flat(value)]
    if isinstance(found, list | set | tuple):
        return [part for value in found for part in flat(value)]
    return []


class Witness:
    """A mill at DEBUG, and all that it says."""

    def __init__(self, mill, folder: Path) -> None:
        self.mill = mill
        self.folder = folder
        self.server = plain_redis(mill.redis_url)
        self.published = self.server.pubsub()
        self.published.psubscribe("*")
        self.client_log = folder / "client.log"
        self.printed: list[tuple[str, str]] = []
        self.heard: list[bytes] = []

    def command(self, *arguments, text: str = "", code: int | None = None) -> str:
        """Runs `embedmill …` to its end; keeps what it prints."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.mill.env,
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stderr}"
        self.printed.append((" ".join(map(str, arguments)), done.stdout + done.stderr))
        return done.stdout

    def listen(self) -> None:
        """Takes what was published so far."""
        while message := self.published.get_message(timeout=0.1):
            self.heard += flat([message.get("channel"), message.get("data")])

    def assert_silent(self) -> None:
        """Looks everywhere."""
        self.listen()
        queues = [f"{self.mill.namespace}.embed", f"{self.mill.namespace}.unacked"]
        wait_until(lambda: not any(self.server.exists(name) for name in queues), "the queue was not drained")
        places = {
            "the worker's log": self.mill.worker.log.encode(),
            "the client's log": self.client_log.read_bytes(),
            **{f"output of {name}": text.encode() for name, text in self.printed},
            **{f"the key {key!r}": values_of(self.server, key) for key in self.server.scan_iter()},
            "what was published": b" ".join(self.heard),
            "the log of slow commands": repr(self.server.slowlog_get(-1)).encode(),
            "the server's log": (Path(self.server.config_get("dir")["dir"]) / "valkey.log").read_bytes(),
            **{f"the file {path}": path.read_bytes() for path in self.folder.rglob("tmp/**/*") if path.is_file()},
            **{f"the title of {pid}": title for pid, title in titles(self.mill.worker.pid)},
        }
        for name, value in places.items():
            assert not holds(value), f"{name} holds the word: {excerpt(value)!r}"


def titles(pid: int) -> list[tuple[int, bytes]]:
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [(one.pid, (one.name() + " ".join(one.cmdline())).encode()) for one in tree]


def excerpt(value: bytes) -> bytes:
    at = next((value.find(form) for form in encoded() if form in value), 0)
    return value[max(0, at - 300) : at + 100]


@pytest.fixture
def witness(make_mill, own_valkey, tmp_path):
    """A worker at DEBUG whose engine quotes texts in its errors, on a server of its own."""
    mill = make_mill(own_valkey.url)
    (tmp_path / "tmp").mkdir()
    mill.env["TMPDIR"] = str(tmp_path / "tmp")
    path = os.pathsep.join(filter(None, [apps.FOLDER, os.environ.get("PYTHONPATH", "")]))
    mill.start_worker(app="poison_app", log_level="DEBUG", PYTHONPATH=path, EMBEDMILL_CONCURRENCY="1")
    made = Witness(mill, tmp_path)
    root = logging.getLogger()
    handler, level = logging.FileHandler(made.client_log), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield made
    root.setLevel(level)
    root.removeHandler(handler)
    handler.close()
    made.published.close()
    made.server.close()


@contextmanager
def told(error: type[BaseException] = EmbedError):
    """As an application does: logs whatever is raised, with its traceback."""
    try:
        yield
    except error:
        log.exception("it failed")
    else:
        raise AssertionError("nothing was raised")


#: Arguments of a client's methods in which a text stands where something else should.
OPTION_SLIPS = [
    {"dtype": WORD},
    {"input_type": WORD},
    {"dimensions": WORD},
    {"truncate": WORD},
    {"lane": WORD},
    {"model": f"{WORD} sings"},
    {"timeout_s": WORD, "block": True},
]

#: As callers of the Celery task slip: arguments by position, and by name.
CANVAS_SLIPS = [
    (["first", TEXT], {}),
    ([TEXT, TEXT], {}),
    ([TEXT], {}),
    ([TEXT] * 6, {}),
    ([TEXT] * 9, {}),
    ([["a"], TEXT], {}),
    ([["a"], WORD], {}),
    ([["a"], None, TEXT], {}),
    ([["a"], None, None, TEXT], {}),
    ([["a"], None, None, None, TEXT], {}),
    ([["a"], None, None, None, "int8", TEXT], {}),
    ([["a"]], {WORD: TEXT}),
    ([["a"]], {TEXT: 1, "self": TEXT}),
    ([["a"]], {"texts": [TEXT]}),
    ([], {"text": TEXT}),
    ([{TEXT: TEXT}], {}),
    ([[TEXT, 3]], {}),
    ([[[TEXT]]], {}),
    ([["a"]], {"model": {WORD: TEXT}}),
    ([["a"]], {"model": WORD}),
    ([["a"]], {"dtype": [TEXT]}),
    ([["a"]], {"dimensions": TEXT}),
    ([["a"]], {"truncate": TEXT}),
    ([["a", f"{TEXT} \ud800"]], {}),
    ([[f"{TEXT} " * 1_000] * 300], {}),
]


def test_no_text_of_a_client_s_call_is_anywhere(witness):
    with EmbeddingClient(witness.mill.redis_url, MODEL, namespace=witness.mill.namespace) as client:
        assert client.embed([TEXT, TEXT * 50]).shape == (2, 384)
        assert client.submit([TEXT * 20] * 300).result(PATIENCE_S).rejected == ()
        job = client.submit([TEXT, QUOTING, f"{TEXT} \ud800", "x" * 1_000_001], truncate=False)
        assert [r.reason for part in job.iter_results() for r in part.rejected]
        assert [r.index for r in job.result(PATIENCE_S).rejected] == [1, 2, 3]
        for texts in (TEXT, [TEXT, 3], {TEXT: TEXT}, {TEXT}, [TEXT.encode()]):
            for call in (client.embed, client.submit):
                with told():
                    call(texts)
        for slip in OPTION_SLIPS:
            for call in (client.embed, client.submit):
                with told():
                    call([TEXT], **slip)
        for slip in ({"job_id": f"{WORD} "}, {"ttl_s": WORD}, {"deadline_s": WORD}):
            with told():
                client.submit([TEXT], **slip)
        with told():
            client.embed([TEXT * 200], truncate=False)
        with told():
            client.embed([QUOTING])
        taken = client.submit(["another"], job_id="taken")
        with told():
            client.submit([TEXT], job_id="taken")
        assert taken.wait(PATIENCE_S).chunks_done == 1
        waiting = client.submit([TEXT], model="not-served")
        with told():
            waiting.result(0.1)
        waiting.delete()
        client.submit([TEXT], model="not-served", job_id="cancelled").cancel()
    witness.assert_silent()


def test_no_text_of_an_asyncio_client_is_anywhere_though_asyncio_debugs(witness):
    async def call(client):
        asyncio.get_running_loop().slow_callback_duration = 0.0
        calls = [client.embed([f"{TEXT} {n}"]) for n in range(50)]
        assert len(await asyncio.gather(*calls)) == 50
        job = await client.submit([TEXT] * 100)
        assert [part async for part in job.iter_results()]
        for texts, slip in [(TEXT, {}), ([TEXT, 3], {}), *(([TEXT], slip) for slip in OPTION_SLIPS)]:
            for method in (client.embed, client.submit):
                with told():
                    await method(texts, **slip)
        with told():
            await client.embed([QUOTING])
        with told(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.embed([TEXT], model="not-served")

    async def main():
        async with AsyncEmbeddingClient(witness.mill.redis_url, MODEL, namespace=witness.mill.namespace) as client:
            await call(client)

    asyncio.run(main(), debug=True)
    assert "Executing <" in witness.client_log.read_text()
    witness.assert_silent()


@pytest.fixture
def stranger(witness):
    """Somebody else's Celery app, which calls the task by its name."""
    url, queue = broker_url(witness.mill.redis_url), f"{witness.mill.namespace}.embed"
    app = Celery("stranger", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        result_serializer="msgpack",
        accept_content=["json", "msgpack"],
        result_accept_content=["json", "msgpack"],
        task_queues=[Queue(queue, Exchange(witness.mill.namespace), routing_key=queue)],
        broker_transport_options={"priority_steps": [0]},
    )
    yield app
    app.backend.client.connection_pool.disconnect()
    app.close()


# Celery 5.7.0 stores results by a command that redis-py 8 calls deprecated.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_no_text_of_the_celery_task_is_anywhere_whatever_the_slip(witness, stranger):
    queue = f"{witness.mill.namespace}.embed"
    made = embedmill.signature([TEXT], namespace=witness.mill.namespace)
    assert maybe_signature(made, app=stranger).apply_async().get(timeout=PATIENCE_S)["shape"] == [1, 384]
    sent = []
    for serializer in ("json", "msgpack"):
        for args, kwargs in CANVAS_SLIPS:
            if serializer == "msgpack" and "\\ud800" in repr(args):
                continue  # no msgpack holds it
            sent.append(
                stranger.send_task("embedmill.embed", args=args, kwargs=kwargs, queue=queue, serializer=serializer)
            )
    for result in sent:
        with told(Exception):
            result.get(timeout=PATIENCE_S)
    failing = stranger.send_task("embedmill.embed", args=[["a", QUOTING]], queue=queue).get(timeout=PATIENCE_S)
    assert [row[:2] for row in failing["rejected"]] == [[1, "failed"]]
    for slip in [(TEXT,), ([TEXT, 3],)]:
        with told():
            embedmill.signature(*slip)
    for slip in ({"dtype": WORD}, {"input_type": WORD}, {"model": TEXT}, {"dimensions": WORD}, {"truncate": WORD}):
        with told():
            embedmill.signature([TEXT], **slip)
    assert witness.mill.worker.log.count("raised unexpected") == len(sent)
    witness.assert_silent()


def test_no_text_of_a_command_is_anywhere(witness, tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"id": n, "text": f"{TEXT} {n}"}) + "\n" for n in "abc"))
    (tmp_path / "bare.csv").write_text(f"{TEXT},{WORD}\n{TEXT},more\n")
    odd = (f'"{TEXT}"', f'{{"body": "{TEXT}"}}', f'{{"text": ["{TEXT}"]}}', TEXT, f'{{"text": "{TEXT}"}}')
    (tmp_path / "odd.jsonl").write_text("".join(f"{line}\n" for line in odd))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(f"# {TEXT}\n\n{TEXT}\n")
    witness.command("embed", text=f"{TEXT}\n{QUOTING}\n", code=exit_codes.REJECTED)
    witness.command("embed", "--format", "jsonl", tmp_path / "odd.jsonl", code=exit_codes.REJECTED)
    witness.command("embed", "--no-truncate", text=f"{TEXT * 200}\n", code=exit_codes.REJECTED)
    for source in ("corpus.jsonl", "odd.jsonl", "bare.csv", "docs"):
        witness.command("reindex", tmp_path / source, "--to", tmp_path / "tmp" / f"{source}-vectors")
        witness.command("reindex", tmp_path / source, "--to", tmp_path / "tmp" / f"{source}.jsonl", "--dry-run")
    letters = json.loads(witness.command("dead", "list", "--json", code=0))
    (letter,) = [one for one in letters if one["reason"] == "failed"]
    witness.command("dead", "list", code=0)
    witness.command("dead", "show", letter["id"], "--text", code=0)
    witness.command("dead", "requeue", letter["id"], code=exit_codes.USAGE)
    witness.command("dead", "requeue", letter["id"], "--text-file", "-", text=TEXT, code=exit_codes.USAGE)
    again = witness.command("dead", "requeue", letter["id"], "--text-file", "-", text=QUOTING, code=0).strip()
    with EmbeddingClient(witness.mill.redis_url, MODEL, namespace=witness.mill.namespace) as client:
        client.job(again).wait(PATIENCE_S)
    witness.command("status", "--json", code=0)
    witness.assert_silent()
