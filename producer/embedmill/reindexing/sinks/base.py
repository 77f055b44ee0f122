"""Where rows go. A sink of your own is a subclass with ``open``, ``write`` and ``delete``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from embedmill.errors import InvalidRequestError
from embedmill.protocol.vectors import Vectors
from embedmill.reindexing.index import Index


class LiveRows(Protocol):
    """Which of the rows ever written still count, as the ledger knows."""

    def segments(self) -> Sequence[tuple[int, int, int]]:
        """Return (write_id, rows written, rows that still count) of every write, by write_id."""
        ...

    def ids(self, write_id: int) -> Set[str]:
        """Return the ids whose newest row is of that write."""
        ...

    def set_row_count(self, write_id: int, rows: int) -> None:
        """Note that only so many rows are left of that write; 0: it is gone."""


class Sink(ABC):
    """A place for vectors that can be written again and again.

    The reindexer calls ``open`` first and then ``write`` and ``delete`` in turn; when one of them has returned, its
    work must outlast a crash. What was written just before a crash is written once more, with the same bits.
    """

    #: Shown to people; holds no password.
    name: str

    @abstractmethod
    def open(self, index: Index) -> None:
        """Prepare for rows of this index; called once, before everything but ``read_index`` and ``new_version``.

        Raises:
            SinkError: it cannot be.
        """

    @abstractmethod
    def write(self, rows: Rows) -> None:
        """Put rows, each in the place of an older one of the same id.

        Raises:
            SinkError: they were not written, or only some.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows; ids that are not there are no error.

        Raises:
            SinkError: they were not removed, or only some.
        """

    #: Whether ``new_version`` and ``activate`` are there: each version has a ledger of its own.
    has_versions: ClassVar[bool] = False

    #: Whether ``update_metadata`` is there.
    can_update_metadata: ClassVar[bool] = False

    def update_metadata(self, rows: Rows, write_ids: Sequence[int]) -> None:
        """Give rows new metadata and keep their vectors; asked for only if ``can_update_metadata``.

        Args:
            rows: as in ``write``, but with vectors of no columns.
            write_ids: the writes that put their vectors here, (n,).

        Raises:
            SinkError: it was not done, or only in part.
        """
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  most sinks hold nothing open
        """Close connections and files."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files and folders that it writes, none of which may be a source; empty: it is no file."""
        return ()

    def read_index(self) -> Index | None:
        """Return the index that the sink itself keeps of its rows; None: it is new, or keeps none."""
        return None

    def ledger_path(self, index: Index) -> Path | None:
        """Return where the ledger of this version belongs; None: into the user's data directory, by ``name``.

        A sink that is a file or folder has it in ``SINK.embedmill/`` beside it, which also says that it is no source.
        """
        return None

    def count(self) -> int | None:
        """Return the number of rows; None: the ledger knows it best. Called after ``open``."""
        return None

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Return (id, digest, ``record.parent_of`` it) of all rows, some at a time, to restore a lost ledger from.

        Raises:
            SinkError: the sink cannot say, and it holds rows.
        """
        return iter(())

    def recover(self, write_ids: Set[int]) -> None:  # noqa: B027  only files have to
        """Remove what a crash has left of writes other than these; called after ``open``."""

    def finish(self, live: LiveRows) -> None:  # noqa: B027  only files have to
        """Bring everything into its last form; called at the end of a whole run."""

    def new_version(self, index: Index) -> Sink:
        """Return the sink for another version, of this index, while the one in use stays as it is.

        Raises:
            InvalidRequestError: this kind of sink has no versions.
        """
        raise InvalidRequestError("rebuild", f"{self.name} has no versions; name another sink for {index.model}")

    def activate(self) -> str:
        """Make this version the one in use under the sink's name; called at the end of every whole run.

        Returns:
            A sentence for people: where the version before it is kept. Empty: there is none, or it was in use already.
        """
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of one write; everything but ``write_id`` has length n."""

    #: Number of this write, growing and never used again; the same after a crash for the same rows.
    write_id: int
    ids: Sequence[str]
    #: (n, columns)
    vectors: Vectors
    #: JSON objects.
    metadata: Sequence[str] = field(repr=False)
    #: Digests of the records, 24 bytes each; see ``record.digest``.
    digests: Sequence[bytes]
    #: None: the sink does not carry texts.
    texts: Sequence[str] | None = field(repr=False)

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.vectors), len(self.metadata), len(self.digests)}
        if self.texts is not None:
            lengths.add(len(self.texts))
        if len(lengths) != 1:
            raise ValueError(f"rows of unequal lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: npt.NDArray[np.intp]) -> Rows:
        """Return the rows at these positions."""
        chosen: list[int] = positions.tolist()
        return Rows(
            write_id=self.write_id,
            ids=[self.ids[i] for i in chosen],
            vectors=self.vectors[positions],
            metadata=[self.metadata[i] for i in chosen],
            digests=[self.digests[i] for i in chosen],
            texts=None if self.texts is None else [self.texts[i] for i in chosen],
        )
