"""Each of examples/ as its first lines say how to run it, against the real queue."""

import os
import shutil
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill_worker.cli.local.die_with_parent import tethered
from support.servers import free_port
from support.waiting import wait_until

#: With the tours of test_gateway_clients.py in `make test`, minutes of further processes can wait for `make deep`.
pytestmark = pytest.mark.deep

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"

MODEL = "all-MiniLM-L6-v2"
DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]
QUESTION = "what waits?"

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def queue(mill):
    """Our own client, whose vectors are those that the examples must get."""
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def wanted_scores(queue):
    """How similar the question is to each document."""
    *documents, question = queue.embed([*DOCUMENTS, QUESTION])
    return dict(zip(DOCUMENTS, np.array(documents) @ question, strict=True))


@pytest.fixture
def run(gateway, tmp_path):
    """Runs an example to its end; gives what it printed, line by line."""

    def run(*command, **env):
        addresses = {
            "OPENAI_BASE_URL": gateway.openai_url,
            "OPENAI_API_KEY": "unused",
            "OLLAMA_HOST": gateway.url,
            "GATEWAY_URL": gateway.url,
            "GATEWAY_GRPC": gateway.grpc_address,
        }
        environment = {**os.environ, "HOME": str(tmp_path), **addresses, **env}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def check_scores(lines, wanted) -> None:
    """Hold lines of a score and a text to the scores, the most similar one first."""
    found = [line.split(" ", 1) for line in lines]
    assert [text for _, text in found] == sorted(wanted, key=wanted.get, reverse=True)
    for score, text in found:
        assert abs(float(score) - wanted[text]) < 0.002


def test_openai_sdk(run, queue, wanted_scores):
    lines = run(sys.executable, EXAMPLES / "openai_sdk.py")
    check_scores(lines[:3], wanted_scores)
    tokens = queue.submit(DOCUMENTS, lane="interactive").result().token_counts.sum()
    assert lines[3:] == [f"{tokens} tokens", "cut: 1", "refused: context_length_exceeded"]


def test_openai_async(run):
    assert run(sys.executable, EXAMPLES / "openai_async.py") == ["64 vectors of 384 numbers"]


@pytest.mark.parametrize("name", ["langchain_openai_class.py", "llama_index_class.py"])
def test_frameworks(name, run, wanted_scores):
    check_scores(run(sys.executable, EXAMPLES / name), wanted_scores)


def test_ollama_client(run, wanted_scores):
    lines = run(sys.executable, EXAMPLES / "ollama_client.py")
    check_scores(lines[:3], wanted_scores)
    assert lines[3:] == ["404 model 'nobody' not found"]


def test_inference_client(run, wanted_scores):
    lines = run(sys.executable, EXAMPLES / "inference_client.py")
    check_scores(lines[:3], wanted_scores)
    assert lines[3:] == ["refused: 422"]


def test_grpc_client(run, wanted_scores, tmp_path):
    source = REPOSITORY / "worker" / "embedmill_worker" / "gateway" / "apis"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", source]
    run(*protoc, "--python_out=.", "--grpc_python_out=.", "embedding.proto")
    lines = run(sys.executable, EXAMPLES / "grpc_client.py", PYTHONPATH=str(tmp_path))
    check_scores(lines[:3], wanted_scores)
    assert lines[3:] == ["INVALID_ARGUMENT No input provided"]


def test_curl(run):
    if shutil.which("curl") is None:
        pytest.skip("curl is not there: examples/curl.sh was not run")
    lines = run("sh", EXAMPLES / "curl.sh")
    assert len(lines) == 6
    for line, part in zip(lines, ('"usage"', '"usage"', "[[", '"embeddings"', f'"{MODEL}"', '"ok"'), strict=True):
        assert part in line


def test_jobs(run, queue, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not there: examples/jobs.sh was not run")
    lines = run("sh", EXAMPLES / "jobs.sh")
    assert '"status":"completed"' in lines[-1] and lines[-1].startswith("data: ")
    assert (tmp_path / "vectors.f32").read_bytes() == queue.embed(["Selamat pagi", "good morning"]).tobytes()


def test_node_client(run, wanted_scores):
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "none"
    if version == "none" or int(version[1:].partition(".")[0]) < 18:
        pytest.skip(f"Node 18 or newer is not there ({version.strip()}): examples/node_client.mjs was not run")
    lines = run(node, EXAMPLES / "node_client.mjs")
    check_scores(lines[:3], wanted_scores)
    assert lines[3:] == ["refused: 'input[0]' must not be an empty string"]


def test_the_list_of_examples_is_whole():
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert [name for name in sorted(files) if f"[{name}]({name})" not in listed] == []
    tests = Path(__file__).read_text("utf-8")
    assert [name for name in sorted(files) if f'"{name}"' not in tests and name[:-3] not in tests] == []


# --- Web applications ---------------------------------------------------------------------------------------------

SERVERS = {
    "fastapi_app": ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "PORT", "fastapi_app:app"],
    "flask_app": ["-m", "flask", "--app", str(EXAMPLES / "flask_app.py"), "run", "--port", "PORT"],
    "django_app": [str(EXAMPLES / "django_app.py"), "runserver", "--noreload", "127.0.0.1:PORT"],
}


@pytest.fixture
def serve(tmp_path):
    """Starts an application with its own server; gives an HTTP client of it."""
    started, clients = [], []

    def serve(name, env):
        port = free_port()
        command = [sys.executable, *(word.replace("PORT", str(port)) for word in SERVERS[name])]
        log_path = tmp_path / f"{name}-{port}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                tethered(command),
                env={**env, "EMBEDMILL_MODEL": MODEL},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
        clients.append(client)

        def answers():
            assert process.poll() is None, log_path.read_text()
            try:
                return client.get("/nothing").status_code == HTTPStatus.NOT_FOUND
            except httpx.TransportError:
                return False

        wait_until(answers, f"{name} does not answer")
        return client

    yield serve
    for client in clients:
        client.close()
    for process in started:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_S)


def same_bits(rows, wanted) -> bool:
    return np.array_equal(np.array(rows, dtype=np.float32).view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("name", SERVERS)
def test_an_application_enqueues_tells_and_maps_errors(name, serve, mill, queue):
    app = serve(name, mill.env)

    submitted = app.post("/jobs", json={"texts": DOCUMENTS})
    assert submitted.status_code == HTTPStatus.ACCEPTED
    place = submitted.headers["location"]
    assert place == f"/jobs/{submitted.json()['id']}"

    def finished():
        found = app.get(place)
        assert found.status_code == HTTPStatus.OK
        return found.json() if found.json()["state"] == "done" else None

    found = wait_until(finished, "the job is not done")
    assert (found["done"], found["texts"], found["rejected"]) == (len(DOCUMENTS), len(DOCUMENTS), {})
    assert same_bits(found["vectors"], queue.embed(DOCUMENTS))

    at_once = app.post("/vector", json={"text": QUESTION})
    assert at_once.status_code == HTTPStatus.OK
    assert same_bits([at_once.json()["vector"]], queue.embed([QUESTION]))

    too_long = app.post("/vector", json={"text": "word " * 1_000})
    assert too_long.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "too_long" in too_long.json()["detail"]
    assert "word" not in too_long.text
    assert app.get("/jobs/never-submitted").status_code == HTTPStatus.NOT_FOUND
    assert app.get("/jobs/no%20id").status_code == HTTPStatus.BAD_REQUEST
    for wrong in ({"texts": []}, {}, {"texts": [1]}, {"texts": "one"}):
        status = app.post("/jobs", json=wrong).status_code
        assert status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY), wrong
    status = app.post("/jobs", content=b"{", headers={"content-type": "application/json"}).status_code
    assert status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


@pytest.mark.parametrize("name", SERVERS)
def test_an_application_says_that_the_queue_is_full_or_away(name, serve, make_mill, own_valkey):
    mill = make_mill(own_valkey.url)  # without a worker
    app = serve(name, {**mill.env, "EMBEDMILL_MAX_QUEUED_TOKENS": "1"})

    first = app.post("/jobs", json={"texts": DOCUMENTS})
    assert first.status_code == HTTPStatus.ACCEPTED
    waiting = app.get(first.headers["location"])
    assert (waiting.json()["state"], waiting.headers["retry-after"]) == ("queued", "1")
    full = app.post("/jobs", json={"texts": DOCUMENTS})
    assert full.status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert int(full.headers["retry-after"]) >= 1

    assert app.delete(first.headers["location"]).status_code == HTTPStatus.NO_CONTENT
    assert app.get(first.headers["location"]).status_code == HTTPStatus.GONE

    own_valkey.kill()
    away = app.post("/jobs", json={"texts": DOCUMENTS})
    assert away.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert own_valkey.url not in away.text
