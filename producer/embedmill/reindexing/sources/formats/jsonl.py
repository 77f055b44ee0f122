"""JSONL: an object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import IO, Any, Final

from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import bad, undecodable
from embedmill.reindexing.sources.content import HEAD_BYTES
from embedmill.reindexing.sources.files import FileSource
from embedmill.reindexing.sources.formats.columns import Carried, check_first, check_objects


class Jsonl(FileSource):
    """A record a line; lines of white space are none."""

    def check(self, stream: io.BufferedReader) -> None:
        """Look for the fields in the first lines."""
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
            if end < len(text):  # or there is white space
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


#: Stand for a line that is not JSON, and for one that only begins as JSON does.
_NONE: Final = object()
_SEVERAL: Final = object()

#: Reads what a text begins with: quicker than ``loads`` by what that looks at besides.
_read: Final = json.JSONDecoder().raw_decode


def integer(digits: str) -> int | str:
    """Return an integer, as text if it has more digits than Python reads."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _value(line: bytes, otherwise: Any = _NONE) -> Any:
    """Return what a line holds, however odd its bytes and its numbers are; otherwise: stands for no JSON."""
    try:
        return json.loads(line.decode("utf-8", "surrogateescape").lstrip("\ufeff"), parse_int=integer)
    except (ValueError, RecursionError):
        return otherwise


#: Bytes of a line; a text of a million characters, each of 12 bytes in JSON, has room five times over.
MAX_LINE_BYTES: Final = 64 << 20

#: Of a line that is skipped over.
TOO_LONG: Final = f"is longer than {MAX_LINE_BYTES >> 20} MiB"

#: The byte order mark, which begins a file, and lines in the middle where files were put together.
BOM: Final = b"\xef\xbb\xbf"


class Lines(FileSource):
    """A text a line; an empty line is an empty text."""

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Return a record a line, named by its place."""
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
    """Return (number from 1, line without its end); None: it was too long, and skipped."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield number, None
            continue
        yield number, line.rstrip(b"\r\n") if line.endswith(b"\n") else line
