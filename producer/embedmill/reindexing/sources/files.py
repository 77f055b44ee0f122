"""The base class of sources that read one file, and the reading of files that are one text each."""

from __future__ import annotations

import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import STDIN, UNFIT, UNREADABLE, Reading, rest_lost, undecodable
from embedmill.reindexing.sources.streams import buffered, decompressed, utf8
from embedmill.safe.printable import printable
from embedmill.safe.regular_file import open_regular

#: Bytes of one document.
MAX_DOCUMENT_BYTES: Final = 16 << 20


class FileSource(ABC):
    """A source that reads one file or standard input, and decompresses it if necessary."""

    def __init__(self, path: str, name: str, reading: Reading) -> None:
        """Check the file.

        Raises:
            SourceError: it cannot be read.
            InvalidRequestError: it does not fit the options, for example it lacks a field.
        """
        #: Prefix of the ids of records without an id.
        self.name = name
        self.path = path
        self.reading = reading
        self.notes: list[str] = []
        #: Whether records have an id field, as far as the beginning of the file shows.
        self.has_ids = False
        #: Size of the file; 0 if unknown.
        self.n_bytes = 0
        #: Encoding of the file, for messages.
        self.encoding = "utf-8"
        self._read_bytes = 0
        self._raw: IO[bytes] | None = None
        if path != STDIN:
            with self.opened() as stream:
                self.check(stream)

    def check(self, stream: io.BufferedReader) -> None:  # noqa: B027  most forms have nothing to check
        """Check the beginning of the file. ``records`` gets another stream, from the start of the file.

        Raises:
            InvalidRequestError: its records have no text.
        """

    @abstractmethod
    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Return the records of the open file, whose bytes are UTF-8."""

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Open the file and yield its records; if reading fails, yield a BadRecord for the rest as the last item."""
        try:
            with self.opened() as stream:
                yield from self.records(stream)
        except SourceError as error:
            yield rest_lost(self.name, f"{error.reason}; only the records before it are read")

    @property
    def origins(self) -> dict[str, str]:
        """Prefix of ids that are positions → path of the file."""
        return {} if self.has_ids or self.path == STDIN else {self.name: os.path.realpath(self.path)}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """The way in which the file is read."""
        return [self.reading.way(self.path, type(self).__name__.lower())]

    def fraction(self) -> float | None:
        """Return the share of the file's bytes that has been read."""
        if not self.n_bytes:
            return None
        if self._raw is not None and not self._raw.closed:
            self._read_bytes = self._raw.tell()
        return min(1.0, self._read_bytes / self.n_bytes)

    @contextmanager
    def opened(self) -> Iterator[io.BufferedReader]:
        """Open the file as a stream of UTF-8."""
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
    """Turn OSError and EOFError into SourceError."""
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(name, f"cannot be read: {reason}") from None


def read_document(
    opening: Callable[[], io.BufferedReader], id: str, encoding: str, metadata: Mapping[str, Any]
) -> Record | BadRecord:
    """Return the text that a file is as a whole, or why there is none.

    Args:
        opening: opens it; its OSError, EOFError or SourceError, or that of a read, is why there is none.
        id: its path, as the record's id has it.
        encoding: that of a file without a byte order mark.
        metadata: carried along.
    """
    name = printable(id)
    if name != id:
        return _unnamable(name, "control characters, and what is not UTF-8, cannot stand in an id")
    try:
        with mapped(id), opening() as raw:
            stream, encoding = utf8(decompressed(raw, id), id, encoding)
            data = stream.read(MAX_DOCUMENT_BYTES + 1)
    except SourceError as error:
        return _unread(id, error.reason)
    if len(data) > MAX_DOCUMENT_BYTES:
        return _unread(id, f"is longer than {MAX_DOCUMENT_BYTES >> 20} MiB; make several files of it")
    try:
        return Record(id=id, text=data.decode("utf-8-sig"), metadata=metadata)
    except UnicodeDecodeError:
        return undecodable(Record(id=id, text=""), id, encoding)
    except InvalidRequestError as error:
        return _unnamable(id, error.reason)


def _unread(id: str, why: str) -> BadRecord:
    # Its id is known: it is there, and must not be taken for deleted.
    return BadRecord(id=id, reason=UNREADABLE, detail=f"{id} {why}", is_anonymous=False)


def _unnamable(id: str, why: str) -> BadRecord:
    # No record can ever have had such an id, so it stands for none that may be missing.
    return BadRecord(id=id, reason=UNFIT, detail=f"{id}: {why}; rename the file", is_anonymous=False)
