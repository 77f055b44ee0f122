"""Files of ``embed``: inputs, read a window of texts at a time, and outputs, which appear only when complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

from embedmill.errors import InvalidRequestError
from embedmill.protocol.vectors import Dtype, Vectors, blank
from embedmill.reindexing import Fields, Record, open_source
from embedmill.reindexing.sinks.row_formats import json_line, json_rows, write_npy_header, write_npy_rows
from embedmill.reindexing.sources.base import batches
from embedmill.reply import Rejected
from embedmill.safe import atomic_file
from embedmill.safe.utf8 import is_unicode

#: Most texts and characters in one window. A job could hold 65,536 texts, but two windows are in memory at a time.
WINDOW_TEXTS: Final = 8_192
WINDOW_CHARS: Final = 16_000_000

#: Placeholder for a text that could not be read: a lone surrogate, which the client rejects without sending it.
UNREADABLE: Final = "\udfff"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line of input that holds no text."""

    detail: str


class Texts:
    """The texts of files, one after the other, read as ``reindex`` reads them."""

    def __init__(
        self, paths: Sequence[str], *, form: str, key: str, delimiter: str | None = None, encoding: str | None = None
    ) -> None:
        """Open all files, so that a wrong name is found before any work is done.

        Args:
            paths: files, or ``-`` for stdin.
            form: ``auto``, or the name of a format.
            key: field that holds the text, in formats that have fields.
            delimiter: character between the fields of CSV.
            encoding: encoding of files without a byte order mark.

        Raises:
            SourceError: a file cannot be read.
            InvalidRequestError: a file cannot be read with these arguments.
        """
        #: Reasons why parts of the files could not be read.
        self.unread: list[str] = []
        fields = Fields(text=key, id="", metadata=())
        self._source = open_source(paths, form=form, fields=fields, delimiter=delimiter, encoding=encoding)

    def __iter__(self) -> Iterator[str | Unreadable]:
        """Yield the texts; for a line that holds none, why."""
        for item in self._source:
            if isinstance(item, Record):
                yield item.text
            elif item.is_partial:
                self.unread.append(item.detail)
            else:
                yield Unreadable(item.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive texts of the input."""

    #: Position of the first text in the whole input.
    start: int
    texts: list[str] = field(repr=False)
    #: Position in ``texts`` → why that text could not be read.
    problems: dict[int, str]


def windows(texts: Iterable[str | Unreadable]) -> Iterator[Window]:
    """Cut the input into windows that fit into memory."""
    start = 0
    for batch in batches(texts, _chars, most=WINDOW_TEXTS, most_size=WINDOW_CHARS):
        problems = {i: text.detail for i, text in enumerate(batch) if isinstance(text, Unreadable)}
        known = [UNREADABLE if isinstance(text, Unreadable) else text for text in batch]
        yield Window(start=start, texts=known, problems=problems)
        start += len(batch)


def _chars(text: str | Unreadable) -> int:
    return 1 if isinstance(text, Unreadable) else len(text)


class Output(Protocol):
    """A file or stream that rows are written to."""

    def write(self, start: int, texts: Sequence[str], vectors: Vectors, rejected: Sequence[Rejected]) -> None:
        """Write the rows of a window.

        Args:
            start: position of the first text in the whole input.
            texts: (n,).
            vectors: (n, columns).
            rejected: texts without a vector, by position in the window.
        """

    def finish(self) -> None:
        """Complete the file."""


class JsonLines:
    """JSON lines, one for each text: ``index`` with ``embedding``, or with ``rejected`` and ``detail``."""

    def __init__(self, stream: IO[str], *, with_text: bool) -> None:
        self._stream = stream
        self._with_text = with_text

    def write(self, start: int, texts: Sequence[str], vectors: Vectors, rejected: Sequence[Rejected]) -> None:
        """Write one line for each text."""
        lost = {r.index: r for r in rejected}
        for i, (text, row) in enumerate(zip(texts, json_rows(vectors), strict=True)):
            fields = {"index": str(start + i)}
            if self._with_text and is_unicode(text):
                fields["text"] = json.dumps(text)
            if i in lost:
                fields |= {"rejected": json.dumps(lost[i].reason), "detail": json.dumps(lost[i].detail)}
            else:
                fields["embedding"] = row
            self._stream.write(json_line(fields))

    def finish(self) -> None:
        """Flush the stream."""
        self._stream.flush()


class NpyFile:
    """An array (n, columns) in numpy's format; rows without a vector are NaN, or zeros for integers."""

    def __init__(self, stream: IO[bytes], dtype: Dtype) -> None:
        self._stream = stream
        self._dtype = dtype
        self._rows = 0
        self._columns = 0
        self._write_header()
        self._data_at = stream.tell()

    def write(self, start: int, texts: Sequence[str], vectors: Vectors, rejected: Sequence[Rejected]) -> None:
        """Append the rows."""
        if vectors.shape[1] and not self._columns:
            # The number of columns was unknown while no window had a vector.
            self._columns = vectors.shape[1]
            for _ in range(self._rows):
                write_npy_rows(self._stream, self._dtype, self._blank(1))
        if self._columns:
            rows = vectors if vectors.shape[1] else self._blank(len(texts))
            write_npy_rows(self._stream, self._dtype, rows)
        self._rows += len(texts)

    def finish(self) -> None:
        """Write the final shape into the header."""
        self._stream.seek(0)
        self._write_header()
        if self._stream.tell() != self._data_at:
            raise OSError(f"the header for {self._rows} rows does not fit")

    def _blank(self, count: int) -> Vectors:
        return blank(count, self._dtype, self._columns * (8 if self._dtype is Dtype.BINARY else 1))

    def _write_header(self) -> None:
        write_npy_header(self._stream, self._dtype, self._rows, self._columns)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces ``path`` if the block ends without an error.

    Raises:
        InvalidRequestError: the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(atomic_file.replacing(path))
        except OSError as error:
            raise InvalidRequestError("--output", f"{path} cannot be written: {error.strerror}") from None
        yield stream
