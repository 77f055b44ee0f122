"""Documents that are split: which of them are whole in the sink, so that the next run need not split them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from embedmill.reindexing.planning.ledger import Document
from embedmill.reindexing.record import BadRecord, Record, digest
from embedmill.reindexing.sources.base import Source


@runtime_checkable
class SplitSource(Protocol):
    """A source whose records are cut into parts."""

    @property
    def documents(self) -> Source:
        """The source of what is cut."""
        ...

    @property
    def settings(self) -> str:
        """What parts depend on besides their documents."""
        ...

    def parts(self, record: Record) -> Iterator[Record | BadRecord]:
        """Cut one record."""
        ...


def document_of(record: Record, metadata_json: str, settings: str) -> Document:
    """Return what a ledger knows a record by."""
    hashed = hashlib.blake2b(digest(record.text, metadata_json), digest_size=16)
    hashed.update(settings.encode())
    return Document(id=record.id, digest=hashed.digest(), n_parts=0)


@dataclass(slots=True)
class _Open:
    document: Document
    left: int


class OpenDocuments:
    """Documents of which some parts are not in the sink yet."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._whole: list[Document] = []

    def begin(self, document: Document) -> None:
        """Wait for all parts of a document."""
        self._open[document.id] = _Open(document, document.n_parts)

    def drop(self, parent: str) -> None:
        """Know a document no longer: one of its parts has no vector, and the next run has to see it again."""
        self._open.pop(parent, None)

    def done(self, parents: Iterable[str]) -> None:
        """Count a part of each of these documents as being in the sink."""
        if not self._open:
            return
        for parent in parents:
            found = self._open.get(parent)
            if found is None:
                continue
            found.left -= 1
            if not found.left:
                self._whole.append(self._open.pop(parent).document)

    def take_whole(self) -> list[Document]:
        """Return the documents that have become whole since the last call."""
        whole, self._whole = self._whole, []
        return whole
