"""Parquet: columns ``id``, ``vector`` (fixed-size list), ``metadata`` (JSON) and, if asked for, ``text``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.reindexing.index import Index
from embedmill.reindexing.sinks.base import Rows
from embedmill.reindexing.sinks.single_file import SingleFile
from embedmill.safe.atomic_file import replacing
from embedmill.safe.regular_file import check_regular

#: Key in the file's metadata under which the Index lies.
INDEX_KEY: Final = b"embedmill"

#: Vectors hardly shrink, and reading them plain is fastest. A list's values are the column ``vector.list.element``.
_VECTOR_CODEC: Final = {"vector.list.element": "none"}

#: Gives back what it no longer needs; Arrow's usual one keeps 40 MB of it.
_POOL: Final = pa.system_memory_pool()

#: Rows read at a time.
BATCH_ROWS: Final = 1_024


def put(path: Path, index: Index, rows: Iterable[Rows], *, folder: Path | None = None) -> None:
    """Write a Parquet file that is whole or not there; folder: see ``replacing``."""
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
                writer.write_batch(to_batch(some, index, table_schema))


def read(path: Path, index: Index) -> Iterator[Rows]:
    """Read a Parquet file that ``put`` wrote."""
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
    """Return whether ``put`` wrote a file."""
    try:
        with pq.ParquetFile(path) as file:
            return INDEX_KEY in (file.schema_arrow.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def schema(index: Index) -> pa.Schema:
    """Return the columns of an index."""
    item = pa.from_numpy_dtype(index.dtype.numpy)
    fields: list[Any] = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.field("item", item, nullable=False), index.columns), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
    if index.with_text:
        fields.append(pa.field("text", pa.string(), nullable=False))
    return pa.schema(fields, metadata={INDEX_KEY: index.to_json().encode()})


def to_batch(rows: Rows, index: Index, table_schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as Arrow holds them, the vectors without a copy."""
    vector_field = table_schema.field("vector")
    flat = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1), memory_pool=_POOL)
    columns: list[Any] = [
        pa.array(rows.ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, type=vector_field.type),
        pa.array(rows.metadata, pa.string()),
    ]
    if rows.texts is not None:
        columns.append(pa.array([_storable(text) for text in rows.texts], pa.string()))
    return pa.record_batch(columns, schema=table_schema)


def _storable(text: str) -> str:
    """Replace what UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class ParquetFile(SingleFile):
    """One Parquet file; see above for its columns."""

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the file."""
        put(self.path, index, rows)
