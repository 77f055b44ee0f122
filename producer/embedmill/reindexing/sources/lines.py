"""Lines, within bounds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Final

from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import bad, undecodable
from embedmill.reindexing.sources.files import FileSource

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
