"""What lies in a folder: files that are read, and what is passed over, by kind."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from errno import ELOOP
from itertools import takewhile
from pathlib import Path
from stat import S_ISREG
from typing import Final
from urllib.parse import unquote

from embedmill.reindexing.rejects import is_reject_list
from embedmill.reindexing.sources.forms import FORMS, OF_ENDING
from embedmill.reindexing.sources.suffixes import DOCUMENTS, suffix_of
from embedmill.safe.printable import printable

#: Kinds that a message names as passed over.
SHOWN_KINDS: Final = 8

#: What a partitioned data set's folder is named, as in ``year=2026``, and what stands there for nothing.
_PARTITION: Final = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NOTHING: Final = "__HIVE_DEFAULT_PARTITION__"

Partition = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a folder; paths are below it and have forward slashes."""

    #: Files that are read, sorted.
    paths: list[str] = field(default_factory=list)
    #: Folders that cannot be read, and why.
    broken: dict[str, str] = field(default_factory=dict)
    #: How many files are passed over, by ending or by what they are.
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def has_documents(self) -> bool:
        """Whether some of the files are one text each."""
        return any(is_document(path) for path in self.paths)

    def partitions(self) -> dict[str, Partition]:
        """Return what the names of each folder's path say, as numbers where all values of a name are some."""
        found = {folder: _said(folder) for folder in {path.rpartition("/")[0] for path in self.paths}}
        return _with_numbers(found)

    def note(self) -> str:
        """Return what is passed over, for people."""
        most = self.passed_over.most_common(SHOWN_KINDS)
        more = self.passed_over.total() - sum(count for _, count in most)
        return ", ".join([*(f"{count:,} {kind}" for kind, count in most), *([f"{more:,} others"] if more else [])])


def partition_above(folder: Path) -> Partition:
    """Return what the last folders of a path say: a partition that is named alone keeps its fields."""
    parts = takewhile(_PARTITION.fullmatch, reversed(Path(os.path.realpath(folder)).parts))
    return _with_numbers({"": _said("/".join(reversed(list(parts))))})[""]


def is_document(path: str) -> bool:
    """Return whether a file within a folder is one text."""
    return suffix_of(path) in DOCUMENTS


def list_folder(root: Path, form: str) -> Listing:
    """Look for files; folders behind links are not entered.

    Args:
        root: the folder.
        form: what is read: ``auto``, ``folder`` (documents) or a form of tables.
    """
    listing = Listing()
    root = Path(os.path.realpath(root))

    def fail(error: OSError) -> None:
        path = Path(error.filename).relative_to(root).as_posix()
        listing.broken[path] = f"the folder cannot be read: {error.strerror}"

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [name for name in folders if _is_sink(Path(folder, name))]:
            folders.remove(name)
            listing.passed_over["folders that reindex writes"] += 1
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if kind := _why_not(path, root, form):
                listing.passed_over[kind] += 1
            else:
                listing.paths.append(path.relative_to(root).as_posix())
    listing.paths.sort()
    return listing


def _why_not(path: Path, root: Path, form: str) -> str:
    """Return the kind of a file that is passed over; "": it is read."""
    return next((kind for kind in _reasons(path, root, form) if kind), "")


def _reasons(path: Path, root: Path, form: str) -> Iterator[str]:
    suffix = suffix_of(path.name)
    is_table = suffix in OF_ENDING
    if suffix in DOCUMENTS:
        is_wanted = form in ("auto", "folder")
    elif form in FORMS:
        is_wanted = suffix in FORMS[form].endings
    else:
        is_wanted = is_table and form == "auto"
    if not is_wanted:
        yield printable(suffix) or "without an ending"
    try:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            yield "links that lead out"
        if not S_ISREG(path.stat().st_mode):
            yield "pipes, sockets or devices"
    except OSError as error:  # any other error is reported when the file is read
        yield "links that lead in a circle" if error.errno == ELOOP else ""
    if _is_written(path):
        yield "written by reindex"
    if is_table and any(part.startswith("_") for part in path.relative_to(root).parts):  # as Spark's own files do
        yield "tables whose path begins with _"


def _is_sink(folder: Path) -> bool:
    """Return whether a folder is what reindex writes, or keeps beside what it writes."""
    if folder.name.endswith(".embedmill"):
        return True
    is_older = _is_there(folder / ".embedmill" / "index.json")  # where a sink's state was kept before
    return is_older or _is_folder(folder.with_name(f"{folder.name}.embedmill"))


def _is_written(path: Path) -> bool:
    """Return whether a file is one that reindex has written, or its list of rejects."""
    if _is_folder(path.with_name(f"{path.name}.embedmill")):
        return True
    if path.name.endswith(".ids.jsonl"):
        return _is_folder(path.with_name(f"{path.name.removesuffix('.ids.jsonl')}.npy.embedmill"))
    return path.suffix == ".jsonl" and _is_reject_list(path)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not allowed for this user; reading it will report the error
        return False


def _is_reject_list(path: Path) -> bool:
    try:
        return is_reject_list(path)
    except OSError:
        return False


def _said(folder: str) -> dict[str, str | None]:
    found = (_PARTITION.fullmatch(part) for part in folder.split("/"))
    pairs = ((_unquoted(match[1]), _unquoted(match[2])) for match in found if match)
    return {key: None if value == _NOTHING else value for key, value in pairs}


def _with_numbers(found: Mapping[str, Mapping[str, str | None]]) -> dict[str, Partition]:
    """Return what folders say, as numbers where all values of a name are some."""
    texts = {key for said in found.values() for key, value in said.items() if value and not _is_number(value)}
    return {
        folder: {key: int(value) if value and key not in texts else value for key, value in said.items()}
        for folder, said in found.items()
    }


def _unquoted(text: str) -> str:
    """Return a text with its percent escapes decoded; unchanged if that is not UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _is_number(value: str) -> bool:
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 19
