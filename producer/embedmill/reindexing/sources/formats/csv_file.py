"""CSV and TSV: each row is a record, and the first row names the fields."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.metadata import shown
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Fields, Form, bad, rest_lost, undecodable
from embedmill.reindexing.sources.content import HEAD_BYTES
from embedmill.reindexing.sources.files import FileSource
from embedmill.reindexing.sources.formats.columns import check_columns
from embedmill.reindexing.sources.suffixes import suffix_of
from embedmill.safe.utf8 import is_unicode

#: Most characters of a field and of a line. The csv module's own limit, for the whole process, is 131,072.
MAX_FIELD_CHARS: Final = 16 << 20
MAX_LINE_CHARS: Final = 64 << 20

#: Common delimiters, and how to write them for a shell.
_OTHERS: Final = {";": "';'", "\t": "tab", "|": "'|'", ",": ","}

#: Line that spreadsheets write before the first row.
_SEPARATOR: Final = re.compile(rb"sep=([^\r\n])\r?\n", re.IGNORECASE)


class Csv(FileSource):
    """A source that reads CSV or TSV. Quoted fields may contain line ends; a record's position is its last line."""

    def check(self, stream: io.BufferedReader) -> None:
        """Check the fields in the first row."""
        _Table(self, stream).detach()

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Read row by row."""
        return _Table(self, stream).records()


class _Lines:
    """The lines of a table; finds the end of a row that cannot be parsed."""

    def __init__(self, text: io.TextIOWrapper, number: int) -> None:
        self.number = number
        #: Quotes since the current row began, and those of them after a backslash.
        self.quotes = self.escaped = 0
        self._text = text
        self._lines = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def skip_row(self) -> bool:
        """Skip the rest of the current row, which ends where its quotes are even. Return False if it does not end."""
        while (self.quotes - self.escaped) % 2:
            if next(self._lines, None) is None:
                return False
        return True

    def _read(self) -> Iterator[str]:
        for line in iter(partial(self._text.readline, MAX_LINE_CHARS), ""):
            if len(line) == MAX_LINE_CHARS:
                raise SourceError(
                    "", f"line {self.number + 1} is longer than {MAX_LINE_CHARS >> 20} million characters"
                )
            self.number += 1
            self.quotes += line.count('"')
            self.escaped += line.count('\\"')
            yield line


class _Table:
    """A table whose first row has been read."""

    def __init__(self, source: Csv, stream: io.BufferedReader) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        self._source = source
        self._reading = source.reading
        separator = _SEPARATOR.match(stream.peek(8).removeprefix(b"\xef\xbb\xbf"))
        if separator:
            stream.readline()
        given = (
            separator[1].decode("latin-1") if separator else "\t" if suffix_of(source.path) in (".tsv", ".tab") else ","
        )
        self._delimiter = self._reading.delimiter or given
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._first = stream.peek(HEAD_BYTES).partition(b"\n")[0].decode("utf-8", "replace")
        self._text = text
        self._lines = _Lines(text, 1 if separator else 0)
        self._rows = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        self._header = self._read_header()

    def records(self) -> Iterator[Record | BadRecord]:
        """Read row by row."""
        name, lines, rows = self._source.name, self._lines, self._rows
        while True:
            lines.quotes = lines.escaped = 0
            begins = lines.number + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                if "unexpected end" in str(error) or not lines.skip_row():
                    yield rest_lost(
                        f"{name} line {begins}",
                        "a quote opens there and is not closed; the rest of the file is not read",
                    )
                    break
                yield bad(f"{name}:{lines.number}", f"is not CSV ({error}); write a quote within quotes twice")
                continue
            if row is None:
                break
            if any(row):
                yield from self._record(row, f"{name}:{lines.number}")
        self.detach()

    def detach(self) -> None:
        """Detach from the stream, so that it stays open."""
        self._text.detach()

    def _record(self, row: list[str], place: str) -> Iterator[Record | BadRecord]:
        header = self._header
        if row[0].startswith("\ufeff"):  # from concatenated files
            row[0] = row[0][1:]
            if [cell.strip() for cell in row] == header:
                return
        if len(row) != len(header):
            yield bad(place, f"has {len(row)} fields, but the first row has {len(header)}")
            return
        values: dict[str, object] = {**self._reading.partition, **dict(zip(header, row, strict=True))}
        fields = self._reading.fields
        if not values.get(fields.id, True):
            values[fields.id] = None  # an empty field is how CSV omits a value
        item = fields.record(values, place)
        yield item if is_unicode("".join(row)) else undecodable(item, place, self._source.encoding)

    def _read_header(self) -> list[str]:
        name, begins = self._source.name, self._lines.number + 1
        try:
            row = next((row for row in self._rows if any(map(str.strip, row))), [])
        except csv.Error as error:
            if hint := self._hint(self._first):
                raise InvalidRequestError("delimiter", f"the first row of {name} is not CSV{hint}") from None
            why = "a quote opens there and is not closed" if "unexpected end" in str(error) else f"is not CSV ({error})"
            raise SourceError(name, f"line {begins}, its first row: {why}") from None
        if not is_unicode("".join(row)):
            reason = f"the first row of {name} is not {self._source.encoding.upper()}"
            raise InvalidRequestError("encoding", f"{reason}; name its encoding, as in --encoding latin-1")
        header = [cell.strip() or f"column {number}" for number, cell in enumerate(row, start=1)]
        if header:
            hint = self._hint(self._delimiter.join(header))
            self._check_named(header, hint)
            notes = check_columns(name, header, self._reading, header.__contains__, hint=hint)
            self._source.notes[:] = notes
            self._source.has_ids = self._reading.fields.id in header
        return header

    def _check_named(self, header: Sequence[str], hint: str) -> None:
        """Raise InvalidRequestError if no name in the first row is known. It may be texts, so it is not quoted."""
        fields, usual = self._reading.fields, Fields()
        known = {usual.text, usual.id, fields.text, fields.id, *(fields.metadata or ())}
        if not {name.lower() for name in known}.intersection(name.strip(" _").lower() for name in header):
            count = "one field" if len(header) == 1 else f"{len(header)} fields"
            reason = f"has {count} in its first row, none named {shown(fields.text)}"
            reason = f"{self._source.name} {reason}; name the text field (--text-field){hint}"
            raise InvalidRequestError("text field", reason)

    def _hint(self, first: str) -> str:
        """Return a hint if another delimiter seems to separate the fields of the first row; "" otherwise."""
        text, others = self._reading.fields.text, [other for other in _OTHERS if other != self._delimiter]
        is_there = (other for other in others if text in (field.strip(' "') for field in first.split(other)))
        alone = (other for other in others if other in first and self._delimiter not in first)
        other = next(is_there, next(alone, ""))
        return f", or name the delimiter: --delimiter {_OTHERS[other]}" if other else ""


def check_delimiter(delimiter: str) -> str:
    """Return a delimiter that is given literally or by name.

    Raises:
        InvalidRequestError: it is not a single character, or is a quote or line end.
    """
    named = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(delimiter.lower(), delimiter)
    if len(named) != 1 or named in '"\r\n\0' or (not named.isascii() and not is_unicode(named)):
        raise InvalidRequestError("delimiter", f"{delimiter!r} is not a single character such as ';' or tab")
    return named


FORMS: Final = {"csv": Form(Csv, endings=(".csv", ".tsv", ".tab"))}
