"""One Parquet file."""

from __future__ import annotations

from collections.abc import Iterable

from embedmill.reindexing.index import Index
from embedmill.reindexing.rows import Rows
from embedmill.reindexing.sinks import parquet
from embedmill.reindexing.sinks.single_file import SingleFile


class ParquetFile(SingleFile):
    """One Parquet file; see ``parquet.py`` for its columns."""

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the file."""
        parquet.put(self.path, index, rows)
