"""A local Valkey (or Redis) server as a child process: what `embedmill up`, the demo and the tests run on.

It listens on a unix socket only. The server itself holds the lock on its folder, so the lock lives exactly
as long as the server does, and two servers can never write one append-only file.
"""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self, TypeVar
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from embedmill.errors import SettingsError
from embedmill_worker.cli.local.die_with_parent import tethered
from embedmill_worker.cli.local.folder_lock import locked, note_owners
from embedmill_worker.cli.local.server_binary import find_binary

_log = logging.getLogger(__name__)

#: What keeps a server from logging commands with the first 128 bytes of each argument: slow ones, large ones (from
#: Valkey 8.1 on), and the one under which it crashed.
_DISCRETION = {
    "slowlog-log-slower-than": "-1",
    "commandlog-request-larger-than": "-1",
    "commandlog-reply-larger-than": "-1",
    "hide-user-data-from-log": "yes",
}

_T = TypeVar("_T")

#: Longest path of a unix socket in bytes that every platform takes (Linux 107, macOS 103).
MAX_SOCKET_PATH_BYTES = 103

#: The socket's name in its folder.
_SOCKET = "valkey.sock"

#: Bytes the data may take: a quarter of the smallest machine that counts, so that a rewrite of the file fits too.
DEFAULT_MAXMEMORY_BYTES = 512 * 1024 * 1024


class EmbeddedValkey:
    """A server that lives no longer than this process.

    Args:
        folder: where the data lives if persistent; else where the temporary folder is made (None: the system's).
        persistent: append-only file in `folder`, synced every second; else nothing outlives `stop`.
        maxmemory_bytes: what the data may take; beyond it writes are refused, nothing is evicted.

    Raises:
        SettingsError: there is no server binary, or `folder` is missing though persistent.
    """

    def __init__(
        self, folder: Path | None = None, *, persistent: bool, maxmemory_bytes: int = DEFAULT_MAXMEMORY_BYTES
    ) -> None:
        if persistent and folder is None:
            raise SettingsError("folder", "None", "a persistent server needs a folder to keep its data in")
        self._binary = find_binary()
        self._parent_folder = folder
        self._persistent = persistent
        self._maxmemory_bytes = maxmemory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._socket: Path | None = None
        self._temporary: list[Path] = []

    @property
    def folder(self) -> Path:
        """Where the data and the log are."""
        return _started(self._folder)

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return _started(self._socket)

    @property
    def url(self) -> str:
        """A URL for `redis.Redis.from_url`."""
        return f"unix://{quote(str(self.socket))}?db=0"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return _started(self._process).pid

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, timeout_s: float = 60.0) -> None:
        """Starts the server and waits until it answers; nothing happens if it runs already.

        Raises:
            SettingsError: the folder cannot be written, another server uses it, or this one did not start; its last
                words are shown.
        """
        if self.alive:
            return
        try:
            with self._storing():
                self._lay_out()
            self._process = self._spawn()
            self._wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise
        _log.info("embedded server is ready", extra={"action": "valkey_started", "pid": self.pid})

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stops the server, by force after `timeout_s`, and removes whatever was temporary."""
        self._end(timeout_s)
        self._process = self._folder = self._socket = None
        while self._temporary:
            shutil.rmtree(self._temporary.pop(), ignore_errors=True)

    def kill(self) -> None:
        """Kills the server as a crash would; `restart` brings it back over the same folder."""
        process = _started(self._process)
        process.kill()
        process.wait()

    def restart(self, timeout_s: float = 10.0) -> None:
        """Starts the server again over the same folder and socket, after ending it if it runs."""
        self._end(timeout_s)
        self.start()

    def pause(self) -> None:
        """Freezes the server: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, timeout_s: float) -> None:
        if self._process is None or not self.alive:
            return
        self._process.terminate()
        self.resume()  # a frozen process takes no SIGTERM
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def _lay_out(self) -> None:
        if self._folder is not None:
            return
        if self._persistent and self._parent_folder is not None:
            self._parent_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder = self._parent_folder.resolve()
        else:
            self._folder = self._make_temporary(self._parent_folder)
        socket = self._folder / _SOCKET
        self._socket = socket if _is_short(socket) else self._make_short()

    def _make_short(self) -> Path:
        """Return a socket's path in a temporary folder that is short enough for it, wherever one can be made."""
        for parent in (None, *map(Path, (os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "/tmp", "/var/tmp"))):  # noqa: S108
            with suppress(OSError):
                socket = self._make_temporary(parent) / _SOCKET
                if _is_short(socket):
                    return socket
        n_bytes, folder = len(os.fsencode(self._make_temporary(None) / _SOCKET)), tempfile.gettempdir()
        reason = f"a socket's path there has {n_bytes} bytes, limit {MAX_SOCKET_PATH_BYTES}; set it to a shorter folder"
        variable = "TMPDIR"
        raise SettingsError(variable, folder, reason)

    def _make_temporary(self, parent: Path | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="embedmill-", dir=parent)).resolve()
        self._temporary.append(folder)
        return folder

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "maxmemory": str(self._maxmemory_bytes),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": "everysec",
        }
        return [str(self._binary), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self._storing():
            lock = locked(self.folder / "valkey.lock")
        try:
            with self._log_file() as log:
                process = subprocess.Popen(
                    tethered(self._arguments()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a terminal's Ctrl-C must reach the clients before the server
                    pass_fds=[lock],
                )
            note_owners(lock, process.pid)
        finally:
            os.close(lock)  # from here on the server alone holds it
        return process

    def _log_file(self) -> BinaryIO:
        with self._storing():
            return (self.folder / "valkey.log").open("ab")

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn what the system refuses over the folder into SettingsError."""
        try:
            yield
        except OSError as error:
            variable = "EMBEDMILL_DATA_DIR" if self._persistent else "TMPDIR"
            reason = f"cannot be written: {error.strerror}; set {variable} to a folder that you may write"
            raise SettingsError("folder", str(error.filename or self._parent_folder), reason) from None

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        once = Retry(NoBackoff(), retries=0)
        with Redis(unix_socket_path=str(self.socket), socket_timeout=1.0, retry=once) as redis:
            while self.alive and time.monotonic() < deadline:
                try:
                    redis.ping()
                    _forget_arguments(redis)
                    return
                except (RedisConnectionError, RedisTimeoutError):  # not listening yet, or still loading its file
                    time.sleep(0.01)
        what = f"did not answer within {timeout_s:.0f} s" if self.alive else "ended while starting"
        raise SettingsError("folder", str(self.folder), f"the embedded server {what}; it said: {self._last_words()}")

    def _last_words(self, lines: int = 5) -> str:
        log = (self.folder / "valkey.log").read_text(errors="replace")
        return " | ".join(log.splitlines()[-lines:]) or "nothing"


def _is_short(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES


def _forget_arguments(redis: Redis) -> None:
    """Switch off the logs of commands, which hold texts; no server has all of them."""
    for name, value in _DISCRETION.items():
        with suppress(ResponseError):
            redis.config_set(name, value)


def _started(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("the embedded server is not started")
    return value
