"""From the names of sources to one source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import Fields, Source
from embedmill.reindexing.sources.jsonl import Jsonl
from embedmill.reindexing.sources.lines import Lines

_FORMS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl"}


class Chain:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.name = ", ".join(source.name for source in sources)
        self._sources = sources
        self._done = 0

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Read them in turn."""
        for self._done, source in enumerate(self._sources):  # noqa: B020
            yield from source

    def fraction(self) -> float | None:
        """Count each source alike."""
        part = self._sources[self._done].fraction()
        return None if part is None else (self._done + part) / len(self._sources)


def open_source(names: Sequence[str], *, form: str = "auto", fields: Fields | None = None) -> Source:
    """Give the source of these names, read one after the other.

    Raises:
        SourceError: one of them cannot be read.
        InvalidRequestError: the form is none.
    """
    sources = [_open(name, form, fields or Fields()) for name in names]
    return sources[0] if len(sources) == 1 else Chain(sources)


def _open(name: str, form: str, fields: Fields) -> Source:
    suffix = Path(name.removesuffix(".gz")).suffix
    chosen = _FORMS.get(suffix, "lines") if form == "auto" else form
    if chosen == "jsonl":
        return Jsonl(name, fields)
    if chosen == "lines":
        return Lines(name)
    raise InvalidRequestError("format", f"{form} is no format of a source")
