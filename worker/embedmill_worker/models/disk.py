"""Digests and small files on disk, written so that a crash leaves the old or the new, never half."""

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from embedmill.safe.regular_file import open_regular
from embedmill_worker.models.access import storing

#: Most bytes of a JSON file; the tokenizers of the largest vocabularies take 35 MB.
_MAX_NOTE_BYTES = 256 << 20

logger = logging.getLogger(__name__)


def sha256_of(*paths: Path) -> str:
    """Returns the sha256 of one file, or one over those of several; about 0.1 s for 100 MB.

    A file is read once a process unless its size, times or inode change.

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
    """Reads a JSON object; a file that is not there reads as an empty one.

    Raises:
        ValueError: the file is not a JSON object, or too large for one.
        OSError: it cannot be read.
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
    """Reads a small file whole. A pipe or a device in its place, which might never end, is not read.

    Raises:
        ValueError: it is no ordinary file, or too large.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no ordinary file")
        if status.st_size > _MAX_NOTE_BYTES:
            raise ValueError(f"{path} has {status.st_size} bytes, limit {_MAX_NOTE_BYTES}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_NOTE_BYTES)
    finally:
        os.close(descriptor)


def is_inside(path: Path, folder: Path) -> bool:
    """Tells whether a path leads into a folder, links followed."""
    return path.resolve().is_relative_to(folder.resolve())


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be written beside its place, synced and renamed there at the end; gone if anything fails.

    Raises:
        StorageError: it cannot be written.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a whole file in the same way.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content)


def keep(path: Path, content: bytes) -> None:
    """Write what only spares work at the next start: where it cannot be written, a warning is all."""
    try:
        write_atomically(path, content)
    except OSError as error:
        logger.warning("what was learnt cannot be kept: %s", error, extra={"action": "keep"})
