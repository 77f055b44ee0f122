"""A folder: documents, which are a record a file, and tables, each read as what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import UNFIT, UNREADABLE, Source, notes_of, rest_lost, undecodable
from embedmill.reindexing.sources.files import Reading, mapped
from embedmill.reindexing.sources.forms import open_file
from embedmill.reindexing.sources.listing import Listing, Partition, is_document, list_folder, partition_above
from embedmill.reindexing.sources.streams import decompressed, utf8
from embedmill.reindexing.sources.suffixes import TABLES, suffix_of
from embedmill.safe.printable import printable
from embedmill.safe.regular_file import open_regular

#: Bytes of one document.
MAX_FILE_BYTES: Final = 16 << 20


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
                raise SourceError(printable(path), "is no folder")
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
                return  # it is told when it is read
            else:
                return
        if error is not None:
            raise error

    def _named(self, path: str) -> str:
        return printable(self._prefix + path)

    def _open(self, path: str) -> Source:
        form = TABLES[suffix_of(path)] if self._form == "folder" else self._form
        partition = {**self._above, **self._partitions[path.rpartition("/")[0]]}
        reading = replace(self._reading, partition=partition)
        return open_file(str(self._root / path), self._named(path), form, reading)

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
        id = self._named(path)
        if id != self._prefix + path:
            return _unnamable(id, "control characters, and what is not UTF-8, cannot stand in an id")
        try:
            with mapped(id), open_regular(self._root / path) as raw:
                stream, encoding = utf8(decompressed(raw, id), id, self._reading.encoding)
                data = stream.read(MAX_FILE_BYTES + 1)
        except SourceError as error:
            return _unread(id, error.reason)
        if len(data) > MAX_FILE_BYTES:
            return _unread(id, f"is longer than {MAX_FILE_BYTES >> 20} MiB; make several files of it")
        try:
            return Record(id=id, text=data.decode("utf-8-sig"), metadata={"path": path})
        except UnicodeDecodeError:
            return undecodable(Record(id=id, text=""), id, encoding)
        except InvalidRequestError as error:
            return _unnamable(id, error.reason)


def _unread(id: str, why: str) -> BadRecord:
    # Its id is known: it is there, and must not be taken for deleted.
    return BadRecord(id=id, reason=UNREADABLE, detail=f"{id} {why}", is_anonymous=False)


def _unnamable(id: str, why: str) -> BadRecord:
    # No record can ever have had such an id, so it stands for none that may be missing.
    return BadRecord(id=id, reason=UNFIT, detail=f"{id}: {why}; rename the file", is_anonymous=False)
