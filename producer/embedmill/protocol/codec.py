"""Packed values and the plain fields of hashes. No I/O here.

A packed value is a frame byte (0 plain, 1 zlib) and msgpack. Readers accept only the types that are written here, of
bounded size, and raise MessageError for everything else.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from embedmill.errors import MessageError
from embedmill.limits import MAX_ENTRY_BYTES, MAX_JOB_TEXTS

#: Packed size in bytes from which a value is compressed; below it, compression costs more than it saves.
COMPRESS_FROM_BYTES: Final = 4_096

#: Most characters of a name.
MAX_LABEL_CHARS: Final = 512

#: Largest number that Redis and Lua count exactly.
_MAX_NUMBER: Final = float(1 << 53)


def is_label(value: Any) -> bool:
    """Return whether a value is a printable str of at most ``MAX_LABEL_CHARS`` characters."""
    return type(value) is str and len(value) <= MAX_LABEL_CHARS and value.isprintable()


def check_entry_size(data: str | bytes) -> None:
    """Raise MessageError if a worker entry or a model card is larger than ``MAX_ENTRY_BYTES``."""
    if len(data) > MAX_ENTRY_BYTES:
        raise MessageError(f"an entry has {len(data)} bytes, limit {MAX_ENTRY_BYTES}")


def pack(value: Any) -> bytes:
    """Pack a value, compressed when large."""
    packed: bytes = msgpack.packb(value)
    if len(packed) < COMPRESS_FROM_BYTES:
        return b"\x00" + packed
    return b"\x01" + zlib.compress(packed, 1)


def unpack(data: bytes, limit: int) -> Any:
    """Read what ``pack`` packed.

    Raises:
        MessageError: the data has more than ``limit`` bytes, packed or unpacked, or cannot be read.
    """
    if len(data) > limit:
        raise MessageError(f"a packed value has {len(data)} bytes, limit {limit}")
    if data[:1] == b"\x01":
        data = _inflate(data[1:], limit)
    elif data[:1] == b"\x00":
        data = data[1:]
    else:
        raise MessageError("unknown frame byte: not written by this protocol")
    try:
        # msgpack allocates a list before it reads the items, so a forged length is bounded by the bytes that are there.
        longest = min(MAX_JOB_TEXTS, len(data))
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=longest, max_map_len=64)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MessageError(f"unreadable msgpack ({type(error).__name__})") from None


def unpack_list(data: bytes, limit: int, what: str, types: Sequence[tuple[type, ...]]) -> list[Any]:
    """Read a packed list whose items have exactly these types.

    Raises:
        MessageError: the data has more than ``limit`` bytes, cannot be read, or holds something else.
    """
    return check_types(unpack(data, limit), what, types)


def _inflate(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, limit)
    except zlib.error:
        raise MessageError("unreadable compressed frame") from None
    if not inflater.eof:
        raise MessageError(f"a compressed frame is cut off or holds more than {limit} bytes")
    return plain


def check_types(values: Any, what: str, types: Sequence[tuple[type, ...]]) -> list[Any]:
    """Return the list if its items have exactly these types.

    Raises:
        MessageError: it is not a list, or has other items.
    """
    if not isinstance(values, list) or len(values) != len(types):
        raise MessageError(f"{what} is not a list of {len(types)} items")
    for position, (value, allowed) in enumerate(zip(values, types, strict=True)):
        if type(value) not in allowed:
            raise MessageError(f"{what} holds {type(value).__name__} at position {position}")
    return values


def read_array(data: bytes, dtype: str, count: int) -> npt.NDArray[Any]:
    """Read an array of ``count`` items.

    Raises:
        MessageError: the length of the data does not fit.
    """
    if len(data) != count * np.dtype(dtype).itemsize:
        raise MessageError(f"an array of {count} items of {dtype} has {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype)


def read_name(value: Any) -> str:
    """Read the name of a model or a worker, or an id.

    Raises:
        MessageError: it is missing, has more than ``MAX_LABEL_CHARS`` characters, or is not printable ASCII.
    """
    if not isinstance(value, bytes) or len(value) > MAX_LABEL_CHARS:
        raise MessageError(f"a name is missing or has more than {MAX_LABEL_CHARS} characters")
    name = value.decode("ascii", "replace")
    if not (name.isascii() and name.isprintable()):
        raise MessageError("a name contains characters other than printable ASCII")
    return name


def read_count(value: Any, limit: int) -> int:
    """Read a whole number from 0 to ``limit``.

    Raises:
        MessageError: the value is anything else.
    """
    text = str(value) if isinstance(value, int) else read_name(value)
    if not text.isdecimal() or len(text) > len(str(limit)) or int(text) > limit:
        raise MessageError(f"a count is not a number from 0 to {limit}")
    return int(text)


def read_ms(value: Any) -> float:
    """Read a time in milliseconds since 1970.

    Raises:
        MessageError: the value is anything else.
    """
    return read_number(value, "a time")


def read_number(value: Any, what: str = "a counter") -> float:
    """Read a number that Redis or a script wrote.

    Raises:
        MessageError: the value is not a number, is negative, or is too large to be exact.
    """
    try:
        number = float(read_name(value))
    except ValueError as error:
        raise MessageError(f"{what} is not a number ({type(error).__name__})") from None
    if not (math.isfinite(number) and 0 <= number <= _MAX_NUMBER):
        raise MessageError(f"{what} is not a number from 0 to {_MAX_NUMBER:.0f}")
    return number
