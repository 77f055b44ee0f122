"""Reading files that are files: a pipe or a device in their place might never end, and is never waited for."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

#: Opening a pipe that nobody writes to returns at once.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, links followed.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    check_regular(path)  # a device may act on being opened
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """Read a small regular file whole.

    Raises:
        OSError: it cannot be read, is no regular file, or holds more than ``limit`` bytes.
    """
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def check_regular(path: Path) -> None:
    """Raise OSError unless there is a regular file: for libraries that open files themselves."""
    _check(path.stat().st_mode, path)


def _check(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
