"""Formats of rows in files: lines of JSONL, and NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from embedmill.protocol.vectors import Dtype, Vectors, row_format
from embedmill.reindexing.metadata import in_one_line


def json_line(fields: Mapping[str, str]) -> str:
    """Return a line of JSONL. ``fields`` has name → value as JSON."""
    return in_one_line("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}\n")


def json_rows(vectors: Vectors) -> Iterator[str]:
    """Return each row as JSON, with enough digits to restore every component exactly."""
    form = row_format(vectors)
    for row in vectors:
        yield f"[{form % tuple(row.tolist())}]"


def write_npy_header(stream: IO[bytes], dtype: Dtype, n_rows: int, columns: int) -> None:
    """Write the header of an ``.npy`` file. Its length does not depend on the number of rows."""
    header = {"descr": dtype.numpy.str, "fortran_order": False, "shape": (n_rows, columns)}
    np.lib.format.write_array_header_1_0(stream, header)


def write_npy_rows(stream: IO[bytes], dtype: Dtype, vectors: Vectors) -> None:
    """Append rows to an ``.npy`` file."""
    stream.write(np.ascontiguousarray(vectors, dtype=dtype.numpy).data)
