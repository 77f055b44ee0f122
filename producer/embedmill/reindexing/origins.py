"""Where the ids of a sink's records come from: two files of one name must not write over each other's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.ledger import Ledger
from embedmill.reindexing.printable import printable
from embedmill.reindexing.source import Source


def origins_of(source: Source) -> Mapping[str, str]:
    """Return what ids that are made of places begin with, and the path of the file or folder that it stands for."""
    found: Mapping[str, str] = getattr(source, "origins", {})
    return found


def check_origins(source: Source, ledger: Ledger, sink: str) -> None:
    """Note where ids come from.

    Raises:
        InvalidRequestError: the sink holds such ids of another file, which is still there.
    """
    known, origins = ledger.origins(), origins_of(source)
    for label, path in origins.items():
        before = known.get(label, path)
        if before != path and Path(before).exists():
            raise InvalidRequestError(
                "source",
                f"{printable(sink)} holds records of {printable(before)} under the same ids; name both in one call or, "
                "from a folder above them, by their relative paths, or give records an id (--id-field)",
            )
    if any(known.get(label) != path for label, path in origins.items()):
        ledger.set_origins({**known, **origins})
