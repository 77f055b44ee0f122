"""The health file, its judgement and the stall watch."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill_worker import exit_codes, health
from embedmill_worker.cli import main
from embedmill_worker.health import Health
from embedmill_worker.service.liveness import OVERDUE_AFTER_S, STALL_AFTER_S, Beat, StallWatch

REPOSITORY = Path(__file__).resolve().parents[3]
WELL = Health(pid=os.getpid(), state="ready", beat_at_s=100.0, reached_at_s=100.0)


def test_a_worker_is_ready_that_beats_and_reaches_redis():
    assert health.judge_live(WELL, 101).is_well
    assert health.judge_ready(WELL, 101).is_well


def test_a_worker_without_redis_is_live_but_not_ready():
    cut_off = dataclasses.replace(WELL, beat_at_s=200.0)
    assert health.judge_live(cut_off, 201).is_well
    assert not health.judge_ready(cut_off, 201).is_well


@pytest.mark.parametrize("probe", [health.judge_live, health.judge_ready])
@pytest.mark.parametrize("changed", [{"state": "stalled"}, {"beat_at_s": 50.0}])
def test_a_frozen_or_stalled_worker_is_neither(probe, changed):
    assert not probe(dataclasses.replace(WELL, **changed), 100).is_well


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_a_worker_that_loads_or_stops_is_left_alone_but_takes_no_work(state):
    busy = dataclasses.replace(WELL, state=state)
    assert health.judge_live(busy, 1000).is_well
    assert not health.judge_ready(busy, 1000).is_well


def test_what_is_written_is_read(tmp_path):
    health.write(tmp_path / "h", WELL)
    assert health.read(tmp_path / "h") == WELL
    assert [path.name for path in tmp_path.iterdir()] == ["h"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"pid": "1", "state": "ready", "beat_at_s": 1}'])
def test_a_file_that_no_worker_wrote_is_none(tmp_path, content):
    (tmp_path / "h").write_bytes(content)
    assert health.read(tmp_path / "h") is None


def test_the_probe_ends_with_named_codes(tmp_path, monkeypatch, capsys):
    path = tmp_path / "h"
    assert main(["health"]) == exit_codes.SETTINGS
    monkeypatch.setenv("EMBEDMILL_HEALTH_FILE", str(path))
    assert main(["health"]) == exit_codes.UNHEALTHY
    now_s = health.now_s()
    health.write(path, dataclasses.replace(WELL, beat_at_s=now_s, reached_at_s=now_s))
    assert main(["health", "--live"]) == exit_codes.OK
    assert main(["health", "--ready", "--json"]) == exit_codes.OK
    assert '"ok": true' in capsys.readouterr().out
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    health.write(path, dataclasses.replace(WELL, pid=gone.pid, beat_at_s=now_s, reached_at_s=now_s))
    assert main(["health", "--live"]) == exit_codes.UNHEALTHY


def test_the_probe_loads_neither_client_nor_worker():
    code = (
        "import sys; from embedmill_worker.cli import main; main(['health', '--file', '/nowhere']);"
        "print([m for m in ('embedmill', 'numpy', 'redis', 'celery', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_documented_exit_codes_are_those_of_the_code():
    page = (
        (REPOSITORY / "docs" / "operations.md").read_text("utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| +(\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exit_codes.MEANINGS
    names = [name for name, value in vars(exit_codes).items() if name.isupper() and type(value) is int]
    assert sorted(getattr(exit_codes, name) for name in names) == sorted(exit_codes.MEANINGS)


def test_help_lists_every_exit_code(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code:3d}  {meaning}" in text


def beat(at_s, **changed):
    values = {"children": 2, "begun": 5, "active": {}, "taken": 0, "waiting": 3, **changed}
    return Beat(at_s=at_s, **values)


def verdicts(*beats):
    watch = StallWatch()
    return [bool(watch.check(each)) for each in beats]


def test_a_worker_that_begins_nothing_while_work_waits_is_stalled():
    assert verdicts(*(beat(t) for t in range(0, 20, 2)))[-1]
    assert not any(verdicts(*(beat(t) for t in range(0, int(STALL_AFTER_S), 2))))


def test_messages_that_frozen_children_were_given_count_as_waiting():
    assert verdicts(*(beat(t, waiting=0, taken=1) for t in range(0, 20, 2)))[-1]


@pytest.mark.parametrize(
    "changed", [{"waiting": 0}, {"waiting": None}, {"active": {"a": 0.0, "b": 0.0}}], ids=["idle", "no redis", "busy"]
)
def test_a_worker_with_nothing_to_begin_or_no_child_free_is_not(changed):
    assert not any(verdicts(*(beat(t, **changed) for t in range(0, 60, 2))))


def test_a_worker_that_begins_something_now_and_then_is_not():
    assert not any(verdicts(*(beat(t, begun=t // 10) for t in range(0, 60, 2))))


def test_a_task_far_beyond_its_time_limit_shows_a_stall():
    run = verdicts(*(beat(t, waiting=0, active={"a": 10.0}) for t in range(0, 30, 2)))
    assert run.index(True) * 2 > 10 + OVERDUE_AFTER_S
