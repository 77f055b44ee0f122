"""Files that are visible only when whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, folder: Path | None = None, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` that takes its place when all went well, and is removed otherwise.

    What has taken its place is on the disk, and so is its name.

    Args:
        path: the file.
        folder: where the new one lies until then, in the same file system; None: beside it.
        mode: who may read and write it; None: whoever may do so with other new files.

    Raises:
        OSError: there can be no such file, or no more of it.
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
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
