"""Sinks that are files: every write creates a segment, which is a file that is written atomically.

A row whose id was written again or deleted is no longer live. ``finish`` rewrites segments without such rows; until
then, a reader of the folder sees old and new rows.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from embedmill.errors import MessageError, SinkError
from embedmill.reindexing.index import Index
from embedmill.reindexing.sinks.base import LiveRows, Rows, Sink
from embedmill.safe.atomic_file import replacing
from embedmill.safe.regular_file import read_regular

#: Files in the state folder: the ledger, and the Index of all rows.
LEDGER: Final = "ledger.sqlite"
INDEX: Final = "index.json"

#: Suffix of the name of the state folder beside a sink.
STATE_SUFFIX: Final = ".embedmill"

#: Most bytes of a state file other than the ledger.
MAX_NOTE_BYTES: Final = 65_536


class SegmentedSink(Sink):
    """A sink with a folder of segments and a state folder, which may be the same."""

    has_versions = True
    can_update_metadata = True

    #: Suffix of the file names of segments.
    suffix: str

    def __init__(self, name: str) -> None:
        self.name = name
        self._index: Index | None = None

    @abstractmethod
    def segments(self, index: Index) -> Path:
        """Return the folder of the segments."""

    @abstractmethod
    def state(self, index: Index) -> Path:
        """Return the state folder."""

    @abstractmethod
    def refuse_foreign(self) -> None:
        """Raise SinkError if another program's files are in the way. Called before anything is written."""

    def is_foreign(self, path: Path) -> bool:
        """Return whether another program wrote a file that is named like a segment."""
        return False

    @abstractmethod
    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write a segment with these rows, atomically."""

    @abstractmethod
    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read a segment, some rows at a time."""

    def ledger_path(self, index: Index) -> Path:
        """Return the ledger's path in the state folder."""
        return self.state(index) / LEDGER

    def index_in(self, state: Path) -> Index | None:
        """Read the Index from a state folder; None if there is none."""
        try:
            return Index.from_json(read_regular(state / INDEX, MAX_NOTE_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SinkError(self.name, f"{error.filename} cannot be read: {error.strerror}") from None
        except MessageError as error:
            raise SinkError(self.name, f"{state / INDEX}: {error}") from None

    def open(self, index: Index) -> None:
        """Create the folders."""
        state = self.state(index)
        with self.mapped():
            if not (state / INDEX).exists():
                self.refuse_foreign()
                self.segments(index).mkdir(parents=True, exist_ok=True)
                state.mkdir(parents=True, exist_ok=True)
                with replacing(state / INDEX) as stream:
                    stream.write(index.to_json().encode() + b"\n")
        self._index = index

    def write(self, rows: Rows) -> None:
        """Write a segment."""
        with self.mapped():
            self.put(self._path(rows.write_id), self.opened, [rows])

    def update_metadata(self, rows: Rows, write_ids: Sequence[int]) -> None:
        """Write a segment with vectors from older segments, each of which is read once."""
        index = self.opened
        vectors = np.empty((len(rows), index.columns), dtype=index.dtype.numpy)
        at = {id: i for i, id in enumerate(rows.ids)}
        with self.mapped():
            for write_id in sorted(set(write_ids)):
                wanted = {id for id, old in zip(rows.ids, write_ids, strict=True) if old == write_id}
                for some in self.read(self._path(write_id), index):
                    for row, id in enumerate(some.ids):
                        if id in wanted:
                            vectors[at.pop(id)] = some.vectors[row]
        if at:
            raise SinkError(
                self.name,
                f"{len(at)} of its rows are missing; name another sink, or remove this one and build it again",
            )
        self.write(replace(rows, vectors=vectors))

    def delete(self, ids: Sequence[str]) -> None:
        """Do nothing: ``finish`` drops rows that are no longer in the ledger."""

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Raise SinkError if there are rows: segments have no digests, so a ledger cannot be restored from them."""
        with self.mapped():
            if any(self.segments(self.opened).glob(f"part-*{self.suffix}")):
                path = self.ledger_path(self.opened)
                raise SinkError(self.name, f"its ledger {path} is missing; restore it, or name another sink")
        return iter(())

    def recover(self, write_ids: Set[int]) -> None:
        """Remove segments that are not in the ledger, and incomplete files.

        Raises:
            SinkError: a segment is missing, or another program's file has the name of one.
        """
        kept = {self._path(write_id).name for write_id in write_ids}
        suffix = re.escape(self.suffix)
        whole, broken = re.compile(rf"part-\d{{8,}}{suffix}"), re.compile(rf"\.part-\d{{8,}}{suffix}\.\w+\.tmp")
        with self.mapped():
            found = list(self.segments(self.opened).iterdir())
            torn = [path for path in (*found, *self.state(self.opened).iterdir()) if broken.fullmatch(path.name)]
            if missing := kept - {path.name for path in found}:
                raise SinkError(self.name, f"{min(missing)} is missing; restore it, or name another sink")
            for path in found:
                if whole.fullmatch(path.name) and path.name not in kept and self.is_foreign(path):
                    raise SinkError(self.name, f"{path.name} was not written by reindex; move it elsewhere")
            for path in (*torn, *(path for path in found if whole.fullmatch(path.name) and path.name not in kept)):
                path.unlink(missing_ok=True)

    def finish(self, live: LiveRows) -> None:
        """Drop the rows that are no longer live."""
        with self.mapped():
            for write_id, n_rows, n_live in live.segments():
                path = self._path(write_id)
                if n_rows and not n_live:
                    path.unlink(missing_ok=True)
                elif n_live < n_rows:
                    self.put(path, self.opened, self._live_rows(path, live.ids(write_id)))
                if n_live < n_rows:
                    live.set_row_count(write_id, n_live)

    @property
    def opened(self) -> Index:
        """The index that ``open`` was called with."""
        if self._index is None:
            raise RuntimeError("the sink is not open; call open first")
        return self._index

    def _path(self, write_id: int) -> Path:
        return self.segments(self.opened) / f"part-{write_id:08d}{self.suffix}"

    def _live_rows(self, path: Path, ids: Set[str]) -> Iterator[Rows]:
        for rows in self.read(path, self.opened):
            yield rows.select(np.array([i for i, id in enumerate(rows.ids) if id in ids], np.intp))

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Turn OSError into SinkError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SinkError(self.name, f"{error.filename or 'a file'} cannot be written: {reason}") from None


def refuse_others(sink: str, folder: Path, ours: re.Pattern[str]) -> None:
    """Raise SinkError if the path of a state folder is a file or contains other files than reindex writes.

    Args:
        sink: name of the sink.
        folder: the state folder, which need not exist.
        ours: matches the names that reindex writes there.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or any(not ours.fullmatch(path.name) for path in folder.iterdir()):
        raise SinkError(
            sink,
            f"{folder}, the folder for its state, was not written by reindex; move it elsewhere, or name another sink",
        )
