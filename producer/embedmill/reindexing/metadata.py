"""Metadata as JSON. Values that JSON cannot hold become text, or are refused with the name of their field."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import uuid
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from embedmill.errors import InvalidRequestError
from embedmill.safe.printable import printable
from embedmill.safe.utf8 import is_unicode

#: Types that are stored as their ``str``, as in ``2026-01-02 03:04:05``.
_TEXTUAL: Final = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    np.datetime64,
    np.timedelta64,
    uuid.UUID,
    PurePath,
)


def to_json(metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON, the same for equal metadata.

    NaN and infinities become null; dates, decimals, UUIDs and paths become text; bytes become base64.

    Raises:
        InvalidRequestError: a field holds a lone surrogate, or a value that has no form in JSON.
    """
    if not metadata:
        return "{}"
    try:
        encoded = _ENCODER.encode(metadata)
    except (TypeError, ValueError, RecursionError):  # a value that JSON cannot hold as it is
        encoded = _encode_plain({_key(key): _field(_key(key), value) for key, value in metadata.items()})
    if not encoded.isascii():
        _check_unicode(encoded, metadata)
    return encoded


def in_one_line(encoded: str) -> str:
    """Return JSON in which the characters that some programs take for line ends are escaped."""
    if encoded.isascii():
        return encoded
    return encoded.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(value: Any) -> Any:  # noqa: C901, PLR0911  one line per type
    """Return the form of a value in JSON.

    Raises:
        TypeError: it has none.
    """
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {_key(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray():
            return plain(value.tolist() if value.dtype.kind not in "mM" else list(value))
    if _is_missing(value):
        return None
    if isinstance(value, _TEXTUAL):
        return str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if hasattr(value, "as_py"):  # an Arrow scalar
        return plain(value.as_py())
    raise TypeError(type(value).__name__)


def _is_missing(value: Any) -> bool:
    """Return whether a value marks a missing one: NaT, NA, or a decimal NaN."""
    if type(value).__name__ == "NAType":
        return True
    try:
        return bool(value != value)  # noqa: PLR0124  True for NaN alone
    except (TypeError, ValueError, ArithmeticError):
        return False


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def _field(name: str, value: Any) -> Any:
    try:
        return plain(value)
    except TypeError as error:
        reason = f"holds {error}, which JSON cannot hold; make it text, or leave the field out (--metadata)"
    except RecursionError:
        reason = "is nested too deeply; leave the field out (--metadata)"
    raise InvalidRequestError("metadata", f"the field {shown(name)} {reason}")


def _encode_plain(metadata: Mapping[str, Any]) -> str:
    try:
        return _ENCODER.encode(metadata)
    except (ValueError, RecursionError) as error:  # an integer with more digits than Python prints
        raise InvalidRequestError("metadata", f"JSON cannot hold it ({type(error).__name__})") from None


def _check_unicode(encoded: str, metadata: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError, naming the field, if UTF-8 cannot hold the JSON."""
    try:
        encoded.encode()
    except UnicodeEncodeError:
        names = (name for name, value in metadata.items() if not is_unicode(_ENCODER.encode({name: plain(value)})))
        name = next(names, "")
        raise InvalidRequestError(
            "metadata", f"the field {shown(name)} holds a lone surrogate, which UTF-8 cannot hold"
        ) from None


def shown(name: str) -> str:
    """Return a field's name for a message: quoted, printable, at most 80 characters."""
    return f"'{printable(name[:80])}'"


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
