"""How sources are read, as far as it decides which records there are.

Nothing is deleted on the strength of a source that is read otherwise than before: what it seems to lack may be there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from embedmill.errors import InvalidRequestError, some
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.sources.base import Source, origins_of, ways_of
from embedmill.safe.printable import printable

#: Names of what there is of a way, as in {"source": "/data/docs", "format": "auto", "kinds": ".md .txt"}. The kinds of
#: a folder that cannot be read whole are left out.
SOURCE: Final = "source"
KINDS: Final = "kinds"

#: Tables of a folder, a line each: those that were read, and those that were passed over as they have no text.
TABLES: Final = "tables"
LEFT_OUT: Final = "tables left out"

#: Deletes what the source no longer has, however it was read before.
ALL: Final = "all"

#: Whether rows whose ids the source no longer has are deleted.
Deletes = bool | Literal["all"]


def changes(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what is read otherwise than before, for people; a file or folder that is gone by now is no such thing."""
    found = list[str]()
    for old in before:
        differences = [_differences(old, new) for new in now if new[SOURCE] == old[SOURCE]]
        if differences:
            found += [each for each in min(differences, key=len) if each not in found]
        elif not Path(old[SOURCE]).is_absolute() or os.path.lexists(old[SOURCE]):
            found.append(f"{printable(old[SOURCE])} is not among the sources")
    return found


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    name, found = printable(old[SOURCE]), list[str]()
    if KINDS in new and (gone := sorted(_kinds(old) - _kinds(new))):
        found.append(f"{name} had files of the kind {some(map(printable, gone))}, and has none now")
    for key in sorted({*old, *new} - {SOURCE, KINDS, TABLES, LEFT_OUT}):
        was, now_is = (printable(way.get(key) or "unset") for way in (old, new))
        if was != now_is:
            found.append(f"{name} was read with {key} {was}, and now {now_is}")
    return found


def merged(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return all ways together; those that differ in kinds and tables alone are one."""
    found = dict[frozenset[tuple[str, str]], tuple[set[str], set[str]]]()
    for way in (*before, *now):
        rest = frozenset((key, value) for key, value in way.items() if key not in (KINDS, TABLES, LEFT_OUT))
        kinds, tables = found.setdefault(rest, (set(), set()))
        kinds.update(_kinds(way))
        tables.update(_lines(way, TABLES))
    joined = ((rest, {KINDS: " ".join(sorted(k)), TABLES: "\n".join(sorted(t))}) for rest, (k, t) in found.items())
    return [{**dict(rest), **{key: value for key, value in more.items() if value}} for rest, more in joined]


def _kinds(way: Mapping[str, str]) -> set[str]:
    return set(way.get(KINDS, "").split())


def _lines(way: Mapping[str, str], key: str) -> set[str]:
    return set(way.get(key, "").splitlines())


def hidden(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> list[str]:
    """Return tables that were read before and are there without their text: their records are not gone."""
    left_out = {table for way in now for table in _lines(way, LEFT_OUT)}
    return sorted(left_out.intersection(table for way in before for table in _lines(way, TABLES)))


def check_ways(source: Source, ledger: Ledger, sink: str, *, deletes: Deletes) -> None:
    """Check that nothing is deleted which another way of reading would find; an older ledger knows of none.

    Raises:
        InvalidRequestError: what is missing is to be deleted, and the source is read otherwise than before.
    """
    if deletes not in (False, True, ALL):
        raise InvalidRequestError("delete_missing", f"takes True, False or {ALL!r}")
    if deletes is True and ledger.count() and (found := changes(ledger.reading(), ways_of(source))):
        raise InvalidRequestError(
            "delete_missing",
            f"nothing is deleted from {printable(sink)}, as its source is read otherwise: {some(found)}. "
            "To delete all the same what this source has not, say --delete-missing=all",
        )


def note_ways(source: Source, ledger: Ledger) -> None:
    """Note how a source is read, besides every way before it: rows of all of them may be there."""
    before = ledger.reading()
    if (together := merged(before, ways_of(source))) != before:
        ledger.set_reading(together)


def check_origins(source: Source, ledger: Ledger, sink: str, *, replaces: bool) -> None:
    """Note where ids come from; replaces: this source takes the place of another one.

    Raises:
        InvalidRequestError: the sink holds such ids of another file, which is still there.
    """
    known, origins = ledger.origins(), origins_of(source)
    for label, path in origins.items():
        before = known.get(label, path)
        if before != path and not replaces and Path(before).exists():
            raise InvalidRequestError(
                "source",
                f"{printable(sink)} holds records of {printable(before)} under the same ids. Name both in one call, or "
                "files from a folder above them by their relative paths, or give records an id (--id-field); to put "
                "this one in the place of the other, delete what is missing (--delete-missing=all)",
            )
    if any(known.get(label) != path for label, path in origins.items()):
        ledger.set_origins({**known, **origins})
