"""Vectors as values: how they are cut to fewer dimensions and converted to the bytes of four dtypes.

| dtype     | row                                  | back to numbers                                   |
| float32   | as the model computed it, L2 length 1 |                                                  |
| float16   | rounded to nearest even              | ``row.astype(np.float32)``                        |
| int8      | ``round(127 * x)``; a row longer than 1 is scaled to length 1 first | ``unpack_int8``: ``row / 127`` |
| binary    | bit i is ``x[i] > 0``, most significant bit first, ``dimension / 8`` uint8 a row | ``unpack_binary`` |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.safe.printable import kind

Vectors = npt.NDArray[Any]

#: int8 value of a component of 1.0.
INT8_SCALE: Final = 127.0

#: Finite value that stands for an infinite component; its square still fits a float32.
LARGEST: Final = 1e15

#: Smallest number that float16 rounds to infinity.
FLOAT16_OVERFLOW: Final = np.float32(65_520)

#: Greatest length of a row that counts as length 1, with room for rounding.
LONGEST_UNIT: Final = np.float32(1.001)


#: numpy's code of a type → format that gives each number back to the bit.
_DIGITS: Final = {"f4": "%.9g", "f2": "%.5g", "i1": "%d", "u1": "%d"}


#: Names of the dtypes, as callers write them.
DtypeName = Literal["float32", "float16", "int8", "binary"]


class Dtype(StrEnum):
    """The type in which a vector's components are stored and sent."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"

    @classmethod
    def parse(cls, value: str) -> Dtype:
        """Return the dtype with this name.

        Raises:
            InvalidRequestError: no dtype has this name.
        """
        if value not in tuple(cls):
            raise InvalidRequestError("dtype", f"{kind(value)} is not one of {', '.join(cls)}")
        return cls(value)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype of a row, little-endian."""
        return np.dtype({"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}[self.value])

    def columns(self, dimension: int) -> int:
        """Return the number of items in a row of ``dimension`` components."""
        return dimension // 8 if self is Dtype.BINARY else dimension


def cut(vectors: npt.NDArray[np.float32], dimensions: int | None) -> npt.NDArray[np.float32]:
    """Keep the first ``dimensions`` components and scale rows to length 1 again (Matryoshka, Kusupati 2022).

    Args:
        vectors: float32 (n, dimension).
        dimensions: components to keep; None returns the vectors unchanged.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    # Batch-invariant: einsum sums each row by itself.
    norms = np.sqrt(np.einsum("ij,ij->i", kept, kept, dtype=np.float32))
    return np.asarray(kept / np.maximum(norms, np.float32(1e-12))[:, None], dtype=np.float32)


def to_bytes(vectors: npt.NDArray[np.float32], dtype: Dtype) -> bytes:
    """Convert float32 (n, dimension) to bytes of ``dtype``, row after row. In int8 and binary, NaN becomes zero.

    Raises:
        InvalidRequestError: ``dtype`` is binary and the dimension is not a multiple of 8.
    """
    if dtype is Dtype.FLOAT32:
        return np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    if dtype is Dtype.FLOAT16:
        return vectors.astype("<f2").tobytes()
    finite = np.nan_to_num(vectors, nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    if dtype is Dtype.INT8:
        # Models that do not normalise have longer rows; clipping alone would change their direction.
        norms = np.sqrt(np.einsum("ij,ij->i", finite, finite, dtype=np.float32))
        shortened = finite / np.where(norms > LONGEST_UNIT, norms, np.float32(1))[:, None]
        steps: npt.NDArray[np.int8] = np.rint(np.clip(shortened, -1, 1) * INT8_SCALE).astype(np.int8)
        return steps.tobytes()
    check_binary(vectors.shape[1])
    bits: npt.NDArray[np.uint8] = np.packbits(finite > 0, axis=1)
    return bits.tobytes()


def overflows(vectors: npt.NDArray[np.float32], dtype: Dtype) -> npt.NDArray[np.bool_]:
    """Return which finite rows of (n, dimension) hold a number too large for ``dtype``, bool (n,)."""
    if dtype is not Dtype.FLOAT16:
        return np.zeros(len(vectors), dtype=np.bool_)
    return np.asarray(np.abs(vectors).max(axis=1, initial=0) >= FLOAT16_OVERFLOW)


def from_bytes(data: bytes, dtype: Dtype, dimension: int) -> Vectors:
    """Return a read-only view (n, columns) of the bytes that ``to_bytes`` made.

    Raises:
        MessageError: the data is not a whole number of rows.
    """
    columns = dtype.columns(dimension)
    row_bytes = columns * dtype.numpy.itemsize
    if row_bytes <= 0 or len(data) % row_bytes:
        raise MessageError(f"{len(data)} bytes are not a whole number of {dtype} rows of dimension {dimension}")
    return np.frombuffer(data, dtype=dtype.numpy).reshape(-1, columns)


def blank(count: int, dtype: Dtype, dimension: int) -> Vectors:
    """Return (count, columns) rows that mean «no vector»: NaN, or zeros for integer and binary dtypes."""
    return np.full((count, dtype.columns(dimension)), blank_value(dtype.numpy), dtype=dtype.numpy)


def blank_value(dtype: np.dtype[Any]) -> Any:
    """Return the component of a row that means «no vector»."""
    return dtype.type(np.nan if dtype.kind == "f" else 0)


def finite_rows(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return which rows of (n, columns) hold neither NaN nor infinity, bool (n,); rows of integers always do not."""
    if vectors.dtype.kind != "f":
        return np.ones(len(vectors), dtype=np.bool_)
    return np.asarray(np.isfinite(vectors).all(axis=1))


def row_format(vectors: Vectors) -> str:
    """Return the %-format of a row: components separated by commas, with digits that give each back to the bit."""
    return ",".join([_DIGITS[vectors.dtype.str[1:]]] * vectors.shape[1])


def unpack_int8(vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Convert int8 (n, dimension) to float32 (n, dimension), each component within half a step of 1 / 127.

    A row that was longer than 1 comes back scaled to length 1.
    """
    return vectors.astype(np.float32) / np.float32(INT8_SCALE)


def unpack_binary(vectors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Convert binary uint8 (n, dimension / 8) to float32 (n, dimension) of -1 and 1."""
    return np.unpackbits(vectors, axis=1).astype(np.float32) * 2 - 1


def check_binary(dimension: int) -> None:
    """Raise InvalidRequestError unless ``dimension`` is a multiple of 8."""
    if dimension % 8:
        raise InvalidRequestError("dtype", f"binary needs a dimension that is a multiple of 8, not {dimension}")
