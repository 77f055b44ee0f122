"""A folder: documents, which are a record a file, and tables, each read as what it is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from errno import ELOOP
from pathlib import Path
from stat import S_ISREG
from typing import Final
from urllib.parse import unquote

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.printable import printable
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import UNFIT, UNREADABLE, Source, notes_of, rest_lost, undecodable
from embedmill.reindexing.sources.files import Reading, mapped, open_regular
from embedmill.reindexing.sources.forms import open_file
from embedmill.reindexing.sources.streams import decompressed, utf8
from embedmill.reindexing.sources.suffixes import DOCUMENTS, TABLES, suffix_of

#: Bytes of one document.
MAX_FILE_BYTES: Final = 16 << 20

#: Endings that are named as passed over.
SHOWN_ENDINGS: Final = 8

#: The folder of a partitioned data set, as in ``year=2026``, and what stands there for nothing.
_PARTITION: Final = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NOTHING: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What lies in a folder."""

    #: Paths below the folder, sorted: files that are read, and folders that cannot be.
    paths: list[str]
    broken: dict[str, str]
    #: Of files, by ending or by what they are, that are passed over.
    passed_over: Counter[str]

    @property
    def documents(self) -> list[str]:
        """Paths of files that are a record each."""
        return [path for path in self.paths if suffix_of(path) in DOCUMENTS]

    def note(self) -> str:
        """Return what is passed over, for people."""
        most = [f"{count:,} {what}" for what, count in self.passed_over.most_common(SHOWN_ENDINGS)]
        more = self.passed_over.total() - sum(count for _, count in self.passed_over.most_common(SHOWN_ENDINGS))
        return ", ".join([*most, *([f"{more:,} others"] if more else [])])


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
        if not self._root.is_dir():
            raise SourceError(printable(path), "is no folder")
        with mapped(printable(path)):
            os.listdir(path)
        self._found: _Found | None = None
        self._done = 0
        self._under_work: Source | None = None
        self._check(self._list())

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """List the folder, then read file by file."""
        found = self._found = self._list()
        self.notes.clear()
        partitions = _partitions(found.paths)
        has_documents = bool(found.documents)
        for path, reason in found.broken.items():
            yield rest_lost(self._named(path), reason)
        for self._done, path in enumerate(found.paths):  # noqa: B020
            if suffix_of(path) in DOCUMENTS:
                yield self._document(path)
            else:
                yield from self._table(path, partitions, found if has_documents else None)
        self._done, self._under_work = len(found.paths), None
        if found.passed_over:
            self.notes.append(f"{printable(self.name)}: passed over {found.note()}")
        elif not found.paths:
            self.notes.append(f"{printable(self.name)} holds no file")

    def fraction(self) -> float | None:
        """Count each file alike."""
        if self._found is None:
            return None
        count = len(self._found.paths)
        part = (self._under_work.fraction() or 0.0) if self._under_work is not None else 0.0
        return (self._done + part) / count if count else 1.0

    def _check(self, found: _Found) -> None:
        """Raise InvalidRequestError if nothing in it can be read as it is asked for."""
        if found.broken or found.documents:
            return
        if not found.paths and found.passed_over:
            way_out = "name files, or another --format" if self._form == "auto" else "leave --format out"
            reason = f"{printable(self.name)} holds no file that can be read, but {found.note()}; {way_out}"
            raise InvalidRequestError("source", reason)
        partitions, error = _partitions(found.paths), None
        for path in found.paths:
            try:
                self._open(path, partitions)
            except InvalidRequestError as wrong:
                error = error or wrong
            except SourceError:
                return  # it is told when it is read
            else:
                return
        if error is not None:
            raise error

    def _list(self) -> _Found:
        """Look for files; folders behind links are not entered."""
        found = _Found(paths=[], broken={}, passed_over=Counter())
        root = os.path.realpath(self._root)

        def fail(error: OSError) -> None:
            path = os.path.relpath(error.filename, root)
            found.broken[path] = f"the folder cannot be read: {error.strerror}"

        for folder, folders, names in os.walk(root, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".") and not _is_sink(folder, name, found)]
            for name in names:
                if name.startswith("."):
                    continue
                path = os.path.relpath(os.path.join(folder, name), root)
                what = self._why_not(os.path.join(folder, name), path, root)
                if what:
                    found.passed_over[what] += 1
                else:
                    found.paths.append(path)
        found.paths.sort()
        return found

    def _why_not(self, full: str, path: str, root: str) -> str:
        """Return the kind of a file that is passed over; "": it is read."""
        suffix = suffix_of(path)
        form = TABLES.get(suffix, "folder" if suffix in DOCUMENTS else "")
        if not form or (self._form != "auto" and not form.startswith(self._form)):
            return f"{printable(suffix)}" if suffix else "without an ending"
        if _is_written(full):
            return "written by reindex"
        if form != "folder" and any(part.startswith("_") for part in path.split(os.sep)):
            return "whose path begins with _"
        try:
            status = os.stat(full)
        except OSError as error:
            return "links that lead in a circle" if error.errno == ELOOP else ""
        if not S_ISREG(status.st_mode):
            return "no regular files"
        if os.path.islink(full) and not Path(os.path.realpath(full)).is_relative_to(root):
            return "links that lead out"
        return ""

    def _named(self, path: str) -> str:
        return printable(self._prefix + path.replace(os.sep, "/"))

    def _open(self, path: str, partitions: dict[str, dict[str, str | int | None]]) -> Source:
        reading = replace(self._reading, partition=partitions[os.path.dirname(path)])
        form = "auto" if self._form == "auto" else TABLES[suffix_of(path)] if self._form == "folder" else self._form
        return open_file(str(self._root / path), self._named(path), form, reading)

    def _table(
        self, path: str, partitions: dict[str, dict[str, str | int | None]], beside: _Found | None
    ) -> Iterator[Record | BadRecord]:
        """Read a table; one without the text is passed over beside documents, and else a part that is not read."""
        try:
            source = self._under_work = self._open(path, partitions)
        except InvalidRequestError as error:
            if beside is None:
                yield rest_lost(self._named(path), str(error))
            else:
                beside.passed_over[f"{printable(suffix_of(path))} without a field {self._reading.fields.text!r}"] += 1
            return
        except SourceError as error:
            yield rest_lost(self._named(path), error.reason)
            return
        yield from source
        self.notes += notes_of(source)
        self._under_work = None

    def _document(self, path: str) -> Record | BadRecord:
        id = self._named(path)
        if id != self._prefix + path.replace(os.sep, "/"):
            detail = f"{id}: a name with control characters, or that is not UTF-8, can be no id; rename the file"
            return BadRecord(id=id, reason=UNFIT, detail=detail, is_anonymous=False)
        try:
            with mapped(id), open_regular(self._root / path) as raw:
                stream, encoding = utf8(decompressed(raw, id), id, self._reading.encoding)
                data = stream.read(MAX_FILE_BYTES + 1)
        except SourceError as error:
            return _unread(id, error.reason)
        if len(data) > MAX_FILE_BYTES:
            return _unread(id, f"is longer than {MAX_FILE_BYTES >> 20} MiB; make several files of it")
        try:
            return Record(id=id, text=data.decode("utf-8-sig"), metadata={"path": path.replace(os.sep, "/")})
        except UnicodeDecodeError:
            return undecodable(Record(id=id, text=""), id, encoding)
        except InvalidRequestError as error:
            return BadRecord(id=id, reason=UNFIT, detail=f"{id}: {error}; rename the file", is_anonymous=False)


def _unread(id: str, why: str) -> BadRecord:
    # Its id is known: it is there, and must not be taken for deleted.
    return BadRecord(id=id, reason=UNREADABLE, detail=f"{id} {why}", is_anonymous=False)


def _is_sink(folder: str, name: str, found: _Found) -> bool:
    """Return whether a folder is what reindex writes, or keeps beside what it writes."""
    full = os.path.join(folder, name)
    if not name.endswith(".embedmill") and not os.path.isdir(os.path.join(full, ".embedmill")):
        is_beside = os.path.isdir(full + ".embedmill")  # files of Qdrant's client
        if not is_beside:
            return False
    found.passed_over["folders that reindex writes"] += 1
    return True


def _is_written(full: str) -> bool:
    """Return whether a file is one that reindex has written, or its list of rejects."""
    for end in (".ids.jsonl", ".rejects.jsonl"):
        if full.endswith(end):
            stem = full.removesuffix(end)
            is_of_sink = any(os.path.isdir(f"{stem}{ending}.embedmill") for ending in (".npy", ""))
            return is_of_sink or (end == ".rejects.jsonl" and _is_reject_list(full))
    return os.path.isdir(f"{full}.embedmill")


def _is_reject_list(full: str) -> bool:
    try:
        with open_regular(full) as stream:
            return stream.read(7) == b'{"id": ' and b'"reason": ' in stream.readline(4096)
    except (OSError, SourceError):
        return False


def _partitions(paths: list[str]) -> dict[str, dict[str, str | int | None]]:
    """Return what the names of folders say of the records below them, numbers where all values of a name are."""
    said = {folder: _said(folder) for folder in {os.path.dirname(path) for path in paths}}
    texts = {key for values in said.values() for key, value in values.items() if value and not _is_number(value)}
    return {
        folder: {key: int(value) if value and key not in texts else value for key, value in values.items()}
        for folder, values in said.items()
    }


def _said(folder: str) -> dict[str, str | None]:
    found = (_PARTITION.fullmatch(part) for part in folder.split(os.sep))
    pairs = ((match[1], unquote(match[2])) for match in found if match)
    return {key: None if value == _NOTHING else value for key, value in pairs}


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 19
