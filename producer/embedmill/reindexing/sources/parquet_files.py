"""Parquet: a record a row."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.errors import SourceError
from embedmill.harmless import printable
from embedmill.limits import MAX_DETAIL_CHARS
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import Fields
from embedmill.reindexing.sources.files import mapped, size_of

#: Rows read at a time.
BATCH_ROWS: Final = 1_000


class Parquet:
    """A file, or all ``*.parquet`` files of a folder in the order of their names."""

    def __init__(self, path: str, fields: Fields) -> None:
        """Read the files' footers.

        Raises:
            SourceError: one is no Parquet file, or has no such field.
        """
        self.name = Path(path).name
        self._fields = fields
        root = Path(path)
        with mapped(path):  # glob would take a folder that may not be listed for an empty one
            self._paths = sorted(p for p in root.iterdir() if p.suffix == ".parquet") if root.is_dir() else [root]
        self._n_rows = sum(map(self._check, self._paths))
        self._read_rows = 0

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Read file by file, some rows at a time."""
        self._read_rows = 0
        for path in self._paths:
            yield from self._file(path)

    def fraction(self) -> float | None:
        """Say how many of the rows have been read."""
        return self._read_rows / self._n_rows if self._n_rows else 1.0

    def _check(self, path: Path) -> int:
        size_of(path)
        with _mapped(path), pq.ParquetFile(path) as file:
            if self._fields.text not in file.schema_arrow.names:
                shown = printable(", ".join(file.schema_arrow.names[:10]), limit=MAX_DETAIL_CHARS)
                raise SourceError(path.name, f"has no field {self._fields.text!r}, but {shown}; name the text field")
            return int(file.metadata.num_rows)

    def _file(self, path: Path) -> Iterator[Record | BadRecord]:
        size_of(path)
        with _mapped(path), pq.ParquetFile(path, memory_map=True) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=self._columns(file)):
                rows = batch.to_pylist()
                self._read_rows += len(rows)
                for row in rows:
                    number += 1
                    yield self._fields.record(
                        {key: _json(value) for key, value in row.items()}, f"{path.name}:{number}"
                    )

    def _columns(self, file: pq.ParquetFile) -> list[str] | None:
        wanted = self._fields.metadata
        if wanted is None:
            return None
        return [name for name in file.schema_arrow.names if name in (self._fields.text, self._fields.id, *wanted)]


def _json(value: Any) -> Any:
    """Give what JSON can hold; of bytes it can hold none, and the record says so later."""
    match value:
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID() | datetime.timedelta():
            return str(value)
        case list():
            return [_json(item) for item in value]
        case dict():
            return {key: _json(item) for key, item in value.items()}
    return value


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Turn Arrow's errors into SourceError; their messages may quote values and are not passed on."""
    try:
        with mapped(path.name):
            yield
    except pa.ArrowException as error:
        raise SourceError(path.name, f"cannot be read as Parquet ({type(error).__name__})") from None
