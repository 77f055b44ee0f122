"""Commands beside forged values and odd files: none ends in a traceback, prints escapes, floods or hangs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedmill.protocol.keys import Keyspace
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill_worker import exit_codes
from support.reindexer import Reindexer, rows
from support.servers import plain_redis
from support.waiting import wait_until

from .conftest import PATIENCE_S, new_mill

COMMAND = [sys.executable, "-m", "embedmill_worker.cli"]
ESCAPE = "\x1b[2J\x1b]0;owned\x07\r\n"

#: What a command may print of a namespace that somebody has filled with thousands of values.
MAX_PRINTED_BYTES = 200_000


@pytest.fixture
def forged(redis_url, data_dir, tmp_path):
    """A namespace without workers: its environment, its keys and a connection."""
    mill = new_mill(redis_url, data_dir, tmp_path)
    with plain_redis(redis_url) as server:
        yield mill.env, Keyspace(mill.namespace), server


def run(env, *arguments, text="", timeout=PATIENCE_S):
    """Runs a command; gives its exit code and what it printed."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=env,
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed
    return done.returncode, printed


def put_worker(server, keys, worker_id, models, **changes):
    entry = {"worker_id": worker_id, "name": worker_id, "pid": 1, "host": "h", "state": "ready", "children": 1}
    server.set(keys.worker(worker_id), json.dumps(entry | {"models": models} | changes), ex=300)
    server.zadd(keys.workers, {worker_id: 1})


@pytest.mark.parametrize("letter_id", ["9999999999999999-0", "18446744073709551615-18446744073709551614"])
def test_a_letter_from_the_far_future_is_listed_shown_and_dropped(forged, letter_id):
    env, keys, server = forged
    server.xadd(keys.dead, {"l": "any letter"}, id=letter_id)
    later = server.xadd(keys.dead, {"l": "a later one"}).decode()
    code, printed = run(env, "dead", "list")
    assert (code, letter_id in printed, later in printed) == (0, True, True)
    assert "no date" in printed
    code, printed = run(env, "dead", "list", "--json")
    assert (code, [one["id"] for one in json.loads(printed)]) == (0, [later, letter_id])
    assert run(env, "dead", "show", letter_id)[0] == exit_codes.FAILURE
    assert run(env, "dead", "drop", letter_id, later) == (0, "dropped 2 dead letters\n")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_status_of_forged_workers_is_short(forged, flags):
    env, keys, server = forged
    put_worker(server, keys, "honest", {"m": "f"})
    put_worker(server, keys, "giant", {f"model-{n}-{'x' * 400}": "f" * 500 for n in range(20_000)})
    put_worker(server, keys, "loud", {"m": f"f{ESCAPE}"})
    put_worker(server, keys, "louder", {"m": "f"}, name=ESCAPE * 1_000)
    code, printed = run(env, "status", *flags)
    assert code == 0
    assert len(printed) < 10_000
    assert "honest" in printed
    assert "louder" not in printed


def test_status_shows_some_hundred_lines_and_counts_the_rest(forged):
    env, keys, server = forged
    for number in range(50):
        put_worker(server, keys, f"w{number}", {f"m{n}": "f" for n in range(128)})
    code, printed = run(env, "status")
    assert code == 0
    assert len(printed) < MAX_PRINTED_BYTES
    assert "more; use --json to see all of them" in printed


def test_no_command_that_reads_prints_what_moves_a_cursor(forged, tmp_path):
    env, keys, server = forged
    evil = ESCAPE.encode() * 100
    put_worker(server, keys, "w", {"m": "f"}, protocol=PROTOCOL_VERSION)
    server.hset(keys.models, "m", json.dumps({"name": ESCAPE, "fingerprint": ESCAPE}))
    server.hset(keys.models, "n", b"x" * (2 << 20))
    server.sadd(keys.lanes, evil, b"other bulk", evil + b" bulk", *(f"lane{n} bulk" for n in range(5_000)))
    server.zadd(keys.active("other", "bulk"), {evil: 1e300})
    server.hset(keys.lane("other", "bulk"), mapping={"chunks": evil, "texts": b"9" * 1_000})
    server.hset(keys.job(ESCAPE), mapping={"state": "done", "model": evil})
    server.hset(keys.job("forged"), mapping={"state": "active", "model": evil, "lane": evil})
    server.xadd(keys.dead, {evil: evil})
    server.xadd(keys.dead, {"l": evil})
    (tmp_path / "a.md").write_text("a text")
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["jobs", "list"],
        ["jobs", "list", "--json"],
        ["dead", "list"],
        ["dead", "list", "--json"],
        ["embed", "--model", "m", "--timeout", "1"],
        ["embed", "--timeout", "1"],
    ):
        code, printed = run(env, *arguments, text="a text\n")
        assert code in (exit_codes.OK, exit_codes.TIMEOUT, exit_codes.USAGE), printed
        assert len(printed) < 10 * MAX_PRINTED_BYTES, arguments


def test_a_folder_that_holds_a_pipe_is_reindexed_without_it(mill, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("rivers and lighthouses")
    os.mkfifo(docs / "pipe.md")
    (docs / "link.md").symlink_to("pipe.md")
    arguments = [docs, "--to", tmp_path / "vectors", "--rejects", tmp_path / "rejects"]
    report = Reindexer(mill.env, arguments).run()
    assert (report["added"], report["rejected"]) == (1, 0)
    assert set(rows(tmp_path / "vectors")) == {"a.md"}
    assert report["notes"] == [f"{docs}: passed over 2 pipes, sockets or devices"]


def caught(pid: int) -> int:
    """The signals that a process has handlers for, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)


def takes(number):
    """Returns whether a process has a handler for a signal, as a function of its pid."""
    return lambda pid: caught(pid) >> (number - 1) & 1


def waits(pid):
    """Whether a process takes SIGTERM and sleeps, and not only for a moment.

    CPython looks for signals before it calls read(): one that comes between the two waits with it. A command that
    reads at once is hit there one time in a hundred, so it has to read by now.
    """
    for _ in range(5):
        time.sleep(0.02)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state != "S" or not takes(signal.SIGTERM)(pid):
            return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("arguments", "is_ready"),
    [
        (["reindex", "-", "--to", "{tmp}/vectors"], takes(signal.SIGALRM)),
        (["embed"], takes(signal.SIGTERM)),
        (["embed", "--model", "not-served", "{tmp}/file"], takes(signal.SIGTERM)),
        (["dead", "requeue", "1-0", "--text-file", "{tmp}/pipe"], waits),
        (["dead", "requeue", "1-0", "--text-file", "-"], waits),
        (["status", "--wait", "600", "--model", "not-served"], takes(signal.SIGTERM)),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_a_command_whatever_it_waits_for(mill, tmp_path, arguments, is_ready, number):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("a text\n")
    silent, held_open = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, *(one.format(tmp=tmp_path) for one in arguments)],
        env=mill.env,
        stdin=silent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_until(lambda: is_ready(process.pid), "it takes no signals")
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
        # A shell calls both 130: CPython ends by SIGINT itself if it was interrupted in code that dataclasses make.
        assert process.returncode in (exit_codes.INTERRUPTED, -signal.SIGINT), err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()
        os.close(silent)
        os.close(held_open)


def test_a_line_without_end_is_one_text_s_problem(mill, tmp_path):
    (tmp_path / "odd").write_bytes(b"a text\n" + b"x" * (65 << 20) + b"\nanother\n")
    code, printed = run(mill.env, "embed", tmp_path / "odd")
    assert code == exit_codes.REJECTED
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line.get("rejected") for line in lines] == [None, "unreadable_line", None]


def test_a_text_file_without_end_is_refused(forged):
    env, _, _ = forged
    code, printed = run(env, "dead", "requeue", "1-0", "--text-file", "/dev/zero")
    assert (code, "more than any text" in printed) == (exit_codes.USAGE, True)


def test_a_list_of_rejects_is_no_device(mill, tmp_path):
    (tmp_path / "corpus.txt").write_text("a text\n")
    before = Path(os.devnull).stat()
    arguments = ["reindex", tmp_path / "corpus.txt", "--to", tmp_path / "vectors", "--rejects", os.devnull]
    code, printed = run(mill.env, *arguments)
    assert (code, "not a regular file" in printed) == (exit_codes.FAILURE, True)
    assert Path(os.devnull).stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("embedmill_worker.cli.dispatch", "from embedmill_worker.cli import main; main(['status'])"),
        ("embedmill_worker.app", "from embedmill_worker.main import main; main()"),
    ],
)
def test_an_interrupt_while_a_command_loads_its_modules_leaves_no_traceback(forged, tmp_path, module, call):
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path('loading').touch()\ntime.sleep(60)\n")
    finder = f"""
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.path[:0] = [{str(tmp_path)!r}]
            import slow
sys.meta_path.insert(0, Finder())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", finder + call, "--hostname", "h"],
        env=forged[0],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_until((tmp_path / "loading").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (-signal.SIGINT, b"")
