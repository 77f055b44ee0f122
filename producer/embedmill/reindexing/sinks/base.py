"""The interface of sinks, which store rows. A sink of your own subclasses ``Sink``: ``open``, ``write``, ``delete``."""

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
    """The ledger's view of a sink: which of the rows ever written are live, that is neither replaced nor deleted."""

    def segments(self) -> Sequence[tuple[int, int, int]]:
        """Return (write_id, rows in its segment, live rows) of every write, ordered by write_id."""
        ...

    def ids(self, write_id: int) -> Set[str]:
        """Return the ids of the live rows of a write."""
        ...

    def set_row_count(self, write_id: int, rows: int) -> None:
        """Record the number of rows that remain in the segment of a write; 0 if it was removed."""


class Sink(ABC):
    """A store of rows that runs of reindex bring up to date.

    The reindexer calls ``open`` first and then ``write`` and ``delete`` in any order. When one of them has returned,
    its changes must survive a crash. Rows written just before a crash are written again, with the same bits.
    """

    #: Name for messages, without a password.
    name: str

    @abstractmethod
    def open(self, index: Index) -> None:
        """Prepare for rows of this index. Called once; only ``read_index`` and ``new_version`` may be called before.

        Raises:
            SinkError: the sink cannot be prepared.
        """

    @abstractmethod
    def write(self, rows: Rows) -> None:
        """Write rows; each replaces an older one with the same id.

        Raises:
            SinkError: some or all were not written.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows; ignore ids that the sink does not have.

        Raises:
            SinkError: some or all were not deleted.
        """

    #: Whether ``new_version`` and ``activate`` are implemented. Each version has its own ledger.
    has_versions: ClassVar[bool] = False

    #: Whether ``update_metadata`` is implemented.
    can_update_metadata: ClassVar[bool] = False

    def update_metadata(self, rows: Rows, write_ids: Sequence[int]) -> None:
        """Replace the metadata of rows and keep their vectors. Called only if ``can_update_metadata``.

        Args:
            rows: as in ``write``, but with vectors of shape (n, 0).
            write_ids: ids of the writes that stored their vectors, (n,).

        Raises:
            SinkError: some or all were not updated.
        """
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  most sinks have nothing to close
        """Close connections and files."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files and folders that the sink writes, which must not be a source; empty if it is not a file."""
        return ()

    def read_index(self) -> Index | None:
        """Return the index that the sink stores with its rows; None if it is new or stores none."""
        return None

    def ledger_path(self, index: Index) -> Path | None:
        """Return the path of this version's ledger; None puts it into the user's data directory, by ``name``.

        A sink that is a file or folder keeps it in ``SINK.embedmill/`` next to it, which also marks it as not a source.
        """
        return None

    def count(self) -> int | None:
        """Return the number of rows; None if only the ledger knows it. Called after ``open``."""
        return None

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Return (id, digest, ``record.parent_of`` it) of all rows, in batches. A lost ledger is restored from them.

        Raises:
            SinkError: the sink holds rows, but not these fields.
        """
        return iter(())

    def recover(self, write_ids: Set[int]) -> None:  # noqa: B027  only file sinks need it
        """Remove what a crash has left of writes not listed here. Called after ``open``."""

    def finish(self, live: LiveRows) -> None:  # noqa: B027  only file sinks need it
        """Bring the sink into its final form. Called at the end of a complete run."""

    def new_version(self, index: Index) -> Sink:
        """Return a sink that builds a new version with this index; the version in use stays unchanged.

        Raises:
            InvalidRequestError: this kind of sink has no versions.
        """
        raise InvalidRequestError("rebuild", f"{self.name} has no versions; name another sink for {index.model}")

    def activate(self) -> str:
        """Make this version the one in use under the sink's name. Called at the end of every complete run.

        Returns:
            A message that says where the previous version is kept; empty if this version was in use already.
        """
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one write. Every field but ``write_id`` has length n."""

    #: Id of this write: increasing, never reused, and the same if a crash causes the rows to be written again.
    write_id: int
    ids: Sequence[str]
    #: (n, columns)
    vectors: Vectors
    #: JSON objects.
    metadata: Sequence[str] = field(repr=False)
    #: Digests of the records, 24 bytes each; see ``record.digest``.
    digests: Sequence[bytes]
    #: None if the sink does not store texts.
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
