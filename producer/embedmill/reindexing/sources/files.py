"""Files read from their beginning, byte by byte accounted for."""

from __future__ import annotations

import gzip
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import IO, Final, cast

from embedmill.errors import SourceError
from embedmill.regular_file import open_regular
from embedmill.reindexing.record import BadRecord, Record

#: Stands for standard input.
STDIN: Final = "-"


class FileSource(ABC):
    """One file, or standard input; ``.gz`` is read as what it holds."""

    def __init__(self, path: str) -> None:
        """Look at the file.

        Raises:
            SourceError: it cannot be read.
        """
        self.name = "stdin" if path == STDIN else Path(path).name
        self.path = path
        #: Bytes on the disk; 0: nobody knows.
        self.n_bytes = 0 if path == STDIN else size_of(Path(path))
        self._read_bytes = 0
        self._raw: IO[bytes] | None = None

    @abstractmethod
    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """Give the records of the open file."""

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Open the file and read it."""
        with self._opened() as stream:
            yield from self.records(stream)

    def fraction(self) -> float | None:
        """Say how many of its bytes have been read."""
        if not self.n_bytes:
            return None
        if self._raw is not None and not self._raw.closed:
            self._read_bytes = self._raw.tell()
        return min(1.0, self._read_bytes / self.n_bytes)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.path == STDIN:
            yield sys.stdin.buffer
            return
        with mapped(self.name), open_regular(Path(self.path)) as raw:
            self._raw = raw
            if self.path.endswith(".gz"):
                with gzip.open(raw) as stream:
                    yield cast(IO[bytes], stream)
            else:
                yield raw
            self._read_bytes = self.n_bytes


def size_of(path: Path) -> int:
    """Give a file's size.

    Raises:
        SourceError: there is no such file, or it is none that can be read twice.
    """
    with mapped(str(path)):
        found = path.stat()
    if not S_ISREG(found.st_mode):
        raise SourceError(str(path), "is no regular file; a pipe is read as standard input, named -")
    return found.st_size


@contextmanager
def mapped(name: str) -> Iterator[None]:
    """Turn the system's errors into SourceError."""
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(name, f"cannot be read: {reason}") from None
