"""Names of files and fields in messages, whatever they are made of."""

from __future__ import annotations


def printable(name: str) -> str:
    """Return a name with escapes in the place of what a terminal, or UTF-8, cannot show."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name)
