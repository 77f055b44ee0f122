"""Passages of prose from Python's language reference, which every Python includes as plain text. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: A passage takes further paragraphs until it has enough words, but none that takes it beyond the most.
ENOUGH_WORDS: Final = 60
MOST_WORDS: Final = 200

#: Minimum words of a passage; a shorter remainder is left out.
FEWEST_WORDS: Final = 15

_UNDERLINE = re.compile(r"([*=\-~^\"'+#])\1{2,}")
_SIGNATURE = re.compile(r"[a-z_][\w.]*\([^)]*\)")
_CODE = re.compile(r"^\s*(>>>|\.\.\.|def |class |import |from \w+ import|#)|::=|^\s*\|", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z“‘(\"'*]+[\w’”\"'*.,;:)-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Consecutive paragraphs of one section."""

    #: Headings of the outer section, if any, and of the section.
    title: str
    body: str

    @property
    def text(self) -> str:
        """Text to embed: title and body."""
        return f"{self.title}\n{self.body}"


def passages(topics: Mapping[str, str]) -> list[Passage]:
    """Cut topics into passages. Where topics overlap, a body appears once, with the title from the shortest topic."""
    found: dict[str, Passage] = {}
    for name in sorted(topics, key=lambda name: (len(topics[name]), name)):
        for passage in _of_topic(topics[name]):
            found.setdefault(passage.body, passage)
    return list(found.values())


def _of_topic(text: str) -> Iterator[Passage]:
    headings: dict[str, str] = {}  # underlining character → heading, outermost first
    paragraphs: list[str] = []
    signature = ""
    for block in re.split(r"\n\s*\n", text):
        heading, level = _heading(block)
        if heading:
            yield from _group(headings, paragraphs)
            outer = list(headings)[: list(headings).index(level)] if level in headings else list(headings)
            headings = {**{key: headings[key] for key in outer}, level: heading}
            paragraphs = []
        elif _SIGNATURE.fullmatch(block.strip()):
            signature = f"{block.strip()}: "
        elif _is_prose(block):
            paragraphs.append(signature + _clean(block))
            signature = ""
    yield from _group(headings, paragraphs)


def _group(headings: Mapping[str, str], paragraphs: list[str]) -> Iterator[Passage]:
    title = ": ".join(list(headings.values())[-2:])
    body: list[str] = []
    words = 0
    for paragraph in paragraphs:
        length = len(paragraph.split())
        if words >= ENOUGH_WORDS or (body and words + length > MOST_WORDS):
            yield Passage(title=title, body="\n".join(body))
            body, words = [], 0
        body.append(paragraph)
        words += length
    if words >= FEWEST_WORDS:
        yield Passage(title=title, body="\n".join(body))


def _heading(block: str) -> tuple[str, str]:
    """Return an underlined heading and the underlining character, or two empty strings."""
    lines = block.strip("\n").splitlines()
    if len(lines) == 2 and _UNDERLINE.fullmatch(lines[1].strip()):
        return _clean(lines[0]), lines[1].strip()[0]
    return "", ""


def _is_prose(block: str) -> bool:
    """Return whether a block is sentences rather than code, grammar or a table."""
    if _CODE.search(block):
        return False
    pieces = block.split()
    words = sum(bool(_WORD.fullmatch(piece)) for piece in pieces)
    return words >= 6 and words >= 0.75 * len(pieces) and block.rstrip().endswith((".", ":", ")", "]", "”"))


def _clean(block: str) -> str:
    """Join lines and remove the plain-text markup."""
    text = re.sub(r"(\w)-\s*\n\s*(\w)", r"\1-\2", block)
    text = re.sub(r"\s+", " ", text).strip().removeprefix("* ")
    text = re.sub(r"\s*\[\d+\]", "", text)
    text = re.sub(r"\"([^\"]+)\"", r"\1", text)
    return re.sub(r"(?<!\w)\*{1,2}(\w[^*]*)\*{1,2}(?!\w)", r"\1", text)
