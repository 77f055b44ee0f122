"""CSV and TSV: a record a row, fields named by the first row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import IO, Final

from embedmill.errors import SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import Fields, bad
from embedmill.reindexing.sources.files import FileSource

#: Characters of one field; the module's own limit, which is for the whole process, would be 131,072.
MAX_FIELD_CHARS: Final = 16 << 20


class Csv(FileSource):
    """Quoted fields may hold line ends, so that a record's place is the line on which it ends."""

    def __init__(self, path: str, fields: Fields) -> None:
        super().__init__(path)
        self._fields = fields
        self._delimiter = "\t" if path.removesuffix(".gz").endswith((".tsv", ".tab")) else ","

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """Read row by row."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text, delimiter=self._delimiter)
        header = self._header(rows)
        while True:
            place = f"{self.name}:{rows.line_num + 1}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield bad(place, f"is not CSV ({error})")
                continue
            if row is None:
                break
            place = f"{self.name}:{rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                yield bad(place, f"has {len(row)} fields, the first row {len(header)}")
            else:
                yield self._fields.record(dict(zip(header, row, strict=True)), place)
        text.detach()

    def _header(self, rows: Iterator[list[str]]) -> list[str]:
        try:
            header = next(rows, [])
        except csv.Error as error:
            raise SourceError(self.name, f"its first row is not CSV ({error})") from None
        if header and self._fields.text not in header:
            # Not what it has: a file without a row of names begins with texts.
            reason = f"has {len(header)} fields in its first row, none named {self._fields.text!r}; name the text field"
            raise SourceError(self.name, reason)
        return header
