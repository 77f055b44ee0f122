"""Parquet sinks: one file, or a folder of files that readers of Parquet take as one table.

The columns are ``id``, ``vector`` (fixed-size list), ``metadata`` (JSON) and, with ``with_text``, ``text``.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.errors import SinkError
from embedmill.reindexing.index import Index
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.reindexing.sinks.segments import (
    INDEX,
    LEDGER,
    MAX_NOTE_BYTES,
    STATE_SUFFIX,
    SegmentedSink,
    refuse_others,
)
from embedmill.reindexing.sinks.single_file import SingleFile
from embedmill.safe.atomic_file import replacing, sync_folder
from embedmill.safe.regular_file import check_regular, read_regular
from embedmill.safe.utf8 import storable

#: File in the state folder of a complete version while it replaces the previous one. Contains the suffix that the
#: previous version's folder is given.
SWITCH: Final = "switch"

_BEFORE: Final = re.compile(r"\.before-[0-9a-z]+(-\d+)?")

#: Names of files that a state folder may contain before its index is written.
STATE_FILES: Final = re.compile(rf"{re.escape(LEDGER)}(-wal|-shm|-journal)?|\.{re.escape(INDEX)}\.\w+\.tmp")


#: Key of the Index in the file's metadata.
INDEX_KEY: Final = b"embedmill"

#: Vectors hardly compress, and are fastest to read uncompressed. Their column is ``vector.list.element``.
_VECTOR_CODEC: Final = {"vector.list.element": "none"}

#: Memory pool that returns freed memory to the system; Arrow's default keeps 40 MB of it.
_POOL: Final = pa.system_memory_pool()

#: Rows read at a time.
BATCH_ROWS: Final = 1_024


def write_file(path: Path, index: Index, rows: Iterable[Rows], *, folder: Path | None = None) -> None:
    """Write a Parquet file atomically; for ``folder`` see ``replacing``."""
    table_schema = schema(index)
    plain = [name for name in table_schema.names if name != "vector"]
    options: dict[str, Any] = {
        "compression": dict.fromkeys(plain, "zstd") | _VECTOR_CODEC,
        "use_dictionary": False,
        "write_statistics": ["id"],
        "memory_pool": _POOL,
    }
    with (
        replacing(path, folder=folder) as stream,
        pq.ParquetWriter(cast(BinaryIO, stream), table_schema, **options) as writer,
    ):
        for some in rows:
            if len(some):
                writer.write_batch(to_batch(some, table_schema))


def read_file(path: Path, index: Index) -> Iterator[Rows]:
    """Read a Parquet file that ``write_file`` wrote."""
    check_regular(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            ids = batch.column("id").to_pylist()
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            yield Rows(
                write_id=0,
                ids=ids,
                vectors=np.asarray(flat, dtype=index.dtype.numpy).reshape(-1, index.columns),
                metadata=batch.column("metadata").to_pylist(),
                digests=[b""] * len(ids),
                texts=batch.column("text").to_pylist() if index.with_text else None,
            )


def is_ours(path: Path) -> bool:
    """Return whether ``write_file`` wrote a file."""
    try:
        with pq.ParquetFile(path) as file:
            return INDEX_KEY in (file.schema_arrow.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def schema(index: Index) -> pa.Schema:
    """Return the schema of a file with this index."""
    item = pa.from_numpy_dtype(index.dtype.numpy)
    fields: list[Any] = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.field("item", item, nullable=False), index.columns), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
    if index.with_text:
        fields.append(pa.field("text", pa.string(), nullable=False))
    return pa.schema(fields, metadata={INDEX_KEY: index.to_json().encode()})


def to_batch(rows: Rows, table_schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as an Arrow batch, without copying the vectors."""
    vector_field = table_schema.field("vector")
    flat = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1), memory_pool=_POOL)
    columns: list[Any] = [
        pa.array(rows.ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, type=vector_field.type),
        pa.array(rows.metadata, pa.string()),
    ]
    if rows.texts is not None:
        columns.append(pa.array(list(map(storable, rows.texts)), pa.string()))
    return pa.record_batch(columns, schema=table_schema)


class ParquetFile(SingleFile):
    """A sink that is one Parquet file."""

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the file."""
        write_file(self.path, index, rows)


class ParquetFolder(SegmentedSink):
    """A sink that is a folder with one Parquet file per window."""

    suffix = ".parquet"

    def __init__(self, folder: Path, *, target: Path | None = None) -> None:
        """Open a folder. If ``target`` is given, this is a new version that replaces ``target`` when it is complete."""
        super().__init__(str(folder))
        self._folder = folder
        self._target = target
        #: Folder of files until they are complete; None if not known yet.
        self._torn: Path | None = None
        if target is None:
            with self.mapped():
                self._take_up_switch()

    def segments(self, index: Index) -> Path:
        """Return the folder itself."""
        return self._folder

    def state(self, index: Index) -> Path:
        """Return the folder beside it, so that the sink's folder contains Parquet files only."""
        return state_of(self._folder)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder and its state folder."""
        return (self._folder, state_of(self._folder))

    def read_index(self) -> Index | None:
        """Read the index from the state folder."""
        with self.mapped():
            found = self.index_in(state_of(self._folder))
            if found is None:
                self.refuse_foreign()
        return found

    def refuse_foreign(self) -> None:
        """Raise SinkError if the folder or its state folder contains files of another program."""
        inner, state = self._folder / STATE_SUFFIX, state_of(self._folder)
        if (inner / INDEX).exists():
            reason = f"keeps its state in {inner}, as older versions did; move it to {state} and run this again"
            raise SinkError(self.name, reason)
        if self._folder.exists() and any(not path.name.startswith(".") for path in self._folder.iterdir()):
            raise SinkError(self.name, "contains files that are in no ledger; name a new folder")
        refuse_others(self.name, state, STATE_FILES)

    def is_foreign(self, path: Path) -> bool:
        """Return whether another program wrote a file."""
        return not is_ours(path)

    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write one file, with a row group per item. Readers of the folder never see an incomplete file."""
        if self._torn is None:
            self._torn = self._place_of_torn(path)
        write_file(path, index, rows, folder=self._torn)

    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read one file."""
        return read_file(path, index)

    def new_version(self, index: Index) -> Sink:
        """Return a sink whose folder has the version's tag in its name."""
        folder = self._folder
        built = ParquetFolder(folder.with_name(f"{folder.name}.rebuild-{index.tag}"), target=folder)
        built.read_index()  # raises SinkError if another program's files are there
        return built

    def activate(self) -> str:
        """Rename the previous folder, which is kept, and give its name to this one."""
        if self._target is None:
            return ""
        with self.mapped():
            before = self._free_name(self._target)
            with replacing(state_of(self._folder) / SWITCH) as stream:
                stream.write(before.name.removeprefix(self._target.name).encode())
            _switch(self._folder, self._target, before)
        return f"{self._target} holds the new vectors; the previous ones are in {before} until you remove it"

    def _place_of_torn(self, path: Path) -> Path:
        """Return the state folder, or the folder itself if that is another mount, which no rename crosses."""
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
        """Finish a switch that a crash interrupted between two renames."""
        folder = self._folder
        built = folder.parent.glob(f"{glob.escape(folder.name)}.rebuild-*{STATE_SUFFIX}")
        for state in [state_of(folder), *built]:
            try:
                before = read_regular(state / SWITCH, MAX_NOTE_BYTES).decode("ascii", "replace")
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not _BEFORE.fullmatch(before):
                raise SinkError(
                    self.name, f"{state / SWITCH} is damaged: it does not name a previous version; name another sink"
                )
            built_folder = state.with_name(state.name.removesuffix(STATE_SUFFIX))
            _switch(built_folder, folder, folder.with_name(folder.name + before))


def state_of(folder: Path) -> Path:
    """Return the state folder of a folder of vectors."""
    return folder.with_name(folder.name + STATE_SUFFIX)


def _switch(built: Path, target: Path, before: Path) -> None:
    """Do the renames that are not done yet, first the folders, then their state folders; then remove SWITCH."""
    if built != target:
        for new, old, kept in ((built, target, before), (state_of(built), state_of(target), state_of(before))):
            if new.exists():
                if old.exists():
                    old.rename(kept)
                new.rename(old)
    (state_of(target) / SWITCH).unlink()
    sync_folder(target.parent)


SINKS: Final = {"": ParquetFolder, ".parquet": ParquetFile}
