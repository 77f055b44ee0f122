"""Headings of Markdown, as far as the splitter must know them: a part is never one alone."""

from __future__ import annotations

import re
from typing import Final

#: ``# Title``, or a line of text above ``===`` or ``---``.
_HEADING: Final = re.compile(r"\s*+(?:#{1,6}(?:[ \t][^\n]*)?(?:\n|\Z)|\S[^\n]*\n {0,3}(?:=+|-+)[ \t]*(?:\n|\Z))")


def headings_end(text: str) -> int:
    """Return the character after the headings, with blank lines, that a text begins with; 0: there is none."""
    end = 0
    while found := _HEADING.match(text, end):
        end = found.end()
    return end + len(text[end:]) - len(text[end:].lstrip()) if end else 0


def is_heading(text: str) -> bool:
    """Return whether a text is nothing but headings."""
    return bool(text) and headings_end(text) == len(text)
