"""Parquet: a record a row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.errors import SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import rest_lost
from embedmill.reindexing.sources.files import Reading, mapped
from embedmill.reindexing.sources.formats.arrow import BATCH_ROWS, check_schema, records, type_at
from embedmill.safe.regular_file import check_regular

#: Bytes of the rows read at a time, before they are values of Python.
BATCH_BYTES: Final = 4 << 20


class Parquet:
    """A file."""

    def __init__(self, path: str, name: str, reading: Reading) -> None:
        """Read its footer.

        Raises:
            SourceError: it is no Parquet file.
            InvalidRequestError: it has no such field.
        """
        self.name = name
        self.path = path
        self.reading = reading
        self.notes: list[str] = []
        self._read_rows = 0
        with self._opened() as file:
            self.notes[:] = check_schema(name, file.schema_arrow, reading)
            self._has_ids = type_at(file.schema_arrow, reading.fields.id) is not None
            self._n_rows = int(file.metadata.num_rows)

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Read some rows at a time; where it cannot be read on, that is the last thing it gives."""
        self._read_rows = 0
        try:
            with self._opened() as file:
                for batch in file.iter_batches(batch_size=_batch_rows(file), columns=self._columns(file)):
                    yield from records(batch, self.reading, self.name, self._read_rows + 1)
                    self._read_rows += batch.num_rows
        except SourceError as error:
            reason = f"{error.reason} after row {self._read_rows:,}; only what comes before is read"
            yield rest_lost(self.name, reason)

    @property
    def origins(self) -> dict[str, str]:
        """What ids made of places begin with, and where the file is."""
        return {} if self._has_ids else {self.name: os.path.realpath(self.path)}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How it is read."""
        return [self.reading.way(self.path, "parquet")]

    def fraction(self) -> float | None:
        """Return the share of the rows that has been read."""
        return self._read_rows / self._n_rows if self._n_rows else 1.0

    def _columns(self, file: pq.ParquetFile) -> list[str]:
        return [name for name in file.schema_arrow.names if self.reading.fields.wants(name)]

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """Open it, without mapping it into memory: who writes it anew meanwhile would end this process."""
        try:
            with mapped(self.name):
                check_regular(Path(self.path))
                try:
                    with pq.ParquetFile(self.path) as file:
                        yield file
                except OSError as error:
                    if error.errno is not None:
                        raise
                    reason = "is encrypted" if "crypt" in str(error) else "cannot be read as Parquet, it is damaged"
                    raise SourceError(self.name, reason) from None
        except (pa.ArrowException, UnicodeDecodeError) as error:  # their messages may quote values
            raise SourceError(self.name, f"cannot be read as Parquet ({type(error).__name__})") from None


def _batch_rows(file: pq.ParquetFile) -> int:
    """Return how many rows are few enough for memory."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    longest = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=1)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, longest)))
