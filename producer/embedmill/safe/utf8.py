"""Checks for lone surrogates, which UTF-8 cannot encode."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text, so that it holds no lone surrogate."""
    return surrogate_at(text) is None


def surrogate_at(text: str) -> int | None:
    """Return the position of a text's first lone surrogate; None without one."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def storable(text: str) -> str:
    """Return a text in which question marks replace lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
