"""Windows: consecutive requests of a file that become one job. No I/O but reading the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

from embedmill.errors import EmbedError
from embedmill.jobs.request import row_bytes
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import LANES
from embedmill.protocol.options import EmbedOptions
from embedmill_worker.batches.lines import RawLine, parse_line, read_lines
from embedmill_worker.batches.objects import Progress
from embedmill_worker.gateway.apis.openai import (
    CreateEmbeddings,
    check_encoding,
    embed_options,
    texts_or_tokens,
)
from embedmill_worker.gateway.http import read_json
from embedmill_worker.gateway.refusals import Kind, RefusedError, refusal_of
from embedmill_worker.gateway.requests import EmbedRequest

#: Texts of a window, their characters, and the bytes of their vectors. One request alone may have more.
MAX_TEXTS: Final = 1_024
MAX_CHARS: Final = 2 << 20
MAX_VECTOR_BYTES: Final = 8 << 20


class Tokens(Protocol):
    """What turns arrays of tokens back into texts."""

    def read(self, card: ModelCard, arrays: list[list[int]], param: str, /) -> list[str]:
        """Return the texts."""
        ...


class Limits(Protocol):
    """What refuses requests that are too large."""

    def estimate(self, request: EmbedRequest, card: ModelCard, /) -> int:
        """Return about how many tokens a request has."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A request that is ready to be embedded, or refused."""

    number: int
    #: Bytes of the file up to its end.
    end: int
    custom_id: str = field(repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)
    encoding: str = "float"
    options: EmbedOptions | None = None
    #: About how many tokens its texts have.
    tokens: int = 0
    refusal: RefusedError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Requests with the same options."""

    entries: tuple[Entry, ...]

    @property
    def options(self) -> EmbedOptions:
        """How all of them are embedded."""
        return next((entry.options for entry in self.entries if entry.options is not None), EmbedOptions())

    @property
    def texts(self) -> list[str]:
        """The texts of all requests."""
        return [text for entry in self.entries for text in entry.texts]

    @property
    def tokens(self) -> int:
        """About how many tokens they have."""
        return sum(entry.tokens for entry in self.entries)

    @property
    def name(self) -> str:
        """What tells it from the other windows of its file."""
        return f"{self.entries[0].number}-{self.entries[-1].number}"

    def halves(self) -> tuple[Window, Window]:
        """Return two windows of at least one request each."""
        middle = len(self.entries) // 2
        return Window(entries=self.entries[:middle]), Window(entries=self.entries[middle:])


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReader:
    """Makes entries of lines, and refuses what the route would refuse."""

    card: ModelCard
    tokens: Tokens
    limits: Limits

    def entry(self, raw: RawLine) -> Entry:
        """Return the entry of a line."""
        line = parse_line(raw)
        try:
            return self._entry(raw, line.custom_id, line.body)
        except RefusedError as error:
            return Entry(number=raw.number, end=raw.end, custom_id=line.custom_id, refusal=error)

    def _entry(self, raw: RawLine, custom_id: str, body: bytes) -> Entry:
        asked = read_json(body, CreateEmbeddings)
        encoding = check_encoding(asked)
        inputs = texts_or_tokens("input", asked.input)
        texts = inputs.texts or self.tokens.read(self.card, inputs.arrays, "input")
        options = embed_options(
            input_type=asked.input_type, dimensions=asked.dimensions, truncate=asked.truncate is not False
        )
        if asked.lane is not None and asked.lane not in LANES:
            raise RefusedError(Kind.INVALID, f"lane must be one of {', '.join(LANES)}", param="lane")
        tokens = self.limits.estimate(EmbedRequest(texts=texts, options=options), self.card)
        try:
            self.card.check(options)
        except EmbedError as error:
            raise refusal_of(error) from None
        return Entry(
            number=raw.number,
            end=raw.end,
            custom_id=custom_id,
            texts=tuple(texts),
            encoding=encoding,
            options=options,
            tokens=tokens,
        )


class WindowReader:
    """Cuts what is left of a file into windows: always the same ones from the same line on."""

    def __init__(self, path: Path, progress: Progress, requests: RequestReader, *, max_line_bytes: int) -> None:
        """Begin behind the lines that are done.

        Raises:
            OSError: the file cannot be read.
        """
        self._requests = requests
        self._file: IO[bytes] = path.open("rb")
        self._file.seek(progress.offset)
        self._entries = self._read(max_line_bytes, progress.line)
        self._next: Entry | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, max_line_bytes: int, number: int) -> Iterator[Entry]:
        for raw in read_lines(self._file, number=number, max_bytes=max_line_bytes):
            yield self._requests.entry(raw)

    def next(self) -> Window | None:
        """Return the next window; None: there is none.

        Raises:
            InvalidLineError: the file has changed since it was checked.
            OSError: the file cannot be read.
        """
        found: list[Entry] = []
        options: EmbedOptions | None = None
        texts = chars = vector_bytes = 0
        while (entry := self._next or next(self._entries, None)) is not None:
            self._next = entry
            if entry.options is not None:
                row = row_bytes(entry.options, self._requests.card)
                texts += len(entry.texts)
                chars += sum(map(len, entry.texts))
                vector_bytes += row * len(entry.texts)
                is_full = texts > MAX_TEXTS or chars > MAX_CHARS or vector_bytes > MAX_VECTOR_BYTES
                if found and (is_full or options not in (None, entry.options)):
                    break
                options = entry.options
            elif len(found) >= MAX_TEXTS:
                break
            self._next = None
            found.append(entry)
        return Window(entries=tuple(found)) if found else None
