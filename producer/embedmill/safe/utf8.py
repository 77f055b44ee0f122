"""What UTF-8 can hold."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Return whether a text has a UTF-8 form: it holds no lone surrogates."""
    return surrogate_at(text) is None


def surrogate_at(text: str) -> int | None:
    """Return where a text's first lone surrogate stands; None: it holds none."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def storable(text: str) -> str:
    """Return a text with a question mark for each lone surrogate."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
