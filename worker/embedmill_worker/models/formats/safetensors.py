"""Safetensors files: an eight-byte length, a JSON header, raw little-endian tensors."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedmill_worker.arrays import Floats

#: Maximum bytes of a header; the format's own limit.
_MAX_HEADER_BYTES = 100_000_000

#: Maximum dimensions of a tensor.
_MAX_RANK = 8

#: Stored dtype → numpy dtype to read it with. BF16 is the upper half of a float32; numpy has no name for it.
_STORED = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I8": "i1",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}


class SafetensorsFile:
    """A memory-mapped file, whose tensors are read by name and upcast to float32.

    Raises:
        ValueError: the file is damaged.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size < 8:
            raise ValueError(f"{path.name} holds {size} bytes, less than a safetensors header")
        data = np.memmap(path, dtype=np.uint8, mode="r")
        header_bytes = int.from_bytes(data[:8].tobytes(), "little")
        if header_bytes > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path.name} announces a header of {header_bytes} bytes, but holds {size} in all")
        try:
            header = dict(json.loads(data[8 : 8 + header_bytes].tobytes()))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the header of {path.name} is damaged ({error})") from None
        self._body = data[8 + header_bytes :]
        self._entries = {
            name: _checked(name, entry, len(self._body)) for name, entry in header.items() if name != "__metadata__"
        }

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape.

        Raises:
            ValueError: the file lacks the tensor.
        """
        return self._entry(name)[1]

    def precision(self, name: str) -> str:
        """Return the precision of a stored tensor, such as "fp16".

        Raises:
            ValueError: the file lacks the tensor.
        """
        dtype = self._entry(name)[0]
        return f"fp{dtype[1:]}" if dtype[0] == "F" else dtype.lower()

    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return a tensor as float32; it is not copied if it is stored as float32.

        Raises:
            ValueError: the file lacks the tensor, or it has another shape.
        """
        stored_shape = self.shape(name)
        if stored_shape != shape:
            raise ValueError(f"tensor {name} has shape {stored_shape}, config.json asks for {shape}")
        return self.mapped(name).astype(np.float32, copy=False)

    def mapped(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored, mapped from the file; only bf16 is copied, to float32.

        Raises:
            ValueError: the file lacks the tensor.
        """
        dtype, shape, start = self._entry(name)
        stored: NDArray[Any] = np.frombuffer(self._body, dtype=_STORED[dtype], count=math.prod(shape), offset=start)
        if dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.reshape(shape)

    def _entry(self, name: str) -> tuple[str, tuple[int, ...], int]:
        if name not in self._entries:
            raise ValueError(f"tensor {name} is missing")
        return self._entries[name]


class SafetensorsFiles:
    """One or several files that hold a model's tensors together.

    Raises:
        ValueError: a file is damaged.
        OSError: a file cannot be opened.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [SafetensorsFile(path) for path in paths]

    def __contains__(self, name: str) -> bool:
        return any(name in file for file in self._files)

    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Read a tensor; see `SafetensorsFile.read`."""
        return next((file for file in self._files if name in file), self._files[0]).read(name, shape)


def _checked(name: str, entry: Any, body_bytes: int) -> tuple[str, tuple[int, ...], int]:
    try:
        dtype, shape, (start, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, stop)
        if len(shape) > _MAX_RANK or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
            raise ValueError("its shape or its offsets are not valid whole numbers")
        expected = math.prod(shape) * np.dtype(_STORED[dtype]).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name} has an invalid entry ({error!r})") from None
    if not 0 <= start <= stop <= body_bytes or stop - start != expected:
        raise ValueError(
            f"tensor {name} takes {expected} bytes and should lie at {start} to {stop} of {body_bytes}; "
            "the file is truncated or damaged"
        )
    return dtype, shape, start
