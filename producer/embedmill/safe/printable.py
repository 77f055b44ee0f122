"""Values of others, made fit for messages and terminals: what they are without what they hold. No I/O."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Final

#: Digits of a number that is shown as it is.
_MAX_DIGITS: Final = 20


def kind(value: Any) -> str:
    """Return what a value is, for messages that must not quote it: it may be a text that stands in a wrong place."""
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
    """Return a text that moves no cursor: control characters as escapes, but for those to ``keep``; cut to a limit."""
    is_cut = limit is not None and len(text) > limit
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in shown)
    shown = shown[:limit]
    return f"{shown[:-1]}…" if is_cut else shown
