"""Lines, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import bad
from embedmill.reindexing.sources.files import FileSource

#: Bytes of a line; a text of a million characters, each of 12 bytes in JSON, has room five times over.
MAX_LINE_BYTES: Final = 64 << 20


class Lines(FileSource):
    """A text a line; an empty line is an empty text."""

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """Give a record a line, named by its place."""
        for number, line in numbered(stream):
            place = f"{self.name}:{number}"
            if line is None:
                yield bad(place, TOO_LONG)
            else:
                yield Record(id=place, text=line.decode("utf-8", "surrogateescape"))


#: Of a line that is skipped over.
TOO_LONG: Final = f"is longer than {MAX_LINE_BYTES >> 20} MiB"


def numbered(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Give (number from 1, line without its end); None: it was too long, and skipped."""
    for number, line in enumerate(bounded(stream), start=1):
        if line is None:
            yield number, None
            continue
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        yield number, text.rstrip(b"\r\n") if text.endswith(b"\n") else text


def bounded(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Give each line with its end, never more of it than ``MAX_LINE_BYTES``; None: it was longer, and skipped."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield None
