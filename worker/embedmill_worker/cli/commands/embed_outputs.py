"""Vectors as JSONL or as one .npy file, written as they come and visible only when whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from embedmill.errors import InvalidRequestError
from embedmill.protocol.vectors import Dtype, Vectors, blank, row_format
from embedmill.reply import Rejected
from embedmill.safe import atomic_file
from embedmill.safe.utf8 import is_unicode


class Output(Protocol):
    """Where rows go."""

    def write(self, start: int, texts: Sequence[str], vectors: Vectors, rejected: Sequence[Rejected]) -> None:
        """Take the rows of a window.

        Args:
            start: position of its first text in the input.
            texts: (n,)
            vectors: (n, columns)
            rejected: by position in the window.
        """

    def finish(self) -> None:
        """Write what remains."""


class JsonLines:
    """One JSON object a text: ``index`` and ``embedding``, or ``rejected`` and ``detail``."""

    def __init__(self, stream: IO[str], *, with_text: bool) -> None:
        self._stream = stream
        self._with_text = with_text

    def write(self, start: int, texts: Sequence[str], vectors: Vectors, rejected: Sequence[Rejected]) -> None:
        """Write a line a text."""
        lost = {r.index: r for r in rejected}
        form = row_format(vectors)
        for i, text in enumerate(texts):
            shown = f', "text": {json.dumps(text)}' if self._with_text and is_unicode(text) else ""
            if i in lost:
                why = f'"rejected": {json.dumps(lost[i].reason)}, "detail": {json.dumps(lost[i].detail)}'
                self._stream.write(f'{{"index": {start + i}{shown}, {why}}}\n')
            else:
                row = form % tuple(vectors[i].tolist())
                self._stream.write(f'{{"index": {start + i}{shown}, "embedding": [{row}]}}\n')

    def finish(self) -> None:
        """Nothing remains but what the stream holds."""
        self._stream.flush()


class NpyFile:
    """One array (n, columns) in numpy's format; rows without a vector are NaN, or zeros in integers."""

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
            # Windows before this one may have had no vector at all.
            self._columns = vectors.shape[1]
            for _ in range(self._rows):
                self._stream.write(self._blank(1))
        if self._columns:
            rows = vectors if vectors.shape[1] else self._blank(len(texts))
            self._stream.write(np.ascontiguousarray(rows, dtype=self._dtype.numpy).data)
        self._rows += len(texts)

    def finish(self) -> None:
        """Put the shape into the header."""
        self._stream.seek(0)
        self._write_header()
        if self._stream.tell() != self._data_at:
            raise OSError(f"the header of {self._rows} rows does not fit")

    def _blank(self, count: int) -> Any:
        return blank(count, self._dtype, self._columns * (8 if self._dtype is Dtype.BINARY else 1)).data

    def _write_header(self) -> None:
        shape = (self._rows, self._columns)
        fields = {"descr": self._dtype.numpy.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, fields)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` when all went well.

    Raises:
        InvalidRequestError: there can be no such file.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(atomic_file.replacing(path))
        except OSError as error:
            raise InvalidRequestError("output", f"{path} cannot be written: {error.strerror}") from None
        yield stream
