"""Files of models and of the data folder: reading, hashing, atomic writing, and errors of the system."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

from filelock import FileLock

from embedmill.errors import ModelLoadError
from embedmill.safe.atomic_file import replacing
from embedmill.safe.regular_file import open_regular

#: Maximum bytes of a JSON file; tokenizers with the largest vocabularies take 35 MB.
_MAX_NOTE_BYTES: Final = 256 << 20

#: Error numbers of the system for missing rights.
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

#: Hint for a file of the data folder that cannot be used.
OWN_FOLDER: Final = "set EMBEDMILL_DATA_DIR to a folder of your own"

logger = logging.getLogger(__name__)


class StorageError(OSError):
    """A file of the data folder cannot be written. Arguments: errno, the system's reason, the file."""

    def __str__(self) -> str:
        first = "" if _is_refusal(self) else "fix that, or "
        folder = "a folder that you may write" if _is_refusal(self) else "another folder"
        return f"{self.filename} cannot be written: {self.strerror}; {first}set EMBEDMILL_DATA_DIR to {folder}"


def _is_refusal(error: BaseException) -> bool:
    """Return whether the system refused something because of missing rights."""
    return isinstance(error, OSError) and error.errno in _NO_RIGHT


@contextmanager
def told(model: str, *, instead: str = "name another folder") -> Iterator[None]:
    """Turn an OSError about a model's files into a ModelLoadError, which names the file and gives a hint.

    Args:
        model: name of the model, for errors.
        instead: hint for a file that cannot be used.
    """
    try:
        yield
    except OSError as error:
        raise ModelLoadError(model, _reason(error, instead)) from error


def _reason(error: OSError, instead: str) -> str:
    if isinstance(error, StorageError) or error.filename is None:
        return str(error)
    hint = f"let user id {os.geteuid()} read it and enter its folders" if _is_refusal(error) else "restore it"
    return f"{error.filename} cannot be read: {error.strerror}; {hint}, or {instead}"


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing to the data folder into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(error.errno or 0, error.strerror or str(error), str(error.filename or path)) from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in the data folder, for one process at a time; create the folder if it is missing.

    Raises:
        StorageError: the folder cannot be created, or its lock cannot be written.
    """
    lock = FileLock(folder / ".lock")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def exists(path: Path) -> bool:
    """Return whether a path exists.

    Raises:
        OSError: this process may not check it. From Python 3.14 on, pathlib returns False in that case.
    """
    return _mode(str(path)) != 0


def is_file(path: Path) -> bool:
    """Return whether a path is an ordinary file.

    Raises:
        OSError: this process may not check it.
    """
    return stat.S_ISREG(_mode(str(path)))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder.

    Raises:
        OSError: this process may not check or enter it.
    """
    return stat.S_ISDIR(_mode(str(path))) and stat.S_ISDIR(_mode(f"{path}/."))


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116  pathlib removes the dot
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return 0


def sha256_of(*paths: Path) -> str:
    """Return the sha256 of one file, or the sha256 over those of several; about 0.1 s for 100 MB.

    Each process reads a file once, unless its size, times or inode change.

    Raises:
        OSError: a file cannot be read.
    """
    digests = []
    for path in paths:
        at = path.stat()
        digests.append(_sha256_at(path, (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)))
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256_at(path: Path, _state: tuple[int, ...]) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file reads as an empty one.

    Raises:
        ValueError: the file is not a JSON object, or too large.
        OSError: the file cannot be read.
    """
    try:
        value = json.loads(read_note(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def read_note(path: Path) -> bytes:
    """Read a small file whole. A pipe or device, which might never end, is refused.

    Raises:
        ValueError: it is not an ordinary file, or too large.
        OSError: the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not an ordinary file")
        if status.st_size > _MAX_NOTE_BYTES:
            raise ValueError(f"{path} has {status.st_size} bytes, limit {_MAX_NOTE_BYTES}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_NOTE_BYTES)
    finally:
        os.close(descriptor)


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path, with links resolved, is inside a folder."""
    return path.resolve().is_relative_to(folder.resolve())


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces ``path`` if no error occurs; create its folder if it is missing.

    Raises:
        StorageError: the file cannot be written.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, mode=0o644) as file:
            yield file


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content atomically.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content)


def keep(path: Path, content: bytes) -> None:
    """Write a file that only saves work at the next start; if it cannot be written, log a warning."""
    try:
        write_atomically(path, content)
    except OSError as error:
        logger.warning(
            "results cannot be kept, so the next start computes them again: %s", error, extra={"action": "keep"}
        )
