"""Reading safetensors: an eight-byte length, a JSON header, raw little-endian tensors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Longest header read, in bytes; the format's own limit.
_MAX_HEADER_BYTES = 100_000_000

#: How each stored dtype is read. BF16 is the upper half of a float32; numpy has no name for it.
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


class SafetensorsFile:
    """The tensors of one memory-mapped file, by name, upcast to float32 as they are read.

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
        except (TypeError, ValueError) as error:
            raise ValueError(f"the header of {path.name} is damaged ({error})") from None
        self._body = data[8 + header_bytes :]
        self._entries = {
            name: _checked(name, entry, len(self._body)) for name, entry in header.items() if name != "__metadata__"
        }

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Returns a tensor as float32; not copied if it is stored so.

        Raises:
            ValueError: there is no such tensor, or it has another shape.
        """
        if name not in self._entries:
            raise ValueError(f"tensor {name} is missing")
        dtype, stored_shape, start = self._entries[name]
        if stored_shape != shape:
            raise ValueError(f"tensor {name} has shape {stored_shape}, config.json asks for {shape}")
        stored: NDArray[Any] = np.frombuffer(self._body, dtype=_STORED[dtype], count=math.prod(shape), offset=start)
        if dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False).reshape(shape)


def _checked(name: str, entry: Any, body_bytes: int) -> tuple[str, tuple[int, ...], int]:
    try:
        dtype, shape, (start, stop) = (
            str(entry["dtype"]),
            tuple(map(int, entry["shape"])),
            map(int, entry["data_offsets"]),
        )
        expected = math.prod(shape) * np.dtype(_STORED[dtype]).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name} has an entry that cannot be read ({error!r})") from None
    if not 0 <= start <= stop <= body_bytes or stop - start != expected:
        raise ValueError(
            f"tensor {name} takes {expected} bytes and should lie at {start} to {stop} of {body_bytes}; "
            "the file is truncated or damaged"
        )
    return dtype, shape, start
