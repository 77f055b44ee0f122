"""Sinks that are files: every write is a segment, a file of its own that is whole or not there.

A row whose id has been written again, or deleted, counts no more; ``finish`` writes the segments that hold such rows
anew without them. Until then a reader of the folder sees both.
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

#: Files in the folder of state: the ledger, and what all rows have in common.
LEDGER: Final = "ledger.sqlite"
INDEX: Final = "index.json"

#: Ending of the name of what is kept beside a sink.
STATE_SUFFIX: Final = ".embedmill"

#: Bytes of a file of state other than the ledger.
MAX_NOTE_BYTES: Final = 65_536


class SegmentedSink(Sink):
    """A folder of segments, and a folder of state."""

    has_versions = True
    can_update_metadata = True

    #: Ending of segments' file names.
    suffix: str

    def __init__(self, name: str) -> None:
        self.name = name
        self._index: Index | None = None

    @abstractmethod
    def segments(self, index: Index) -> Path:
        """Return the folder of the segments."""

    @abstractmethod
    def state(self, index: Index) -> Path:
        """Return the folder of state."""

    @abstractmethod
    def refuse_foreign(self) -> None:
        """Raise SinkError if there is something that another program has written; asked before anything is."""

    def is_foreign(self, path: Path) -> bool:
        """Return whether another program has written a file among the segments."""
        return False

    @abstractmethod
    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write a file that holds these rows, at once or not at all."""

    @abstractmethod
    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read a file that ``put`` wrote, some rows at a time."""

    def ledger_path(self, index: Index) -> Path:
        """The ledger lies in the folder of state."""
        return self.state(index) / LEDGER

    def index_in(self, state: Path) -> Index | None:
        """Read what all rows have in common from a folder of state."""
        try:
            return Index.from_json(read_regular(state / INDEX, MAX_NOTE_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SinkError(self.name, f"{error.filename} cannot be read: {error.strerror}") from None
        except MessageError as error:
            raise SinkError(self.name, f"{state / INDEX}: {error}") from None

    def open(self, index: Index) -> None:
        """Make the folders."""
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
        """Write a segment with the vectors of the older ones, each of which is read once."""
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
            raise SinkError(self.name, f"lacks {len(at)} of its rows; name another sink, or rebuild it from nothing")
        self.write(replace(rows, vectors=vectors))

    def delete(self, ids: Sequence[str]) -> None:
        """Do nothing: rows that the ledger no longer knows are dropped by ``finish``."""

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Raise SinkError if there are rows: files do not say enough to make a ledger anew."""
        with self.mapped():
            if any(self.segments(self.opened).glob(f"part-*{self.suffix}")):
                path = self.ledger_path(self.opened)
                raise SinkError(self.name, f"its ledger {path} is missing; restore it, or name another sink")
        return iter(())

    def recover(self, write_ids: Set[int]) -> None:
        """Remove segments that the ledger does not know, and what was never whole.

        Raises:
            SinkError: one is missing, or another program's lies there under such a name.
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
        """Drop the rows that count no more."""
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
        """What ``open`` was called with."""
        if self._index is None:
            raise RuntimeError("a sink is opened before it is used")
        return self._index

    def _path(self, write_id: int) -> Path:
        return self.segments(self.opened) / f"part-{write_id:08d}{self.suffix}"

    def _live_rows(self, path: Path, ids: Set[str]) -> Iterator[Rows]:
        for rows in self.read(path, self.opened):
            yield rows.select(np.array([i for i, id in enumerate(rows.ids) if id in ids], np.intp))

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Turn the system's errors into SinkError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SinkError(self.name, f"{error.filename or 'a file'} cannot be written: {reason}") from None


def refuse_others(sink: str, folder: Path, ours: re.Pattern[str]) -> None:
    """Raise SinkError if something else lies in the place of a folder of state.

    Args:
        sink: its name.
        folder: the folder of state, which need not be there.
        ours: names of what reindex puts there.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or any(not ours.fullmatch(path.name) for path in folder.iterdir()):
        raise SinkError(sink, f"{folder} is where its state belongs, and is something else; name another sink")
