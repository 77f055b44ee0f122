"""A folder of Parquet files that any program reads as one table."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from embedmill.errors import SinkError
from embedmill.reindexing.index import Index
from embedmill.reindexing.sinks import parquet
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.reindexing.sinks.segments import (
    INDEX,
    LEDGER,
    MAX_NOTE_BYTES,
    STATE_SUFFIX,
    SegmentedSink,
    refuse_others,
)
from embedmill.safe.atomic_file import replacing, sync_folder
from embedmill.safe.regular_file import read_regular

#: In the folder of state of a version that is whole: it takes the place of the one before it. Holds what is put behind
#: the name of that one.
SWITCH: Final = "switch"

_BEFORE: Final = re.compile(r"\.before-[0-9a-z]+(-\d+)?")

#: What a folder of state may hold before it says what the rows have in common.
STATE_FILES: Final = re.compile(rf"{re.escape(LEDGER)}(-wal|-shm|-journal)?|\.{re.escape(INDEX)}\.\w+\.tmp")


class ParquetFolder(SegmentedSink):
    """Each file holds the rows of one window; see ``parquet.py`` for the columns."""

    suffix = ".parquet"

    def __init__(self, folder: Path, *, target: Path | None = None) -> None:
        """Name the folder; target: the folder whose place it takes when it is whole."""
        super().__init__(str(folder))
        self._folder = folder
        self._target = target
        #: Where files lie until they are whole; None: nobody has looked.
        self._torn: Path | None = None
        if target is None:
            with self.mapped():
                self._take_up_switch()

    def segments(self, index: Index) -> Path:
        """They lie in the folder itself."""
        return self._folder

    def state(self, index: Index) -> Path:
        """It lies beside the folder, which so holds nothing but Parquet files."""
        return state_of(self._folder)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder, and that of state."""
        return (self._folder, state_of(self._folder))

    def read_index(self) -> Index | None:
        """Read it from the folder of state."""
        with self.mapped():
            found = self.index_in(state_of(self._folder))
            if found is None:
                self.refuse_foreign()
        return found

    def refuse_foreign(self) -> None:
        """Raise SinkError if other files lie there, or in the place of its state."""
        inner, state = self._folder / STATE_SUFFIX, state_of(self._folder)
        if (inner / INDEX).exists():
            reason = f"keeps its state within it, as it no longer does; move {inner} to {state}, and it goes on"
            raise SinkError(self.name, reason)
        if self._folder.exists() and any(not path.name.startswith(".") for path in self._folder.iterdir()):
            raise SinkError(self.name, "holds files that no ledger here knows; name a new folder")
        refuse_others(self.name, state, STATE_FILES)

    def is_foreign(self, path: Path) -> bool:
        """Return whether another program has written a file."""
        return not parquet.is_ours(path)

    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write one file, a row group an item; what is not whole is kept from readers."""
        if self._torn is None:
            self._torn = self._place_of_torn(path)
        parquet.put(path, index, rows, folder=self._torn)

    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read one file."""
        return parquet.read(path, index)

    def new_version(self, index: Index) -> Sink:
        """Build in a folder with the version's tag in its name."""
        folder = self._folder
        built = ParquetFolder(folder.with_name(f"{folder.name}.rebuild-{index.tag}"), target=folder)
        built.read_index()  # what lies there may be another program's
        return built

    def activate(self) -> str:
        """Put the folder in the place of the one before it, which is kept under another name."""
        if self._target is None:
            return ""
        with self.mapped():
            before = self._free_name(self._target)
            with replacing(state_of(self._folder) / SWITCH) as stream:
                stream.write(before.name.removeprefix(self._target.name).encode())
            _switch(self._folder, self._target, before)
        return f"{self._target} holds the new vectors; those before them are in {before} until you remove it"

    def _place_of_torn(self, path: Path) -> Path:
        """Return the folder of state, or the folder itself if it is a mount of its own, into which nothing is moved."""
        state = state_of(self._folder)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=state)
        os.close(descriptor)
        try:
            moved = Path(name).rename(self._folder / Path(name).name)
        except OSError:
            Path(name).unlink()
            return self._folder
        moved.unlink()
        return state

    def _free_name(self, target: Path) -> Path:
        old = self.index_in(state_of(target))
        stem = f"{target.name}.before-{old.tag if old else 'unknown'}"
        names = (target.with_name(stem if i == 0 else f"{stem}-{i}") for i in count())
        return next(name for name in names if not any(map(os.path.lexists, (name, state_of(name)))))

    def _take_up_switch(self) -> None:
        """Finish what a crash has interrupted between two renames."""
        folder = self._folder
        built = folder.parent.glob(f"{glob.escape(folder.name)}.rebuild-*{STATE_SUFFIX}")
        for state in [state_of(folder), *built]:
            try:
                before = read_regular(state / SWITCH, MAX_NOTE_BYTES).decode("ascii", "replace")
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not _BEFORE.fullmatch(before):
                raise SinkError(self.name, f"{state / SWITCH} names no older version; name another sink")
            built_folder = state.with_name(state.name.removesuffix(STATE_SUFFIX))
            _switch(built_folder, folder, folder.with_name(folder.name + before))


def state_of(folder: Path) -> Path:
    """Return the folder of state of a folder of vectors."""
    return folder.with_name(folder.name + STATE_SUFFIX)


def _switch(built: Path, target: Path, before: Path) -> None:
    """Rename what has not been renamed yet: the folders, then the folders of state; the mark goes last."""
    if built != target:
        for new, old, kept in ((built, target, before), (state_of(built), state_of(target), state_of(before))):
            if new.exists():
                if old.exists():
                    old.rename(kept)
                new.rename(old)
    (state_of(target) / SWITCH).unlink()
    sync_folder(target.parent)
