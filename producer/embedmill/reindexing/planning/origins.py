"""Where the ids of a sink's records come from: two files of one name must not write over each other's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.sources.base import Source
from embedmill.safe.printable import printable


def origins_of(source: Source) -> Mapping[str, str]:
    """Return what ids that are made of places begin with, and the path of the file or folder that it stands for."""
    found: Mapping[str, str] = getattr(source, "origins", {})
    return found


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
