"""Rows as files hold them: lines of JSONL, and arrays of numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from embedmill.protocol.vectors import Dtype, Vectors, row_format
from embedmill.reindexing.metadata import in_one_line


def json_line(fields: Mapping[str, str]) -> str:
    """Return a line of JSONL; fields: name → value as JSON."""
    return in_one_line("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}\n")


def json_rows(vectors: Vectors) -> Iterator[str]:
    """Return each row as JSON, with digits that give each component back to the bit."""
    form = row_format(vectors)
    for row in vectors:
        yield f"[{form % tuple(row.tolist())}]"


def write_npy_header(stream: IO[bytes], dtype: Dtype, n_rows: int, columns: int) -> None:
    """Write what an ``.npy`` file of this shape begins with; its length is the same for every number of rows."""
    header = {"descr": dtype.numpy.str, "fortran_order": False, "shape": (n_rows, columns)}
    np.lib.format.write_array_header_1_0(stream, header)


def write_npy_rows(stream: IO[bytes], dtype: Dtype, vectors: Vectors) -> None:
    """Append rows to an ``.npy`` file."""
    stream.write(np.ascontiguousarray(vectors, dtype=dtype.numpy).data)
