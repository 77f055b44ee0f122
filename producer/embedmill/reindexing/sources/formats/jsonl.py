"""Sources with a record per JSON object or per line: JSONL, JSON, and lines of text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from embedmill.errors import SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Form, bad, undecodable
from embedmill.reindexing.sources.content import HEAD_BYTES
from embedmill.reindexing.sources.files import FileSource
from embedmill.reindexing.sources.formats.columns import Carried, check_first, check_objects
from embedmill.safe.utf8 import is_unicode

#: Mark a line that is not JSON, and one with something after its JSON value.
_NONE: Final = object()
_SEVERAL: Final = object()

#: Parses the value at the start of a text, faster than ``loads``, which checks more.
_read: Final = json.JSONDecoder().raw_decode

#: Most bytes of a line: five times those of a million characters of 12 bytes each, the most in JSON.
MAX_LINE_BYTES: Final = 64 << 20

#: Reason for skipping a line.
TOO_LONG: Final = f"is longer than {MAX_LINE_BYTES >> 20} MiB"

#: Byte order mark: at the start of a file, and of lines where files were concatenated.
BOM: Final = b"\xef\xbb\xbf"

#: Most characters of one object, and characters read at a time.
MAX_OBJECT_CHARS: Final = 64 << 20
STEP_CHARS: Final = 1 << 20

#: An error this near to the end of the buffer may only mean that more must be read.
_CUT_CHARS: Final = 16

_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Jsonl(FileSource):
    """A source with a record per line; blank lines are skipped."""

    def check(self, stream: io.BufferedReader) -> None:
        """Check the fields in the first lines."""
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        whole, _, rest = head.rpartition(b"\n")
        values = [_value(line) for line in (whole or rest).splitlines()]
        check_objects(self.name, [value for value in values if value is not _NONE])
        objects = [value for value in values if isinstance(value, dict)]
        self.has_ids = check_first(self.name, objects, self.reading, self.notes)

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Read line by line."""
        prefix = f"{self.name}:"
        carried = Carried(self.name, self.reading, self.notes)
        record = self._record
        for number, line in numbered(stream):
            if line is None:
                yield bad(f"{prefix}{number}", TOO_LONG)
            elif line and not line.isspace():
                item = record(line, f"{prefix}{number}")
                yield carried.seen(item) if carried.left else item
        carried.close()

    def _record(self, line: bytes, place: str) -> Record | BadRecord:
        try:
            text = line.decode()
            value, end = _read(text)
            if end < len(text):  # perhaps only white space follows
                value = _value(line, otherwise=_SEVERAL)
        except UnicodeDecodeError:
            return undecodable(self._made(_value(line), place), place, self.encoding)
        except (ValueError, RecursionError):
            value = _value(line)
        return self._made(value, place)

    def _made(self, value: Any, place: str) -> Record | BadRecord:
        if value is _NONE:
            return bad(place, "is not JSON")
        if value is _SEVERAL:
            return bad(place, "is more than a JSON object: something follows it")
        if not isinstance(value, dict):
            return bad(place, "is not a JSON object")
        if self.reading.partition:
            value = {**self.reading.partition, **value}
        return self.reading.fields.record(value, place)


def integer(digits: str) -> int | str:
    """Return an integer, or its text if it has more digits than Python parses."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _value(line: bytes, otherwise: Any = _NONE) -> Any:
    """Return the JSON value of a line, also with bytes or numbers that ``_read`` refuses; else ``otherwise``."""
    try:
        return json.loads(line.decode("utf-8", "surrogateescape").lstrip("\ufeff"), parse_int=integer)
    except (ValueError, RecursionError):
        return otherwise


class Lines(FileSource):
    """A source with a text per line; an empty line is an empty text."""

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Return a record for each line, with its position as id."""
        for number, line in numbered(stream):
            place = f"{self.name}:{number}"
            if line is None:
                yield bad(place, TOO_LONG)
                continue
            try:
                yield Record(id=place, text=line.removeprefix(BOM).decode())
            except UnicodeDecodeError:
                yield undecodable(Record(id=place, text=""), place, self.encoding)


def numbered(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number from 1, line without its end), with None for a line that is too long."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield number, None
            continue
        yield number, line.rstrip(b"\r\n") if line.endswith(b"\n") else line


class JsonValues(FileSource):
    """A source with a record per JSON object; without an id field, the object's number makes the id."""

    def check(self, stream: io.BufferedReader) -> None:
        """Check the fields in the first object."""
        first = next(_Values(stream, self.name).read(), None)
        check_objects(self.name, [first[0]] if first else [])
        objects = [first[0]] if first and isinstance(first[0], dict) else []
        self.has_ids = check_first(self.name, objects, self.reading, self.notes)

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Read object by object."""
        carried = Carried(self.name, self.reading, self.notes)
        for number, (value, is_text) in enumerate(_Values(stream, self.name).read(), start=1):
            place = f"{self.name}:{number}"
            if not isinstance(value, Mapping):
                yield bad(place, "is not a JSON object")
                continue
            item = carried.seen(self.reading.fields.record({**self.reading.partition, **value}, place))
            yield item if is_text else undecodable(item, place, self.encoding)
        carried.close()


class _Values:
    """A parser of the JSON values of a stream, one after the other."""

    def __init__(self, stream: io.BufferedReader, name: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
        self._name = name
        self._decoder = json.JSONDecoder(parse_int=integer)
        self._buffer = ""
        self._at = 0
        self._lines = 1
        self._is_whole = False

    def read(self) -> Iterator[tuple[Any, bool]]:
        """Yield each value, and whether its bytes were valid text.

        Raises:
            SourceError: it cannot be read any further.
        """
        try:
            is_in_array = False
            while char := self._next():
                if char == ("]" if is_in_array else "["):
                    is_in_array = not is_in_array
                    self._at += 1
                elif char == "," and is_in_array:
                    self._at += 1
                else:
                    yield self._value()
            if is_in_array:
                raise SourceError(self._name, "the file is cut off: its array does not end")
        finally:
            self._text.detach()

    def _next(self) -> str:
        """Return the next character other than white space; "" at the end."""
        while True:
            self._at = _end_of_space(self._buffer, self._at)
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._is_whole:
                return ""
            self._more()

    def _value(self) -> tuple[Any, bool]:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                is_fault = self._is_fault(error)
                if self._is_whole or is_fault:
                    why = "is not JSON" if is_fault else "begins an object that does not end"
                    raise SourceError(self._name, f"line {self._line()} {why}") from None
            except RecursionError:
                raise SourceError(
                    self._name, f"line {self._line()} begins an object that is nested too deeply"
                ) from None
            else:
                if end < len(self._buffer) or self._is_whole:
                    source = self._buffer[self._at : end]
                    self._at = end
                    return value, is_unicode(source)
            if len(self._buffer) - self._at > MAX_OBJECT_CHARS:
                reason = (
                    f"line {self._line()} begins an object of more than {MAX_OBJECT_CHARS >> 20} million characters"
                )
                raise SourceError(self._name, reason)
            self._more()

    def _is_fault(self, error: json.JSONDecodeError) -> bool:
        end = len(self._buffer) - (0 if self._is_whole else _CUT_CHARS)
        return "Unterminated string" not in error.msg and error.pos < end

    def _more(self) -> None:
        """Read at least as much again as is left in the buffer, so that a long object is parsed few times."""
        self._lines += self._buffer.count("\n", 0, self._at)
        left = self._buffer[self._at :]
        data = self._text.read(max(STEP_CHARS, len(left)))
        self._is_whole = not data
        self._buffer, self._at = left + data, 0

    def _line(self) -> int:
        return self._lines + self._buffer.count("\n", 0, self._at)


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


_ENDINGS: Final = (".jsonl", ".ndjson", ".json")

FORMS: Final = {
    "lines": Form(Lines),
    "jsonl": Form(Jsonl, endings=_ENDINGS),
    "json": Form(JsonValues, endings=_ENDINGS),
}
