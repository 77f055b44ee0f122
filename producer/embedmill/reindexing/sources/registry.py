"""From the names of sources to one source."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.planning.origins import origins_of
from embedmill.reindexing.planning.ways import ways_of
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Fields, Source, notes_of
from embedmill.reindexing.sources.files import STDIN, Reading, mapped
from embedmill.reindexing.sources.folder import Folder
from embedmill.reindexing.sources.formats.csv_file import check_delimiter
from embedmill.reindexing.sources.forms import open_file
from embedmill.reindexing.sources.listing import partition_above
from embedmill.reindexing.sources.streams import check_encoding
from embedmill.safe.printable import printable
from embedmill.urls import mask_url

#: What a source may be.
FORMS: Final = ("auto", "lines", "jsonl", "json", "csv", "parquet", "folder")

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Chain:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.name = ", ".join(source.name for source in sources)
        self._sources = sources
        self._done = 0

    @property
    def notes(self) -> list[str]:
        """What all of them have to say."""
        return [note for source in self._sources for note in notes_of(source)]

    @property
    def origins(self) -> Mapping[str, str]:
        """Where the ids of all of them come from."""
        return {label: path for source in self._sources for label, path in origins_of(source).items()}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How each of them is read."""
        return [way for source in self._sources for way in ways_of(source)]

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Read them in turn."""
        for self._done, source in enumerate(self._sources):  # noqa: B020
            yield from source

    def fraction(self) -> float | None:
        """Count each source alike."""
        part = self._sources[self._done].fraction()
        return None if part is None else (self._done + part) / len(self._sources)


def open_source(
    names: Sequence[str],
    *,
    form: str = "auto",
    fields: Fields | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Return the source of these names, read one after the other.

    Args:
        names: files, folders, or ``-`` for standard input.
        form: one of ``FORMS``; ``auto`` chooses by a file's ending and by how it begins. Of a folder, a form reads the
            files of that form alone, and ``folder`` the documents alone.
        fields: which field is what, in forms that have fields.
        delimiter: between the fields of CSV; None: a comma, or in ``.tsv`` a tab.
        encoding: of files without a byte order mark; None: UTF-8.

    Raises:
        SourceError: one of them cannot be read.
        InvalidRequestError: the form is none, or a field is not there.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    if form not in FORMS:
        raise InvalidRequestError("format", f"{form!r} is none of {', '.join(FORMS)}")
    reading = Reading(
        fields=fields or Fields(),
        delimiter=check_delimiter(delimiter) if delimiter else "",
        encoding=check_encoding(encoding) if encoding else "utf-8",
    )
    sources = [_open(name, label, form, reading) for name, label in zip(names, labels(names), strict=True)]
    return sources[0] if len(sources) == 1 else Chain(sources)


def labels(names: Sequence[str]) -> list[str]:
    """Return what the ids of each source's records begin with: its path as it was named.

    A relative path counts as it is written, an absolute one from the working folder on if it leads there, else from
    the folder on that holds all of those that were named. A folder alone adds nothing to the paths within it.
    """
    paths = {name: _shortened(name) for name in names if name != STDIN}
    outside = [path.parent for path in paths.values() if path.is_absolute()]
    above = os.path.commonpath(outside) if outside else ""
    if len(names) == 1 and names[0] in paths and _is_folder(names[0]):
        return [""]
    found = (paths.get(name, Path("stdin")) for name in names)
    return [printable((path.relative_to(above) if path.is_absolute() else path).as_posix()) for path in found]


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # told when it is opened
        return False


def _shortened(name: str) -> Path:
    path, here = Path(os.path.normpath(name)), Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def _open(name: str, label: str, form: str, reading: Reading) -> Source:
    if name == STDIN:
        return open_file(name, label, "lines" if form == "folder" else form, reading)
    mode = _mode(name)
    if S_ISDIR(mode):
        prefix = "" if label in ("", ".") else f"{label}/"
        return Folder(name, prefix, form, reading)
    if form == "folder":
        raise SourceError(printable(name), "is no folder")
    if not S_ISREG(mode):
        raise SourceError(printable(name), "is no regular file; a pipe is read as standard input, named -")
    return open_file(name, label, form, replace(reading, partition=partition_above(Path(name).parent)))


def _mode(name: str) -> int:
    if not name:
        raise InvalidRequestError("source", "'' names nothing; the working folder is named .")
    with mapped(printable(name)):
        try:
            return Path(name).stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            if _URL.match(name):
                reason = f"{printable(mask_url(name))} is a URL, which is not read; fetch it first, or pipe it in as -"
                raise InvalidRequestError("source", reason) from None
            raise SourceError(printable(name), "there is no such file or folder") from None
