"""Files read from their beginning, byte by byte accounted for."""

from __future__ import annotations

import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from embedmill.errors import SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import STDIN, Reading, rest_lost
from embedmill.reindexing.sources.streams import buffered, decompressed, utf8
from embedmill.safe.regular_file import open_regular


class FileSource(ABC):
    """One file, or standard input; what is compressed is read as what it holds."""

    def __init__(self, path: str, name: str, reading: Reading) -> None:
        """Look at the file.

        Raises:
            SourceError: it cannot be read.
            InvalidRequestError: it can, but not so.
        """
        #: Begins the ids of records that name none.
        self.name = name
        self.path = path
        self.reading = reading
        self.notes: list[str] = []
        #: Records name themselves by an id, as far as the file's beginning shows.
        self.has_ids = False
        #: Bytes on the disk; 0: nobody knows.
        self.n_bytes = 0
        #: What the file's bytes were, for messages.
        self.encoding = "utf-8"
        self._read_bytes = 0
        self._raw: IO[bytes] | None = None
        if path != STDIN:
            with self.opened() as stream:
                self.check(stream)

    def check(self, stream: io.BufferedReader) -> None:  # noqa: B027  most forms have nothing to look at
        """Look at how the file begins, before anything is done; what is taken from the stream does not count.

        Raises:
            InvalidRequestError: its records have no text.
        """

    @abstractmethod
    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Return the records of the open file, whose bytes are UTF-8."""

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Open the file and read it; where it cannot be read on, that is the last thing it gives."""
        try:
            with self.opened() as stream:
                yield from self.records(stream)
        except SourceError as error:
            yield rest_lost(self.name, f"{error.reason}; only what comes before is read")

    @property
    def origins(self) -> dict[str, str]:
        """What ids made of places begin with, and where the file is."""
        return {} if self.has_ids or self.path == STDIN else {self.name: os.path.realpath(self.path)}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How it is read."""
        return [self.reading.way(self.path, type(self).__name__.lower())]

    def fraction(self) -> float | None:
        """Return the share of its bytes that has been read."""
        if not self.n_bytes:
            return None
        if self._raw is not None and not self._raw.closed:
            self._read_bytes = self._raw.tell()
        return min(1.0, self._read_bytes / self.n_bytes)

    @contextmanager
    def opened(self) -> Iterator[io.BufferedReader]:
        """Open the file, to be read as UTF-8."""
        with mapped(self.name), ExitStack() as stack:
            if self.path == STDIN:
                raw = buffered(sys.stdin.buffer)
                stack.callback(raw.detach)
            else:
                self._raw = raw = stack.enter_context(open_regular(Path(self.path)))
                self.n_bytes = os.fstat(raw.fileno()).st_size
            stream, self.encoding = utf8(decompressed(raw, self.name), self.name, self.reading.encoding)
            yield stream
            self._read_bytes = self.n_bytes


@contextmanager
def mapped(name: str) -> Iterator[None]:
    """Turn the system's errors into SourceError."""
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(name, f"cannot be read: {reason}") from None
