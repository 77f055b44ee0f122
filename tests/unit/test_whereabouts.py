"""The file by which `embedmill up` is found: exactly what it holds, and all that is odd in it counts for nothing."""

import json
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import AsyncEmbeddingClient, EmbeddingClient, signature
from embedmill.model_spec import ModelSpec
from embedmill.settings import DEFAULT_NAMESPACE, DEFAULT_REDIS_URL, ClientSettings
from embedmill.whereabouts import FILE_NAME, MAX_BYTES, Whereabouts, started
from embedmill_worker.cli.commands.up import Notice
from embedmill_worker.settings import WorkerSettings

KNOWN = {
    "redis_url": "unix:///run/v.sock?db=0",
    "namespace": "mill",
    "models": ["a", "b=/models/b"],
    "pid": os.getpid(),
    "started": started(os.getpid()),
}


def put(folder, *, mode=0o600, **changes):
    """Writes the file by hand."""
    path = folder / FILE_NAME
    path.write_text(json.dumps({name: value for name, value in (KNOWN | changes).items() if value is not ...}))
    path.chmod(mode)
    return path


def dead_pid():
    """The id of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def own(**values):
    """What an `up` of this process says."""
    return Whereabouts(namespace="n", pid=os.getpid(), started=started(os.getpid()), **values)


def test_what_is_written_is_read_and_is_of_this_user_alone(tmp_path):
    written = own(redis_url="redis://:secret@h/0", models=("a", "b=/b"))
    written.write(tmp_path)
    path = tmp_path / "up.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(json.loads(path.read_text())) == {"redis_url", "namespace", "models", "pid", "started"}
    assert Whereabouts.read(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["up.json"]
    written.remove(tmp_path)
    assert not path.exists()
    written.remove(tmp_path)


def test_the_file_of_another_process_is_not_removed(tmp_path):
    path = put(tmp_path, pid=os.getppid())
    own(redis_url="redis://h/0", models=()).remove(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"redis_url": "http://h"},
        {"redis_url": ...},
        {"redis_url": 7},
        {"redis_url": "redis://h/" + "0" * 9_000},
        {"redis_url": "unix:///run/a\x1b[2J"},
        {"namespace": ["mill"]},
        {"namespace": ""},
        {"models": "a"},
        {"models": [7]},
        {"models": ["a"] * 1_000},
        {"pid": "1"},
        {"pid": True},
        {"pid": 0},
        {"pid": -1},
        {"pid": 10**30},
        {"pid": 1.0},
        {"pid": ...},
        {"started": ...},
        {"started": -1},
        {"started": "1"},
        {"started": 1},  # another process had this id
        {"mode": 0o666},
        {"mode": 0o620},
        {"extra": "x" * MAX_BYTES},
    ],
    ids=str,
)
def test_what_is_odd_counts_for_nothing(tmp_path, changes):
    put(tmp_path)
    assert Whereabouts.read(tmp_path) is not None
    put(tmp_path, **changes)
    assert Whereabouts.read(tmp_path) is None


def test_the_file_of_a_process_that_has_ended_counts_for_nothing(tmp_path):
    put(tmp_path, pid=dead_pid())
    assert Whereabouts.read(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_process_that_nobody_has_buried_has_ended_too(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    put(tmp_path, pid=process.pid)
    assert Whereabouts.read(tmp_path) is None
    process.wait()


@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b'{"pid": ' + b"9" * 10_000 + b"}", b"null", b"{}"]))
def test_no_bytes_are_a_traceback(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("odd")
    (folder / FILE_NAME).write_bytes(data)
    assert Whereabouts.read(folder) is None


def test_only_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / FILE_NAME, 0o600)
    assert Whereabouts.read(tmp_path) is None
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    assert Whereabouts.read(tmp_path) is None
    assert Whereabouts.read(tmp_path / "nowhere") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_user_s_file_counts_for_nothing(tmp_path):
    os.chown(put(tmp_path), 65_534, -1)
    assert Whereabouts.read(tmp_path) is None


def test_it_is_used_only_where_nothing_gives_a_url(tmp_path):
    env = {"EMBEDMILL_DATA_DIR": str(tmp_path)}
    assert ClientSettings.from_env(environ=env).redis_url == DEFAULT_REDIS_URL
    put(tmp_path)
    found = ClientSettings.from_env(environ=env)
    assert (found.redis_url, found.namespace, found.model) == (KNOWN["redis_url"], "mill", None)
    own = ClientSettings.from_env(environ={**env, "EMBEDMILL_NAMESPACE": "own"})
    assert (own.redis_url, own.namespace) == (KNOWN["redis_url"], "own")
    assert ClientSettings.from_env(namespace="arg", environ=env).namespace == "arg"
    for named in (
        ClientSettings.from_env("redis://arg/0", environ=env),
        ClientSettings.from_env(environ={**env, "EMBEDMILL_REDIS_URL": "redis://arg/0"}),
    ):
        assert (named.redis_url, named.namespace) == ("redis://arg/0", DEFAULT_NAMESPACE)
    assert WorkerSettings.from_env(env).redis_url == KNOWN["redis_url"]


def test_a_namespace_that_is_none_counts_for_nothing(tmp_path):
    put(tmp_path, namespace="a b")
    assert ClientSettings.from_env(environ={"EMBEDMILL_DATA_DIR": str(tmp_path)}) == ClientSettings()


@pytest.mark.parametrize("client", [EmbeddingClient, AsyncEmbeddingClient])
def test_clients_find_it_and_a_canvas_does_not(tmp_path, client, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    put(tmp_path)
    assert client().settings.redis_url == KNOWN["redis_url"]
    assert signature(["a"]).options["queue"] == f"{DEFAULT_NAMESPACE}.embed"


def test_a_url_that_cannot_work_is_named_by_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    put(tmp_path, redis_url="redis://host/0?no_such_option=1")
    with pytest.raises(ValueError, match=r"^up\.json=redis://host/0"):
        EmbeddingClient()


def test_a_model_s_path_is_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e5").mkdir()
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    for text, known in (
        ("mine=e5", f"mine={tmp_path}/e5"),
        ("./e5", f"e5={tmp_path}/e5"),
        (f"mine={tmp_path}/e5", f"mine={tmp_path}/e5"),
        *((name, name) for name in ("all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5", "mine=gone", "org/name@v1")),
    ):
        assert str(ModelSpec.parse(text).absolute()) == known


def notice(folder):
    """What an `up` of this process posts."""
    return Notice(WorkerSettings(redis_url="redis://mine/0", namespace="n", models=ModelSpec.parse_all("a")), folder)


def test_an_up_does_not_take_the_place_of_another_that_runs(tmp_path, capsys):
    put(tmp_path, pid=os.getppid(), started=started(os.getppid()))
    posted = notice(tmp_path)
    posted.post()
    posted.close()
    assert Whereabouts.read(tmp_path).redis_url == KNOWN["redis_url"]
    assert f"process {os.getppid()}" in capsys.readouterr().err

    put(tmp_path, pid=dead_pid())
    posted = notice(tmp_path)
    posted.post()
    assert Whereabouts.read(tmp_path).redis_url == "redis://mine/0"
    posted.close()
    assert not (tmp_path / FILE_NAME).exists()
