"""JSONL: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import Fields, bad
from embedmill.reindexing.sources.files import FileSource
from embedmill.reindexing.sources.lines import TOO_LONG, numbered


class Jsonl(FileSource):
    """A record a line; lines of white space are none."""

    def __init__(self, path: str, fields: Fields) -> None:
        super().__init__(path)
        self._fields = fields

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """Read line by line."""
        prefix = f"{self.name}:"
        for number, line in numbered(stream):
            if line is None:
                yield bad(f"{prefix}{number}", TOO_LONG)
            elif line and not line.isspace():
                yield self._record(line, f"{prefix}{number}")

    def _record(self, line: bytes, place: str) -> Record | BadRecord:
        try:
            value = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            return bad(place, "is not JSON")
        if not isinstance(value, dict):
            return bad(place, "is not a JSON object")
        return self._fields.record(value, place)
