"""Ways of reading: the path, format and fields of a source, which decide what records it has.

If a source is read differently than before, a missing id is not proof of deletion, so nothing is deleted.
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

#: Keys of a way, as in {"source": "/data/docs", "format": "auto", "kinds": ".md .txt"}. A folder that cannot be read
#: completely has no kinds.
SOURCE: Final = "source"
KINDS: Final = "kinds"

#: Tables in a folder, one per line: those that were read, and those that were skipped because they have no text.
TABLES: Final = "tables"
LEFT_OUT: Final = "tables left out"

#: Value of ``delete_missing`` that deletes also if the source is read differently than before.
ALL: Final = "all"

#: Whether rows whose ids the source no longer has are deleted.
Deletes = bool | Literal["all"]


def changes(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> list[str]:
    """Return messages about what is read differently than before. A file or folder that no longer exists is ignored."""
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
    """Return all ways; those that differ only in kinds and tables are joined."""
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
    """Return tables that were read before and are skipped now because they have no text."""
    left_out = {table for way in now for table in _lines(way, LEFT_OUT)}
    return sorted(left_out.intersection(table for way in before for table in _lines(way, TABLES)))


def check_ways(source: Source, ledger: Ledger, sink: str, *, deletes: Deletes) -> None:
    """Check that missing rows are deleted only if the source is read as before. Older ledgers record no ways.

    Raises:
        InvalidRequestError: ``deletes`` is True, and the source is read differently; or it is not an allowed value.
    """
    if deletes not in (False, True, ALL):
        raise InvalidRequestError("delete_missing", f"takes True, False or {ALL!r}")
    if deletes is True and ledger.count() and (found := changes(ledger.reading(), ways_of(source))):
        raise InvalidRequestError(
            "delete_missing",
            f"nothing was deleted from {printable(sink)}, because its source is read differently: {some(found)}. "
            "To delete the rows that this source does not have anyway, use --delete-missing=all",
        )


def note_ways(source: Source, ledger: Ledger) -> None:
    """Record how a source is read, in addition to earlier ways, whose rows may still be in the sink."""
    before = ledger.reading()
    if (together := merged(before, ways_of(source))) != before:
        ledger.set_reading(together)


def check_origins(source: Source, ledger: Ledger, sink: str, *, replaces: bool) -> None:
    """Check and record which files ids stand for. With ``replaces``, this source may replace another one.

    Raises:
        InvalidRequestError: the sink holds the same ids from another file, which still exists.
    """
    known, origins = ledger.origins(), origins_of(source)
    for label, path in origins.items():
        before = known.get(label, path)
        if before != path and not replaces and Path(before).exists():
            raise InvalidRequestError(
                "source",
                f"{printable(sink)} holds records of {printable(before)} under the same ids. Name both in one call, or "
                "use paths relative to a common folder, or give records an id (--id-field); to replace the other file "
                "by this one, delete missing rows (--delete-missing=all)",
            )
    if any(known.get(label) != path for label, path in origins.items()):
        ledger.set_origins({**known, **origins})
