"""Sources of Arrow data: Parquet files, frames of pandas and polars, relations of DuckDB."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.metadata import shown
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Fields, Reading, rest_lost
from embedmill.reindexing.sources.files import mapped
from embedmill.reindexing.sources.formats.columns import check_columns, listed
from embedmill.safe.regular_file import check_regular

#: Most bytes of the rows that are read at a time, before they become Python objects.
BATCH_BYTES: Final = 4 << 20

#: Most rows that become records at a time.
BATCH_ROWS: Final = 1_000

_UTC: Final = "UTC"


class Frame:
    """A source of the rows of an object with Arrow's stream protocol, or of a pyarrow data set."""

    name = "values"

    def __init__(self, values: Any, fields: Fields | None = None) -> None:
        """Check its columns.

        Raises:
            InvalidRequestError: it has no columns, lacks a named one, or has one that Arrow cannot hold.
        """
        self.notes: list[str] = []
        self._values = values
        self._reading = Reading(fields=fields or Fields())
        self._stream = self._open()
        self.notes[:] = check_schema(self.name, self._stream.schema, self._reading)
        self._is_fresh = True

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Yield the records; if reading fails, yield a BadRecord for the rest as the last item."""
        stream = self._stream if self._is_fresh else self._open()
        self._is_fresh = False
        number = 1
        while (batch := self._next(stream, number - 1)) is not None:
            if isinstance(batch, BadRecord):
                yield batch
                return
            for start in range(0, batch.num_rows, BATCH_ROWS):
                rows = batch.slice(start, BATCH_ROWS)
                yield from records(rows, self._reading, self.name, number)
                number += rows.num_rows

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """The way in which the object is read."""
        return [self._reading.fields.way()]

    def fraction(self) -> float | None:
        """Return None: the number of rows is unknown."""
        return None

    def _next(self, stream: pa.RecordBatchReader, read: int) -> Any:
        """Return the next rows, None after the last ones, or a BadRecord if they cannot be read."""
        try:
            return next(stream, None)
        except (pa.ArrowException, OSError) as error:  # its message may quote values
            reason = f"cannot be read after row {read:,} ({type(error).__name__}); only the rows before are read"
            return rest_lost(self.name, reason)

    def _open(self) -> pa.RecordBatchReader:
        kind = type(self._values).__name__
        try:
            if hasattr(self._values, "__arrow_c_stream__"):
                return pa.RecordBatchReader.from_stream(self._values)
            return (self._values.scanner() if hasattr(self._values, "scanner") else self._values).to_reader()
        except Exception as error:  # raised by the library of the object; its message may quote values
            if not hasattr(self._values, "columns") and isinstance(error, pa.ArrowInvalid):
                reason = f"{kind} is one column; pass the frame that it is from, or (id, text)"
            else:
                way_out = "pass columns with one type each and unique names, or records, as in to_dict('records')"
                reason = f"{kind} has {_unfit_column(error)} that Arrow cannot hold ({type(error).__name__}); {way_out}"
            raise InvalidRequestError("source", reason) from None


def _unfit_column(error: Exception) -> str:
    """Return the column that Arrow cannot hold, with its name if pyarrow's error has it."""
    found = re.search(r"failed for column (.+) with type", str(error), re.DOTALL)
    return f"a column {shown(found[1])}" if found else "a column"


def check_schema(name: str, schema: pa.Schema, reading: Reading) -> list[str]:
    """Check the columns of a table, and return notes about them.

    Raises:
        InvalidRequestError: a named field is missing or ambiguous, or the text field has another type.
    """
    notes = check_columns(name, schema.names, reading, lambda path: type_at(schema, path) is not None)
    kind = type_at(schema, reading.fields.text)
    if kind is not None and not _is_text(kind):
        texts = [field.name for field in schema if _is_text(field.type)]
        more = f"; text is in {listed(texts)}" if texts else ""
        raise InvalidRequestError("text field", f"{name} holds {kind} in {reading.fields.text!r}{more} (--text-field)")
    return notes


def records(batch: pa.RecordBatch, reading: Reading, name: str, first: int) -> Iterator[Record | BadRecord]:
    """Return a record for each row; ``first`` is the number of the first row."""
    wanted = [column for column in batch.schema.names if reading.fields.wants(column)]
    columns = [_read_values(batch.column(column), name, column) for column in wanted]
    record, partition = reading.fields.record, reading.partition
    for number, row in enumerate(zip(*columns, strict=True), start=first):
        fields = dict(zip(wanted, row, strict=True))
        yield record({**partition, **fields} if partition else fields, f"{name}:{number}")


def _read_values(column: Any, name: str, field: str) -> list[Any]:
    """Return a column's values as Python objects.

    Raises:
        SourceError: they cannot be converted.
    """
    try:
        return _values(column)
    except (pa.ArrowException, ValueError, OverflowError) as error:  # their messages may quote values
        way_out = "leave it out (--metadata)"
        reason = f"its column {shown(field)} ({column.type}) cannot be read ({type(error).__name__}); {way_out}"
        raise SourceError(name, reason) from None


def _values(column: Any) -> list[Any]:
    """Return a column's values as Python objects; those that Python cannot hold as text."""
    known = _mapped(column.type, _known)
    column = column if known == column.type else column.cast(known)
    written = _mapped(known, _written)
    column = column if written == known else column.cast(written)
    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    except KeyError:  # a map with a repeated key stays a list of pairs
        values = column.to_pylist()
    return values


def _written(kind: Any) -> Any:
    """Return the type of text for types that Python or JSON cannot hold."""
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.string()
    return pa.string() if pa.types.is_decimal(kind) else kind


def _known(kind: Any) -> Any:
    """Return a timestamp type in UTC if its time zone is unknown."""
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return kind
    try:
        pa.array([0], kind).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.timestamp(kind.unit, _UTC)
    return kind


def _mapped(kind: Any, leaf: Callable[[Any], Any]) -> Any:  # noqa: PLR0911  one line per type
    """Return a type in which ``leaf`` has replaced the innermost types."""

    def inner(field: Any) -> Any:
        return field.with_type(_mapped(field.type, leaf))

    if pa.types.is_struct(kind):
        return pa.struct([inner(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_mapped(kind.key_type, leaf), _mapped(kind.item_type, leaf))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(inner(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_field))
    if pa.types.is_dictionary(kind):
        mapped = _mapped(kind.value_type, leaf)
        return kind if mapped == kind.value_type else mapped
    return leaf(kind)


def type_at(schema: pa.Schema, path: str) -> Any:
    """Return the type of a field, or of the field at a path; None if it does not exist."""
    if path in schema.names:
        return schema.field(schema.get_all_field_indices(path)[0]).type
    head, _, rest = path.partition(".")
    if not rest or head not in schema.names:
        return None
    kind = schema.field(schema.get_all_field_indices(head)[0]).type
    return type_at(pa.schema(list(kind)), rest) if pa.types.is_struct(kind) else None


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    checks = (
        "is_string",
        "is_large_string",
        "is_string_view",
        "is_binary",
        "is_large_binary",
        "is_binary_view",
        "is_null",
    )
    return any(getattr(pa.types, check)(kind) for check in checks)


class Parquet:
    """A source that reads a Parquet file."""

    def __init__(self, path: str, name: str, reading: Reading) -> None:
        """Read the footer and check the columns.

        Raises:
            SourceError: it is not a Parquet file.
            InvalidRequestError: it lacks a named field.
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
        """Yield the records; if reading fails, yield a BadRecord for the rest as the last item."""
        self._read_rows = 0
        try:
            with self._opened() as file:
                for batch in file.iter_batches(batch_size=_batch_rows(file), columns=self._columns(file)):
                    yield from records(batch, self.reading, self.name, self._read_rows + 1)
                    self._read_rows += batch.num_rows
        except SourceError as error:
            reason = f"{error.reason} after row {self._read_rows:,}; only the rows before are read"
            yield rest_lost(self.name, reason)

    @property
    def origins(self) -> dict[str, str]:
        """Prefix of ids that are positions → path of the file."""
        return {} if self._has_ids else {self.name: os.path.realpath(self.path)}

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """The way in which the file is read."""
        return [self.reading.way(self.path, "parquet")]

    def fraction(self) -> float | None:
        """Return the share of the rows that has been read."""
        return self._read_rows / self._n_rows if self._n_rows else 1.0

    def _columns(self, file: pq.ParquetFile) -> list[str]:
        return [name for name in file.schema_arrow.names if self.reading.fields.wants(name)]

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """Open the file without mapping it into memory: a mapped file that is truncated would kill this process."""
        try:
            with mapped(self.name):
                check_regular(Path(self.path))
                try:
                    with pq.ParquetFile(self.path) as file:
                        yield file
                except OSError as error:
                    if error.errno is not None:
                        raise
                    reason = "is encrypted" if "crypt" in str(error) else "cannot be read as Parquet: it is damaged"
                    raise SourceError(self.name, reason) from None
        except (pa.ArrowException, UnicodeDecodeError) as error:  # their messages may quote values
            raise SourceError(self.name, f"cannot be read as Parquet ({type(error).__name__})") from None


def _batch_rows(file: pq.ParquetFile) -> int:
    """Return the number of rows to read at a time, so that they take at most ``BATCH_BYTES``."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    longest = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=1)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, longest)))
