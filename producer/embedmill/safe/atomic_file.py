"""Files that become visible only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, folder: Path | None = None, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` if the block succeeds, and is removed otherwise.

    Content and name are flushed to disk before this returns.

    Args:
        path: the file to replace.
        folder: folder of the temporary file, in the same file system; None: that of ``path``.
        mode: permissions of the file; None: those of any new file, by the umask.

    Raises:
        OSError: the file cannot be created, written or renamed.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder or path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(_usual_mode() if mode is None else mode)
        Path(name).replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _usual_mode() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
