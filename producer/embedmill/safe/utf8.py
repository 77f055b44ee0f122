"""What UTF-8 can hold."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Return whether a text has a UTF-8 form: it holds no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """Return a text with a question mark for each lone surrogate."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
