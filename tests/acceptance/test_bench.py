"""`embedmill bench`, very short, as an operator runs it."""

import json
import os
import subprocess
import sys

import pytest

from embedmill.protocol.keys import Keyspace
from support.servers import plain_redis

COMMAND = [sys.executable, "-m", "embedmill_worker.cli", "bench", "--json"]
SHORT = ["--texts", "40", "--rounds", "2", "--requests", "10"]
PATIENCE_S = 180.0


def bench(*arguments, env):
    """Runs the command; gives its report."""
    done = subprocess.run([*COMMAND, *SHORT, *arguments], env=env, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def check(report, children):
    """Every figure is there and possible."""
    assert (report["model"], report["texts"], report["requests"]) == ("all-MiniLM-L6-v2", 40, 10)
    assert report["children"] == children
    for corpus in ("short", "mixed"):
        speed = report["texts_per_s"][corpus]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    for state in ("idle", "busy"):
        latency = report["latency_ms"][state]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]


def test_it_starts_and_measures_a_mill_of_its_own_and_leaves_nothing(data_dir, tmp_path):
    env = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "t")}
    (tmp_path / "t").mkdir()
    report = bench("--data-dir", str(data_dir), "--concurrency", "1", env=env)
    check(report, children=1)
    assert report["memory_mb"] > 50
    assert list((tmp_path / "t").iterdir()) == []


def test_it_measures_the_workers_behind_a_redis_and_deletes_its_jobs(mill, redis_url):

    def jobs():
        with plain_redis(redis_url) as server:
            return set(server.scan_iter(Keyspace(mill.namespace).job("*")))

    others = jobs()  # of tests that ran before
    report = bench("--redis-url", redis_url, "--namespace", mill.namespace, env=mill.env)
    check(report, children=len(mill.worker.children))
    assert report["memory_mb"] is None
    assert jobs() <= others


def test_more_requests_than_bulk_work_lasts_are_refused_with_the_way_out(monkeypatch):
    from embedmill.errors import InvalidRequestError
    from embedmill.testing import FakeEmbeddingClient
    from embedmill_worker.cli.measure.load import saturating

    with pytest.raises(InvalidRequestError, match="send fewer requests"), saturating(FakeEmbeddingClient(), texts=3):
        pass
