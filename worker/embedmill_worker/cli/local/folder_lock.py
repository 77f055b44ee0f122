"""A lock on a folder that lives as long as the process it is handed to."""

import fcntl
import os
import time
from pathlib import Path

from embedmill.errors import SettingsError

#: Seconds a folder's lock is waited for: a server whose parent was just killed needs a moment to go.
LOCK_WAIT_S = 2.0

#: Bytes of the file that hold the two process ids.
_NOTE_BYTES = 32


def locked(path: Path) -> int:
    """An open, locked file descriptor of `path`.

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


def note_owners(descriptor: int, server_pid: int) -> None:
    """Writes into the locked file who has it: this process and its server."""
    os.pwrite(descriptor, f"{os.getpid()} {server_pid}".encode().ljust(_NOTE_BYTES), 0)
