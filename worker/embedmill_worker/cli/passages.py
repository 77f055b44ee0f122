"""Passages of prose from Python's own language reference, which every Python carries as plain text. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: Words from which a passage is long enough, and beyond which it takes no further paragraph.
ENOUGH_WORDS: Final = 60
MOST_WORDS: Final = 200

#: Words below which a remainder is no passage.
FEWEST_WORDS: Final = 15

_UNDERLINE = re.compile(r"([*=\-~^\"'+#])\1{2,}")
_SIGNATURE = re.compile(r"[a-z_][\w.]*\([^)]*\)")
_CODE = re.compile(r"^\s*(>>>|\.\.\.|def |class |import |from \w+ import|#)|::=|^\s*\|", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z“‘(\"'*]+[\w’”\"'*.,;:)-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Some paragraphs that belong together."""

    #: Heading of the topic, and of the section within it.
    title: str
    body: str

    @property
    def text(self) -> str:
        """What is embedded."""
        return f"{self.title}\n{self.body}"


def passages(topics: Mapping[str, str]) -> list[Passage]:
    """Cut the topics into passages, each body once though topics overlap."""
    found: dict[str, Passage] = {}
    for name in sorted(topics):
        for passage in _of_topic(name, topics[name]):
            found.setdefault(passage.body, passage)
    return list(found.values())


def _of_topic(name: str, text: str) -> Iterator[Passage]:
    topic, section = name, ""
    paragraphs: list[str] = []
    signature = ""
    for block in re.split(r"\n\s*\n", text):
        heading = _heading(block)
        if heading:
            yield from _group(topic, section, paragraphs)
            paragraphs = []
            if topic == name and not section:
                topic = heading
            else:
                section = heading
        elif _SIGNATURE.fullmatch(block.strip()):
            signature = f"{block.strip()}: "
        elif _is_prose(block):
            paragraphs.append(signature + _clean(block))
            signature = ""
    yield from _group(topic, section, paragraphs)


def _group(topic: str, section: str, paragraphs: list[str]) -> Iterator[Passage]:
    title = f"{topic}: {section}" if section else topic
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


def _heading(block: str) -> str:
    """Give the title of an underlined heading, else ""."""
    lines = block.strip("\n").splitlines()
    if len(lines) == 2 and _UNDERLINE.fullmatch(lines[1].strip()):
        return _clean(lines[0])
    return ""


def _is_prose(block: str) -> bool:
    """Say whether a block is sentences rather than code, grammar or a table."""
    if _CODE.search(block):
        return False
    pieces = block.split()
    words = sum(bool(_WORD.fullmatch(piece)) for piece in pieces)
    return words >= 6 and words >= 0.75 * len(pieces) and block.rstrip().endswith((".", ":", ")", "]", "”"))


def _clean(block: str) -> str:
    """Join lines and take off the marks of the plain-text form."""
    text = re.sub(r"(\w)-\s*\n\s*(\w)", r"\1-\2", block)
    text = re.sub(r"\s+", " ", text).strip().removeprefix("* ")
    text = re.sub(r"\s*\[\d+\]", "", text)
    text = re.sub(r"\"([^\"]+)\"", r"\1", text)
    return re.sub(r"(?<!\w)\*{1,2}(\w[^*]*)\*{1,2}(?!\w)", r"\1", text)
