"""A folder of Parquet files that any program reads as one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from embedmill.atomic_file import sync_folder
from embedmill.errors import SinkError
from embedmill.reindexing.index import Index
from embedmill.reindexing.rows import Rows
from embedmill.reindexing.sink import Sink
from embedmill.reindexing.sinks import parquet
from embedmill.reindexing.sinks.segments import SegmentedSink

#: The folder of state, hidden from programs that read the folder.
STATE: Final = ".embedmill"

#: In the folder of state of a version that is whole: it takes the place of the one before it.
SWITCH: Final = "switch"


class ParquetFolder(SegmentedSink):
    """Each file holds the rows of one window; see ``parquet.py`` for the columns."""

    suffix = ".parquet"

    def __init__(self, folder: Path, *, target: Path | None = None) -> None:
        """Name the folder; target: the folder whose place it takes when it is whole."""
        super().__init__(str(folder))
        self._folder = folder
        self._target = target
        with self.mapped():
            if target is None and not folder.exists():
                self._take_up_switch()

    def segments(self, index: Index) -> Path:
        """They lie in the folder itself."""
        return self._folder

    def state(self, index: Index) -> Path:
        """It lies in a hidden folder there."""
        return self._folder / STATE

    def filled_by(self) -> Index | None:
        """Read it from the folder of state."""
        return self.read_index(self._folder / STATE)

    def refuse_foreign(self) -> None:
        """Raise SinkError if other Parquet files lie there."""
        if self._folder.exists() and any(self._folder.glob("*.parquet")):
            raise SinkError(self.name, "holds Parquet files that no ledger here knows; name a new folder")

    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write one file, a row group an item."""
        parquet.put(path, index, rows)

    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read one file."""
        return parquet.read(path, index)

    def beside(self, index: Index) -> Sink:
        """Build in a folder with the version's tag in its name."""
        folder = self._folder
        return ParquetFolder(folder.with_name(f"{folder.name}.rebuild-{index.tag}"), target=folder)

    def switch(self) -> str:
        """Put the folder in the place of the one before it, which is kept under another name."""
        if self._target is None:
            return ""
        with self.mapped():
            (self._folder / STATE / SWITCH).touch()
            before = self._free_name(self._target)
            if self._target.exists():
                self._target.rename(before)
            self._folder.rename(self._target)
            (self._target / STATE / SWITCH).unlink()
            sync_folder(self._target.parent)
        return f"{self._target} holds the new vectors; those before them are in {before} until you remove it"

    def _free_name(self, target: Path) -> Path:
        old = self.read_index(target / STATE)
        stem = f"{target.name}.before-{old.tag if old else 'unknown'}"
        names = (target.with_name(stem if i == 0 else f"{stem}-{i}") for i in count())
        return next(name for name in names if not name.exists())

    def _take_up_switch(self) -> None:
        """Finish what a crash has interrupted between two renames."""
        for built in self._folder.parent.glob(f"{self._folder.name}.rebuild-*"):
            if (built / STATE / SWITCH).exists():
                built.rename(self._folder)
                (self._folder / STATE / SWITCH).unlink()
                return
