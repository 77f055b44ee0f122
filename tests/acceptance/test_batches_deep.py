"""Batches at full size, and while everything around them is killed: each line once, with the queue's bits."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

from embedmill import EmbeddingClient
from embedmill_worker.cli.local.die_with_parent import tethered
from support.gateway import start
from support.waiting import wait_until

pytestmark = pytest.mark.deep

MODEL = "all-MiniLM-L6-v2"
LINES = 20_000

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 900.0


def text(number):
    return f"{number} is a number" + " and it has a text of some length" * (number % 7)


def write_input(path, lines=LINES):
    with path.open("w") as file:
        for i in range(lines):
            body = {"model": MODEL, "input": "" if i % 1_000 == 7 else text(i)}
            file.write(
                json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": body}) + "\n"
            )


def check(results, errors, queue, lines=LINES):
    bad = [f"r{i}" for i in range(lines) if i % 1_000 == 7]
    assert [each["custom_id"] for each in errors] == bad
    assert [each["custom_id"] for each in results] == [f"r{i}" for i in range(lines) if i % 1_000 != 7]
    found = [each["response"]["body"]["data"][0]["embedding"] for each in results]
    wanted = queue.embed([text(i) for i in range(lines) if i % 1_000 != 7], lane="bulk", timeout_s=PATIENCE_S)
    assert (np.asarray(found, dtype=np.float64).astype(np.float32).view(np.uint32) == wanted.view(np.uint32)).all()


@pytest.mark.timeout(1_800)
def test_a_batch_survives_the_kills_of_gateway_worker_and_redis_twice_each(durable_mill, own_valkey, tmp_path):
    mill = durable_mill
    mill.start_worker()
    folder = str(tmp_path / "files")
    gateway = start(mill.env, tmp_path, EMBEDMILL_FILES_DIR=folder)
    source = tmp_path / "in.jsonl"
    write_input(source)
    with source.open("rb") as file:
        form = {"purpose": "batch"}
        file_id = httpx.post(f"{gateway.openai_url}/files", files={"file": file}, data=form, timeout=60).json()["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch_id = httpx.post(f"{gateway.openai_url}/batches", json=wanted, timeout=60).json()["id"]

    def look():
        return httpx.get(f"{gateway.openai_url}/batches/{batch_id}", timeout=60).json()

    def wait_done(number):
        def is_done():
            counts = look()["request_counts"]
            return counts["completed"] + counts["failed"] >= number

        wait_until(is_done, f"{number} lines", PATIENCE_S)

    for round_ in (1, 2):
        wait_done(round_ * LINES // 8)
        gateway.process.kill()
        gateway.process.wait()
        gateway = start(mill.env, tmp_path, ready=False, EMBEDMILL_FILES_DIR=folder)
        wait_done(round_ * LINES // 8 + LINES // 20)
        mill.workers[-1].kill()
        mill.start_worker()
        wait_done(round_ * LINES // 8 + LINES // 10)
        time.sleep(1.5)  # what Redis has not yet saved may be gone, and is submitted again: either is right
        own_valkey.kill()
        own_valkey.restart()
    wait_until(lambda: look()["status"] == "completed", "the end of the batch", PATIENCE_S)
    batch = look()
    assert batch["request_counts"] == {"total": LINES, "completed": LINES - 20, "failed": 20}
    files = [batch["output_file_id"], batch["error_file_id"]]
    texts = [httpx.get(f"{gateway.openai_url}/files/{each}/content", timeout=300).text for each in files]
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as queue:
        check(*([json.loads(row) for row in each.splitlines()] for each in texts), queue)
    gateway.stop()


def partial_of(path, size):
    return lambda: path.exists() and path.stat().st_size > size


@pytest.mark.timeout(1_800)
def test_the_command_goes_on_after_kills(durable_mill, tmp_path):
    mill = durable_mill
    mill.start_worker()
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    partial, lines = tmp_path / "out.jsonl.partial", 6_000
    write_input(source, lines)
    command = [sys.executable, "-m", "embedmill_worker.cli", "batch", str(source), "--output", str(output)]

    def run():
        return subprocess.Popen(tethered(command), env=mill.env, stderr=subprocess.PIPE, text=True)

    size = 0
    for _ in range(2):
        process = run()
        wanted = size + 1_000_000
        wait_until(partial_of(partial, wanted), "lines", PATIENCE_S)
        size = partial.stat().st_size
        process.kill()
        process.communicate()
    process = run()
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 7, said
    rows = [json.loads(row) for row in output.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"r{i}" for i in range(lines)]
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as queue:
        split = [[row for row in rows if (row["response"]["status_code"] == 200) is wanted] for wanted in (True, False)]
        check(*split, queue, lines)
    assert not partial.exists() and not (tmp_path / "out.jsonl.progress").exists()


#: The limits of OpenAI's batches, and of the gateway's memory with one.
MAX_LINES, FILE_BYTES, MEMORY_BYTES = 50_000, 200_000_000, 200 << 20


class Memory(threading.Thread):
    """The most memory that a process has held, looked at ten times a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.most = 0
        self.is_over = threading.Event()

    def run(self):
        while not self.is_over.wait(0.1):
            self.most = max(self.most, self._process.memory_info().rss)


@pytest.mark.timeout(3_600)
def test_a_gateway_s_memory_is_flat_with_the_largest_file(durable_mill, tmp_path):
    """Texts are short, so that it takes minutes; the rest of each line is a field that nobody reads."""
    mill = durable_mill
    mill.start_worker()
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    filler = "x" * (FILE_BYTES // MAX_LINES - 150)
    with source.open("w") as file:
        for i in range(MAX_LINES):
            body = {"model": MODEL, "input": f"text {i}", "user": filler}
            line = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line) + "\n")
    assert source.stat().st_size > 0.98 * FILE_BYTES
    gateway = start(mill.env, tmp_path, EMBEDMILL_FILES_DIR=str(tmp_path / "files"))
    memory = Memory(gateway.process.pid)
    memory.start()
    before, began_s = psutil.Process(gateway.process.pid).memory_info().rss, time.monotonic()
    with source.open("rb") as file:
        files = {"file": file}
        reply = httpx.post(f"{gateway.openai_url}/files", files=files, data={"purpose": "batch"}, timeout=600)
    uploaded_s = time.monotonic() - began_s
    wanted = {"input_file_id": reply.json()["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch_id = httpx.post(f"{gateway.openai_url}/batches", json=wanted, timeout=60).json()["id"]

    def done():
        batch = httpx.get(f"{gateway.openai_url}/batches/{batch_id}", timeout=60).json()
        return batch if batch["status"] == "completed" else None

    after_upload = memory.most
    batch = wait_until(done, "the end of the batch", 3_000)
    embedded_s, began_s, after_batch = time.monotonic() - began_s, time.monotonic(), memory.most
    assert batch["request_counts"] == {"total": MAX_LINES, "completed": MAX_LINES, "failed": 0}
    url = f"{gateway.openai_url}/files/{batch['output_file_id']}/content"
    with httpx.stream("GET", url, timeout=600) as answer, output.open("wb") as file:
        for piece in answer.iter_bytes():
            file.write(piece)
    fetched_s = time.monotonic() - began_s
    assert int(answer.headers["content-length"]) == output.stat().st_size
    with output.open() as file:
        assert [json.loads(row)["custom_id"] for row in file] == [f"r{i}" for i in range(MAX_LINES)]
    memory.is_over.set()
    mib = [round(each / (1 << 20)) for each in (before, after_upload, after_batch, memory.most)]
    figures = (
        f"RSS in MiB at start, after upload, batch, download: {mib}; upload {uploaded_s:.1f} s, "
        f"batch {embedded_s:.0f} s, download of {output.stat().st_size / 1e6:.0f} MB {fetched_s:.1f} s"
    )
    (tmp_path / "figures.txt").write_text(figures)
    assert memory.most < MEMORY_BYTES, figures
    gateway.stop()


def short(i):
    return {"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": {"model": MODEL, "input": text(i)}}


def begin(gateway, data, **options):
    files, form = {"file": ("in.jsonl", data)}, {"purpose": "batch"}
    file_id = httpx.post(f"{gateway.openai_url}/files", files=files, data=form, timeout=60).json()["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"} | options
    return httpx.post(f"{gateway.openai_url}/batches", json=wanted, timeout=60).json()["id"]


def show(gateway, batch_id):
    return httpx.get(f"{gateway.openai_url}/batches/{batch_id}", timeout=60).json()


def fetch(gateway, file_id):
    rows = httpx.get(f"{gateway.openai_url}/files/{file_id}/content", timeout=60).text.splitlines()
    return [json.loads(row) for row in rows]


def test_another_gateway_of_the_host_takes_a_batch_over_and_a_cancelled_one_keeps_what_is_done(own_mill, tmp_path):
    mill = own_mill
    mill.start_worker()
    first, second = start(mill.env, tmp_path), start(mill.env, tmp_path)
    data = "".join(json.dumps(short(i)) + "\n" for i in range(20_000)).encode()
    batch_id = begin(first, data)
    wait_until(lambda: show(second, batch_id)["request_counts"]["completed"], "a line", PATIENCE_S)
    first.process.kill()
    first.process.wait()
    before = show(second, batch_id)["request_counts"]["completed"]
    wait_until(lambda: show(second, batch_id)["request_counts"]["completed"] > before, "more lines", PATIENCE_S)
    assert httpx.post(f"{second.openai_url}/batches/{batch_id}/cancel", timeout=60).json()["status"] == "cancelling"
    wait_until(lambda: show(second, batch_id)["status"] == "cancelled", "the end", PATIENCE_S)
    batch = show(second, batch_id)
    results, errors = (fetch(second, batch[name]) for name in ("output_file_id", "error_file_id"))
    assert [row["custom_id"] for row in results + errors] == [f"r{i}" for i in range(20_000)]
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    assert batch["request_counts"] == {"total": 20_000, "completed": len(results), "failed": len(errors)}
    assert second.stop() == 0


def test_a_download_goes_on_while_it_is_read_and_no_longer(own_mill, tmp_path):
    gateway = start(own_mill.env, tmp_path, ready=False, EMBEDMILL_ANSWER_TIMEOUT_S="2")
    files, form = {"file": ("in.jsonl", b"x" * (24 << 20))}, {"purpose": "batch"}
    file_id = httpx.post(f"{gateway.openai_url}/files", files=files, data=form, timeout=60).json()["id"]

    def connect():
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.settimeout(60)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(b"GET /v1/files/%s/content HTTP/1.1\r\nhost: localhost\r\n\r\n" % file_id.encode())
        return client

    with connect() as slow:
        size, began_s = 0, time.monotonic()
        while size < 24 << 20:
            size += len(slow.recv(256 << 10))
            time.sleep(max(0.0, size / (4 << 20) - (time.monotonic() - began_s)))
        assert time.monotonic() - began_s > 5
    with connect() as stuck:
        assert stuck.recv(1)
        time.sleep(6)
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while part := stuck.recv(1 << 20):
                size += len(part)
        assert size < 24 << 20
    assert gateway.stop() == 0
