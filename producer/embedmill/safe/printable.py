"""Foreign values in messages: described without their content, and safe to print on a terminal. No I/O."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Final

#: Most digits of a number that is shown in full.
_MAX_DIGITS: Final = 20


def kind(value: Any) -> str:
    """Return a description of a value for messages that must not quote it, as it may be a text in the wrong place."""
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        digits = str(value) if isinstance(value, float) or abs(value) < 10**_MAX_DIGITS else "an endless int"
        return digits
    name = type(value).__name__
    if isinstance(value, str):
        return f"a {name} of {len(value)} characters"
    return f"a {name} of {len(value)} items" if isinstance(value, Sized) else f"a {name}"


def printable(text: str, *, keep: str = "", limit: int | None = None) -> str:
    """Return a text with its control characters escaped, except those in ``keep``, cut to ``limit`` characters."""
    is_cut = limit is not None and len(text) > limit
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in shown)
    shown = shown[:limit]
    return f"{shown[:-1]}…" if is_cut else shown
