"""Texts from lines or JSONL, a window at a time. A line that cannot be read is one text's problem."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from embedmill.reindexing.sources.lines import TOO_LONG, bounded

FORMATS: Final = ("auto", "lines", "jsonl")

#: Most texts and characters in one window; a job holds up to 65,536 texts, but two windows are in memory at a time.
WINDOW_TEXTS: Final = 8_192
WINDOW_CHARS: Final = 16_000_000

#: Stands for a text that could not be read: a lone surrogate, which the client rejects without sending it.
UNREADABLE: Final = "\udfff"

_JSONL_ENDINGS: Final = (".jsonl", ".ndjson")


@dataclass(slots=True, kw_only=True)
class Window:
    """Consecutive texts of the input."""

    #: Position of the first one in the whole input.
    start: int
    texts: list[str] = field(default_factory=list, repr=False)
    #: Position in ``texts`` → why it could not be read.
    problems: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line without a text."""

    detail: str


def read(stream: IO[bytes], name: str, *, form: str, key: str) -> Iterator[str | Unreadable]:
    """Give the texts of a file, line by line.

    Bytes that are not UTF-8 become lone surrogates, which the client rejects with a reason. An empty line is an
    empty text, and in JSONL nothing.

    Args:
        stream: the file.
        name: its name, by whose ending ``auto`` chooses; else the first line decides.
        form: one of ``FORMATS``.
        key: the field of a JSON object that holds the text.
    """
    is_jsonl = form == "jsonl" or (form == "auto" and name.endswith(_JSONL_ENDINGS))
    place = "stdin" if name == "-" else name
    for number, raw in enumerate(bounded(stream), start=1):
        if raw is None:
            yield Unreadable(f"line {number} of {place} {TOO_LONG}")
            continue
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
        line = line.removesuffix("\n").removesuffix("\r")
        if number == 1 and form == "auto":
            is_jsonl = is_jsonl or isinstance(_text_of(line, key), str)
        if not is_jsonl:
            yield line
        elif line.strip():
            text = _text_of(line, key)
            yield (Unreadable(f"line {number} of {place} {text.detail}") if isinstance(text, Unreadable) else text)


def windows(texts: Iterable[str | Unreadable]) -> Iterator[Window]:
    """Cut the input into windows that fit into memory."""
    window = Window(start=0)
    chars = 0
    for text in texts:
        if len(window.texts) == WINDOW_TEXTS or chars > WINDOW_CHARS:
            yield window
            window = Window(start=window.start + len(window.texts))
            chars = 0
        if isinstance(text, Unreadable):
            window.problems[len(window.texts)] = text.detail
        window.texts.append(UNREADABLE if isinstance(text, Unreadable) else text)
        chars += len(window.texts[-1])
    if window.texts:
        yield window


def _text_of(line: str, key: str) -> str | Unreadable:
    """Read ``{"text": "…"}``."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("is not JSON")
    if not isinstance(value, dict):
        return Unreadable("is not a JSON object")
    if key not in value:
        return Unreadable(f"has no field {key!r}; name the right one with --field")
    text = value[key]
    return text if isinstance(text, str) else Unreadable(f"holds {type(text).__name__}, not str, in {key!r}")
