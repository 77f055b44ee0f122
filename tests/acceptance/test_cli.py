"""The command line, as a new user runs it: real processes, a real server, the real model."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from embedmill import EmbeddingClient
from embedmill.settings import DEFAULT_REDIS_URL, ClientSettings
from embedmill_worker import exit_codes
from support.servers import save
from support.waiting import first_line, status_of

MODEL = "all-MiniLM-L6-v2"
COMMAND = [sys.executable, "-m", "embedmill_worker.cli"]

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 180.0

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")


def embedmill(*arguments, env, **options):
    """Runs a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=env, capture_output=True, timeout=PATIENCE_S, check=False, **options
    )


def until(condition, what):
    """Waits for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


def processes_of(home):
    """Every live process of the user whose environment this is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == home["HOME"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def home(tmp_path, data_dir):
    """The environment of somebody who has just installed the package, but for the model, which is there already."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "EMBEDMILL_DATA_DIR": str(linked(tmp_path, data_dir)),
    }


def linked(tmp_path, data_dir):
    """A data directory of its own whose models are the shared ones: `up` keeps its server's data beside them."""
    own = tmp_path / "data"
    own.mkdir()
    data_dir.mkdir(parents=True, exist_ok=True)
    for name in ("models", "exports", "graphs", "probes"):
        (data_dir / name).mkdir(exist_ok=True)
        (own / name).symlink_to((data_dir / name).absolute())
    return own


@pytest.fixture
def up(home):
    """Starts `embedmill up`; gives the process and the URL it prints."""
    started = []

    def start():
        process = subprocess.Popen(
            [*COMMAND, "up"], env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        line = first_line(process)
        assert line.startswith("export EMBEDMILL_REDIS_URL='unix://"), (line, process.poll())
        return process, line.split("'")[1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_status_json_has_the_documented_shape(mill):
    done = embedmill("status", "--json", env=mill.env)
    assert (done.returncode, done.stderr) == (exit_codes.OK, b"")
    status = json.loads(done.stdout)
    assert set(status) == {"workers", "lanes"}
    worker = next(w for w in status["workers"] if w["pid"] == mill.worker.pid)
    assert set(worker) == {"name", "model", "fingerprint", "state", "pid", "children"}
    assert (worker["model"], worker["state"], worker["children"]) == (MODEL, "ready", len(mill.worker.children))
    for lane in status["lanes"]:
        assert set(lane) == {
            *("model", "lane", "queue", "chunks", "texts", "tokens", "oldest_age_s"),
            *("tokens_done", "tokens_per_s", "tenants"),
        }
    assert {(lane["model"], lane["lane"]) for lane in status["lanes"]} >= {(MODEL, "bulk"), (MODEL, "interactive")}
    assert MODEL in embedmill("status", env=mill.env).stdout.decode()


def test_waiting_ends_at_once_when_a_worker_serves_the_model(mill):
    env = {**mill.env, "EMBEDMILL_MODEL": f"{MODEL},other"}
    assert embedmill("status", "--wait", str(PATIENCE_S), env=env).returncode == exit_codes.OK
    env["EMBEDMILL_MODEL"] = "other"
    assert embedmill("status", "--wait", "0.2", env=env).returncode == exit_codes.TIMEOUT


def test_lines_become_the_rows_of_an_array(mill, tmp_path):
    texts = [f"{word} {number}" for number in range(300) for word in ("selamat pagi", "good night", "")]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    done = embedmill("embed", "texts.txt", "--output", "vectors.npy", env=mill.env, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.OK, b"", b"")
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        assert np.array_equal(np.load(tmp_path / "vectors.npy"), client.embed(texts))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "vectors.npy"]


def test_jsonl_from_stdin_goes_to_stdout_and_bad_lines_cost_only_themselves(mill):
    data = b'{"text": "selamat pagi"}\n{"title": "x"}\n{"text": "\\ud800"}\n{"text": "good night"}\n'
    done = embedmill("embed", "--with-text", "--dimensions", "8", env=mill.env, input=data)
    assert done.returncode == exit_codes.REJECTED
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [line.get("rejected") for line in lines] == [None, "unreadable_line", "invalid_unicode", None]
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        wanted = client.embed(["selamat pagi", "good night"], dimensions=8)
    found = [line["embedding"] for line in lines if "embedding" in line]
    assert np.array_equal(np.array(found, dtype=np.float32), wanted)
    assert [line.get("text") for line in lines] == ["selamat pagi", None, None, "good night"]
    assert b"2 of 4 texts were rejected (1 invalid_unicode, 1 unreadable_line)" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(mill):
    process = subprocess.Popen(
        [*COMMAND, "embed"], env=mill.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"a\n" * 500, timeout=PATIENCE_S)
    assert errors == b""
    assert process.returncode == exit_codes.FAILURE


def test_ctrl_c_stops_the_work_and_leaves_no_file(mill, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"text {number} " + "word " * 200 for number in range(10_000)))
    settings = ClientSettings(redis_url=mill.redis_url, namespace=mill.namespace)

    def waiting():
        return sum(lane.texts for lane in status_of(settings).lanes)

    command = [*COMMAND, "embed", "texts.txt", "--output", "vectors.npy"]
    with subprocess.Popen(command, env=mill.env, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        until(waiting, "a queue with work")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (exit_codes.INTERRUPTED, b"")
    assert waiting() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_work_that_nobody_does_ends_with_the_timeout_and_is_cancelled(mill):
    done = embedmill("embed", "--model", "nobody", "--timeout", "0.5", env=mill.env, input=b"text\n")
    assert done.returncode == exit_codes.TIMEOUT
    assert done.stderr.decode().count("\n") == 1
    lanes = json.loads(embedmill("status", "--json", env=mill.env).stdout)["lanes"]
    assert sum(lane["chunks"] for lane in lanes if lane["model"] == "nobody") == 0


def test_models_show_names_what_a_worker_serves(mill):
    done = embedmill("models", "show", MODEL, "--json", env=mill.env)
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["dimension"], facts["max_tokens"], facts["precision"]) == (MODEL, 384, 256, "fp32")
    assert facts["class"] in ("exact", "close", "variant")
    assert facts["tokens_per_s"] > 0
    assert all(os.path.isfile(path) for path in facts["files"].values())  # noqa: PTH113
    settings = ClientSettings(redis_url=mill.redis_url, namespace=mill.namespace)
    assert facts["fingerprint"] in {worker.fingerprint for worker in status_of(settings).workers}


def test_a_worker_of_a_model_that_does_not_exist_says_so_and_exits_with_its_code(mill):
    done = embedmill("worker", "--model", "no-such-model", env=mill.env)
    assert done.returncode == exit_codes.MODEL
    assert b"no-such-model cannot be loaded" in done.stderr
    assert b"Traceback" not in done.stderr


def test_up_serves_until_ctrl_c_and_leaves_nothing_running(up, home):
    process, url = up()
    with EmbeddingClient(url) as client:
        vectors = client.embed(["selamat pagi"])
    assert vectors.shape == (1, 384)
    assert len(processes_of(home)) >= 3  # up, worker and, on one CPU, one child; the server hides its environment

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == exit_codes.OK, errors
    assert "Traceback" not in errors
    assert processes_of(home) == []


def test_what_up_started_is_found_with_nothing_exported(up, home):
    assert set(home) == {"HOME", "PATH", "TMPDIR", "EMBEDMILL_DATA_DIR"}
    process, url = up()
    file = Path(home["EMBEDMILL_DATA_DIR"]) / "up.json"
    known = json.loads(file.read_text())
    assert known.pop("started") > 0
    assert known == {"redis_url": url, "namespace": "embedmill", "models": [MODEL], "pid": process.pid}
    assert file.stat().st_mode & 0o777 == 0o600

    status = json.loads(embedmill("status", "--wait", "60", "--json", env=home).stdout)
    assert {worker["model"] for worker in status["workers"]} == {MODEL}
    done = embedmill("embed", "--dimensions", "8", env=home, input=b"selamat pagi\n")
    assert (done.returncode, done.stdout.count(b"\n")) == (exit_codes.OK, 1), done.stderr
    assert embedmill("dead", "list", env=home).returncode == exit_codes.OK
    lines = "from embedmill import EmbeddingClient\nprint(EmbeddingClient().embed(['selamat pagi']).shape)"
    python = subprocess.run(
        [sys.executable, "-c", lines], env=home, capture_output=True, timeout=PATIENCE_S, check=True
    )
    assert python.stdout == b"(1, 384)\n"

    second = embedmill("up", env=home)
    assert second.returncode == exit_codes.SETTINGS
    assert f"in use by process {process.pid}".encode() in second.stderr

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == exit_codes.OK, errors
    assert "needed only from another data folder, user or machine" in errors
    assert not file.exists()


def test_up_on_a_redis_that_is_there_already_is_found_too(mill, home):
    env = {**home, "EMBEDMILL_NAMESPACE": mill.namespace + "-up"}
    command = [*COMMAND, "up", "--redis-url", mill.redis_url, "--concurrency", "1"]
    file = Path(home["EMBEDMILL_DATA_DIR"]) / "up.json"
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(file.exists, "the file")
        known = json.loads(file.read_text())
        assert (known["redis_url"], known["namespace"]) == (mill.redis_url, mill.namespace + "-up")
        assert embedmill("status", "--wait", "60", env=home).returncode == exit_codes.OK
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert not file.exists()


@only_linux
def test_up_that_is_killed_leaves_nothing_running_and_its_jobs_go_on_at_the_next(up, home):
    process, url = up()
    texts = [f"text {number} " + "word " * 200 for number in range(100)]
    with EmbeddingClient(url) as client:
        job = client.submit(texts)
        save(url)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        until(lambda: processes_of(home) == [], "the end of every process")
        assert (Path(home["EMBEDMILL_DATA_DIR"]) / "up.json").exists()
        assert ClientSettings.from_env(environ=home).redis_url == DEFAULT_REDIS_URL
        lost = embedmill("status", env=home)  # looks at the usual address, where there is nothing of ours
        assert url.encode() not in lost.stderr

        home["EMBEDMILL_REDIS_URL"] = url  # as in a shell that has run the printed line
        _, again = up()
        assert again == url
        assert job.result(PATIENCE_S).rejected == ()


def test_the_demo_in_a_pipe_answers_questions_and_leaves_nothing(home):
    done = embedmill("demo", env=home)
    output = done.stdout.decode()
    assert done.returncode == exit_codes.OK, done.stderr.decode()
    assert "tokens/s" in output
    assert "vectors: float32 (" in output
    answer = output.split("make a class callable like a function?")[1].split("?")[0]
    assert "callable" in answer
    assert "\x1b" not in output
    assert processes_of(home) == []
    assert not os.listdir(home["TMPDIR"])  # noqa: PTH208


def test_ctrl_c_in_the_demo_leaves_nothing(home):
    with subprocess.Popen([*COMMAND, "demo"], env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"passages" in first_line(process)  # server and worker run by now
        assert len(processes_of(home)) >= 3
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == exit_codes.INTERRUPTED
        assert b"Traceback" not in errors
    assert processes_of(home) == []
    assert not os.listdir(home["TMPDIR"])  # noqa: PTH208


def test_embed_waits_for_room_in_a_full_lane(own_mill, tmp_path):
    env = {**own_mill.env, "EMBEDMILL_MODEL": MODEL, "EMBEDMILL_MAX_QUEUED_TOKENS": "1"}
    (tmp_path / "texts.txt").write_text("one\ntwo\n", "utf-8")
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        before = client.submit(["what fills the lane"])
        command = [*COMMAND, "embed", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "out.npy")]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        own_mill.start_worker(EMBEDMILL_MODEL=MODEL)  # which takes longer than the command to find the lane full
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        assert before.result(PATIENCE_S).rejected == ()
    assert np.load(tmp_path / "out.npy").shape == (2, 384)
