"""From the names of sources to one source. What a form needs is loaded when it is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from stat import S_ISDIR
from typing import Final, cast

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import Fields, Source
from embedmill.reindexing.sources.csv_file import Csv
from embedmill.reindexing.sources.files import STDIN, mapped
from embedmill.reindexing.sources.folder import Folder
from embedmill.reindexing.sources.jsonl import Jsonl
from embedmill.reindexing.sources.lines import Lines

#: What a source may be.
FORMS: Final = ("auto", "lines", "jsonl", "csv", "parquet", "folder")

_OF_SUFFIX: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
}


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

    Args:
        names: files, folders, or ``-`` for standard input.
        form: one of ``FORMS``; ``auto`` chooses by a file's ending, and takes lines where it says nothing.
        fields: which field is what, in forms that have fields.

    Raises:
        SourceError: one of them cannot be read.
        InvalidRequestError: the form is none.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    if form not in FORMS:
        raise InvalidRequestError("format", f"{form!r} is none of {', '.join(FORMS)}")
    sources = [_open(name, form, fields or Fields()) for name in names]
    return sources[0] if len(sources) == 1 else Chain(sources)


def _open(name: str, form: str, fields: Fields) -> Source:
    match _form_of(name) if form == "auto" else form:
        case "folder":
            return Folder(name)
        case "jsonl":
            return Jsonl(name, fields)
        case "csv":
            return Csv(name, fields)
        case "parquet":
            module = import_module("embedmill.reindexing.sources.parquet_files")
            return cast(Source, module.Parquet(name, fields))
    return Lines(name)


def _is_folder(name: str) -> bool:
    with mapped(name):
        try:
            return S_ISDIR(Path(name).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise SourceError(name, "there is no such file or folder") from None


def _form_of(name: str) -> str:
    if name != STDIN and _is_folder(name):
        return "parquet" if any(Path(name).glob("*.parquet")) else "folder"
    return _OF_SUFFIX.get(Path(name.removesuffix(".gz")).suffix.lower(), "lines")
