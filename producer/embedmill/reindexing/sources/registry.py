"""The registry of sources: opens the source for one or more names of files and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import (
    STDIN,
    Fields,
    Reading,
    Source,
    notes_of,
    origins_of,
    rest_lost,
    ways_of,
)
from embedmill.reindexing.sources.files import mapped, read_document
from embedmill.reindexing.sources.formats.csv_file import check_delimiter
from embedmill.reindexing.sources.forms import FORMS, open_file
from embedmill.reindexing.sources.listing import Listing, Partition, is_document, list_folder, partition_above
from embedmill.reindexing.sources.streams import check_encoding
from embedmill.reindexing.sources.suffixes import suffix_of
from embedmill.safe.printable import printable
from embedmill.safe.regular_file import open_regular
from embedmill.urls import mask_url

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
        form: one of ``FORMS``, ``auto`` or ``folder``; ``auto`` chooses by a file's ending and by how it begins. Of a
            folder, a form reads the files of that form alone, and ``folder`` the documents alone.
        fields: which field is what, in forms that have fields.
        delimiter: between the fields of CSV; None: a comma, or in ``.tsv`` a tab.
        encoding: of files without a byte order mark; None: UTF-8.

    Raises:
        SourceError: one of them cannot be read.
        InvalidRequestError: the form is none, or a field is not there.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    known = ("auto", *FORMS, "folder")
    if form not in known:
        raise InvalidRequestError("format", f"{form!r} is not one of {', '.join(known)}")
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
        raise SourceError(printable(name), "is not a folder")
    if not S_ISREG(mode):
        raise SourceError(printable(name), "is not a regular file; a pipe is read as standard input, named -")
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
            raise SourceError(printable(name), "no such file or folder") from None


class Folder:
    """The files of a folder in the order of their paths; hidden ones and links that lead out are passed over."""

    def __init__(self, path: str, prefix: str, form: str, reading: Reading) -> None:
        """Look at the folder.

        Args:
            path: the folder.
            prefix: put before the paths within it, which are the documents' ids.
            form: ``auto``, ``folder`` (documents alone) or a form of tables, which alone are read then.
            reading: how tables are read.

        Raises:
            SourceError: it cannot be read.
            InvalidRequestError: it holds files, but none that can be read.
        """
        self.name = path
        self.notes: list[str] = []
        self._root = Path(path)
        self._prefix = prefix
        self._form = form
        self._reading = reading
        with mapped(printable(path)):
            if not self._root.is_dir():
                raise SourceError(printable(path), "is not a folder")
            next(self._root.iterdir(), None)
        self._listing: Listing | None = None
        self._above = partition_above(self._root)
        self._partitions: dict[str, Partition] = {}
        #: Tables that were read, and those that were passed over as they have no text.
        self._tables: list[str] = []
        self._left_out: list[str] = []
        self._done = 0
        self._under_work: Source | None = None
        self._has_documents = False
        self._kinds: set[str] | None = None
        self._check()

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """List the folder, then read file by file."""
        listing = self._list()
        self.notes.clear()
        self._tables.clear()
        self._left_out.clear()
        for path, reason in listing.broken.items():
            yield rest_lost(self._named(path), reason)
        for self._done, path in enumerate(listing.paths):
            if is_document(path):
                yield self._document(path)
            else:
                yield from self._table(path, listing)
        self._done = len(listing.paths)
        if listing.passed_over:
            self.notes.append(f"{printable(self.name)}: passed over {listing.note()}")
        elif not listing.paths:
            self.notes.append(f"{printable(self.name)} holds no file")

    @property
    def origins(self) -> dict[str, str]:
        """What the documents' ids begin with, and where the folder is."""
        return {self._prefix: os.path.realpath(self._root)} if self._has_documents else {}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How it is read."""
        tables = {"tables": "\n".join(self._tables), "tables left out": "\n".join(self._left_out)}
        way = self._reading.way(self.name, self._form, self._kinds)
        return [{**way, **{key: value for key, value in tables.items() if value}}]

    def fraction(self) -> float | None:
        """Count each file alike."""
        if self._listing is None:
            return None
        count = len(self._listing.paths)
        part = (self._under_work.fraction() or 0.0) if self._under_work is not None else 0.0
        return min(1.0, (self._done + part) / count) if count else 1.0

    def _list(self) -> Listing:
        self._listing = list_folder(self._root, self._form)
        self._partitions = self._listing.partitions()
        return self._listing

    def _check(self) -> None:
        """Raise InvalidRequestError if nothing in it can be read as it is asked for."""
        listing, error = self._list(), None
        self._listing = None
        self._has_documents = listing.has_documents
        self._kinds = None if listing.broken else {suffix_of(path) for path in listing.paths}
        if listing.broken or listing.has_documents:
            return
        if not listing.paths and listing.passed_over:
            way_out = "name files one by one" if self._form == "auto" else "try without --format"
            reason = f"{printable(self.name)} holds no file that can be read, but {listing.note()}; {way_out}"
            raise InvalidRequestError("source", reason)
        for path in listing.paths:
            try:
                self._open(path)
            except InvalidRequestError as wrong:
                error = error or wrong
            except SourceError:
                return  # the error is reported when the file is read
            else:
                return
        if error is not None:
            raise error

    def _named(self, path: str) -> str:
        return printable(self._prefix + path)

    def _open(self, path: str) -> Source:
        partition = {**self._above, **self._partitions[path.rpartition("/")[0]]}
        reading = replace(self._reading, partition=partition)
        return open_file(str(self._root / path), self._named(path), self._form, reading)

    def _table(self, path: str, listing: Listing) -> Iterator[Record | BadRecord]:
        """Read a table; one without the text is passed over beside documents, and else a part that is not read."""
        try:
            self._under_work = source = self._open(path)
        except InvalidRequestError as error:
            if listing.has_documents:
                kind = f"{printable(suffix_of(path))} without the field {printable(self._reading.fields.text)}"
                listing.passed_over[kind] += 1
                self._left_out.append(self._named(path))
            else:
                yield rest_lost(self._named(path), error.reason)
            return
        except SourceError as error:
            yield rest_lost(self._named(path), error.reason)
            return
        self._tables.append(self._named(path))
        yield from source
        self._under_work = None
        self.notes += notes_of(source)

    def _document(self, path: str) -> Record | BadRecord:
        opening = partial(open_regular, self._root / path)
        return read_document(opening, self._prefix + path, self._reading.encoding, {"path": path})
