"""Texts that crash, hang, eat memory or raise, for real, in a worker of the tests' own: see poison_app.py."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedmill import EmbeddingClient, Reason
from embedmill.jobs import request
from embedmill.jobs.request import SubmitOptions
from embedmill.limits import MAX_LOSSES, MAX_TEXT_CRASHES
from embedmill.protocol import dead_letter
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.protocol.options import EmbedOptions
from embedmill_worker import exit_codes
from support import apps
from support.chaos.checks import COUNTERS
from support.held_claims import held_claims
from support.servers import plain_redis
from support.waiting import wait_until

from .conftest import PATIENCE_S, Mill, close, new_mill

MODEL = "all-MiniLM-L6-v2"
CLEAN = [f"text {number} about rivers and lighthouses" for number in range(64)]

log = logging.getLogger(__name__)

#: act, the reason for which its text is rejected, and how many attempts the letter tells.
KINDS = [
    ("segfault", Reason.CRASHED, MAX_TEXT_CRASHES),
    ("eats-native", Reason.CRASHED, MAX_TEXT_CRASHES),
    pytest.param("hangs-with-gil", Reason.CRASHED, MAX_TEXT_CRASHES, marks=pytest.mark.soak),
    ("hangs-without-gil", Reason.CRASHED, MAX_TEXT_CRASHES),
    ("oom-killer", Reason.WORKERS_LOST, MAX_LOSSES),
    ("eats-python", Reason.FAILED, 1),
    ("fails", Reason.FAILED, 1),
    ("unforeseen", Reason.FAILED, 1),
    ("panics", Reason.FAILED, 1),
    ("exits", Reason.CRASHED, MAX_TEXT_CRASHES),
]


def start_poisoned(mill: Mill, **env: str):
    path = os.pathsep.join(filter(None, [apps.FOLDER, os.environ.get("PYTHONPATH", "")]))
    return mill.start_worker(app="poison_app", PYTHONPATH=path, **env)


@pytest.fixture(scope="module")
def poisoned(valkey, data_dir) -> Iterator[Mill]:
    """A mill with one worker that obeys marked texts and has two children."""
    with tempfile.TemporaryDirectory() as folder:
        mill = new_mill(valkey.url, data_dir, Path(folder))
        try:
            start_poisoned(mill, EMBEDMILL_CONCURRENCY="2")
            yield mill
        finally:
            close(mill)


@pytest.fixture
def client(poisoned) -> Iterator[EmbeddingClient]:
    """A client without dead letters; afterwards the worker must be alive, serving, and without work."""
    with EmbeddingClient(poisoned.redis_url, MODEL, namespace=poisoned.namespace) as made:
        made.dead.drop_all()
        yield made
        assert poisoned.worker.process.poll() is None
        assert made.embed(["still there"]).shape == (1, 384)
        server, keys = plain_redis(poisoned.redis_url), Keyspace(poisoned.namespace)
        for lane in LANES:
            assert {int(count or 0) for count in server.hmget(keys.lane(MODEL, lane), COUNTERS)} == {0}


@pytest.fixture(scope="module")
def clean(poisoned):
    """The vectors of 64 harmless texts."""
    with EmbeddingClient(poisoned.redis_url, MODEL, namespace=poisoned.namespace) as made:
        return one_chunk(made, CLEAN).result(PATIENCE_S).vectors


def one_chunk(client: EmbeddingClient, texts: list[str], lane: str = "bulk"):
    """Submits texts as one chunk, however short its work."""
    how = SubmitOptions(model=None, lane=lane, in_one_chunk=True)
    job = client.job(client.transport.run(client.operations.submit(texts, EmbedOptions(), how), timeout_s=60))
    assert job.status().chunks == 1
    return job


def quick_limit(monkeypatch, act):
    """A chunk that hangs is given up after some seconds, not ten and more."""
    if act.startswith("hangs"):
        monkeypatch.setattr(request, "TIME_LIMIT_FLOOR_S", 3.0)
        monkeypatch.setattr(request, "TIME_LIMIT_FACTOR", 1.0)


@pytest.mark.parametrize(("act", "reason", "attempts"), KINDS)
def test_one_poison_text_is_rejected_and_its_63_neighbours_have_the_vectors_of_a_clean_run(
    client, clean, poisoned, monkeypatch, act, reason, attempts
):
    quick_limit(monkeypatch, act)
    texts = [*CLEAN[:31], f"☠{act} zebra", *CLEAN[32:]]
    began = time.monotonic()
    reply = one_chunk(client, texts).result(PATIENCE_S)
    log.info(f"{act}: isolated in {time.monotonic() - began:.1f} s")
    assert [(r.index, r.reason) for r in reply.rejected] == [(31, reason)]
    kept = [i for i in range(64) if i != 31]
    assert reply.vectors[kept].tobytes() == clean[kept].tobytes()
    (letter,) = client.dead.list()
    assert (letter.index, letter.reason, letter.attempts, letter.text) == (31, reason, attempts, None)
    assert (letter.model, letter.lane, letter.n_chars) == (MODEL, "bulk", len(texts[31]))
    assert "zebra" not in poisoned.worker.log


def test_tries_that_end_without_a_death_and_without_a_result_are_bounded(client, poisoned):
    reply = one_chunk(client, ["☠late zebra", "a neighbour"]).result(PATIENCE_S)
    assert [(r.index, r.reason) for r in reply.rejected] == [(0, Reason.WORKERS_LOST), (1, Reason.WORKERS_LOST)]
    assert [letter.attempts for letter in client.dead.list()] == [MAX_LOSSES] * 2
    assert "zebra" not in poisoned.worker.log


def test_two_poison_texts_in_one_chunk_are_both_found(client, clean):
    texts = ["☠segfault zebra", *CLEAN[1:40], "☠segfault other", *CLEAN[41:]]
    reply = one_chunk(client, texts).result(PATIENCE_S)
    assert [(r.index, r.reason) for r in reply.rejected] == [(0, Reason.CRASHED), (40, Reason.CRASHED)]
    kept = [i for i in range(64) if i not in (0, 40)]
    assert reply.vectors[kept].tobytes() == clean[kept].tobytes()
    assert {letter.index for letter in client.dead.list()} == {0, 40}


def test_a_poison_text_in_the_interactive_lane_stops_neither_itself_nor_bulk_work(client, clean):
    bulk = client.submit(CLEAN * 8)
    reply = one_chunk(client, ["☠segfault zebra"], lane="interactive").result(PATIENCE_S)
    assert [r.reason for r in reply.rejected] == [Reason.CRASHED]
    assert bulk.result(PATIENCE_S).rejected == ()


def test_a_poison_text_alone_in_its_chunk_is_rejected_and_buried_again_when_it_is_requeued(client):
    text = "☠segfault zebra"
    one_chunk(client, [text]).result(PATIENCE_S)
    (letter,) = client.dead.list()
    job = client.dead.requeue(letter.id, text)
    assert [r.reason for r in job.result(PATIENCE_S).rejected] == [Reason.CRASHED]
    (again,) = client.dead.list()
    assert (again.job_id, again.sha256) == (job.id, letter.sha256)


def test_a_worker_that_is_told_to_keeps_the_text(valkey, data_dir, tmp_path):
    mill = new_mill(valkey.url, data_dir, tmp_path)
    try:
        start_poisoned(mill, EMBEDMILL_CONCURRENCY="1", EMBEDMILL_KEEP_DEAD_TEXTS="1")
        with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
            one_chunk(client, ["☠fails zebra"]).result(PATIENCE_S)
            (letter,) = client.dead.list()
            assert letter.text == "☠fails zebra"
            assert "zebra" not in repr(letter)
            assert client.dead.requeue(letter.id).result(PATIENCE_S).rejected[0].reason == Reason.FAILED
    finally:
        close(mill)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_children_killed_from_outside_are_no_text_s_fault(client, clean, poisoned, sig):
    job = one_chunk(client, ["☠takes-long zebra", *CLEAN[1:]])
    keys = Keyspace(poisoned.namespace)
    with plain_redis(poisoned.redis_url) as server:
        for n in range(MAX_TEXT_CRASHES + 1):
            (held,) = wait_until(lambda: held_claims(server, keys, job))
            if n:  # from the second try on each text is alone, and a child is killed under the first one
                wait_until(lambda token=held.token: server.hget(keys.held, f"{token}:at") == b"0")
            os.kill(held.child_pid, sig)
            wait_until(lambda token=held.token: not server.hexists(keys.held, token), poisoned.worker.log)
        assert not job.status().state.is_over
        counts = server.hgetall(keys.crashes(job.id))
    job.cancel()
    found = {name: int(count) for name, count in counts.items()}
    assert found == {b"0:lost": 1, b"0:0:lost": MAX_TEXT_CRASHES}, poisoned.worker.log


def embedmill(mill, *arguments, **options):
    command = [sys.executable, "-m", "embedmill_worker.cli", "dead", *arguments]
    return subprocess.run(command, env=mill.env, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def test_the_command_line_lists_shows_requeues_and_drops(client, poisoned, tmp_path):
    one_chunk(client, ["☠fails zebra", "☠fails quagga"]).result(PATIENCE_S)
    listed = embedmill(poisoned, "list")
    assert listed.stdout.splitlines()[0].split()[:4] == ["id", "at", "reason", "attempts"]
    letters = json.loads(embedmill(poisoned, "list", "--json").stdout)
    assert [(x["index"], x["reason"], x["is_text_kept"]) for x in letters] == [
        (1, "failed", False),
        (0, "failed", False),
    ]
    shown = embedmill(poisoned, "show", letters[0]["id"], "--text")
    assert shown.stdout.endswith("the text was not kept\n")
    assert "zebra" not in listed.stdout + shown.stdout

    refused = embedmill(poisoned, "requeue", letters[1]["id"])
    assert (refused.returncode, refused.stdout) == (exit_codes.USAGE, "")
    assert "was not kept" in refused.stderr
    (tmp_path / "text.txt").write_text("☠fails zebra", "utf-8")
    requeued = embedmill(poisoned, "requeue", letters[1]["id"], "--text-file", str(tmp_path / "text.txt"))
    assert requeued.returncode == exit_codes.OK, requeued.stderr
    assert client.job(requeued.stdout.strip()).result(PATIENCE_S).rejected[0].reason == Reason.FAILED

    assert embedmill(poisoned, "drop").returncode == exit_codes.USAGE
    assert embedmill(poisoned, "show", "1-0").returncode == exit_codes.USAGE
    assert embedmill(poisoned, "drop", letters[0]["id"]).stdout == "dropped 1 dead letter\n"
    assert json.loads(embedmill(poisoned, "drop", "--all", "--json").stdout) == {"dropped": 1}
    assert client.dead.list() == []


def test_a_kept_text_is_shown_only_when_asked_for(client, poisoned):
    known = {
        "job_id": "j",
        "chunk": 0,
        "model": MODEL,
        "lane": "bulk",
        "reason": "failed",
        "detail": "d",
        "worker": "w",
    }
    letter = dead_letter.of_text("zebra", keep=True, index=0, attempts=1, **known)
    server = plain_redis(poisoned.redis_url)
    letter_id = server.xadd(Keyspace(poisoned.namespace).dead, {"l": dead_letter.pack(letter)}).decode()
    quiet = [embedmill(poisoned, *command).stdout for command in (("list",), ("show", letter_id), ("list", "--json"))]
    assert all(letter_id in output and "zebra" not in output for output in quiet)
    assert embedmill(poisoned, "show", letter_id, "--text").stdout.endswith("\nzebra\n")
    assert json.loads(embedmill(poisoned, "show", letter_id, "--text", "--json").stdout)["text"] == "zebra"
