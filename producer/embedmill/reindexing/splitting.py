"""Splitting of long texts into parts, limited by the model's tokens, at the best boundary (crate text-splitter).

The ids of parts are ``PARENT#0``, ``PARENT#1``, …, so that parts that a changed document no longer has are found and
deleted.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import UNFIT, Source, notes_of, origins_of, to_record, ways_of
from embedmill.reply import Reason
from embedmill.safe.native import STOPS, silenced
from embedmill.safe.regular_file import check_regular

#: ``# Title``, or a line of text above ``===`` or ``---``.
_HEADING: Final = re.compile(r"\s*+(?:#{1,6}(?:[ \t][^\n]*)?(?:\n|\Z)|\S[^\n]*\n {0,3}(?:=+|-+)[ \t]*(?:\n|\Z))")

#: Characters tokenized at a time: an ``Encoding`` takes about 200 bytes per token, the arrays of offsets eight.
BLOCK_CHARS: Final = 65_536

#: Characters before the latest piece from where the next one is searched, because parts may overlap.
BEHIND: Final = 4_096

#: Version of the algorithm; a change of it makes the next run split unchanged documents again.
VERSION: Final = 2

#: A heading joins the text after it only if at least 1/MIN_BODY of a part's tokens remain for that text.
MIN_BODY: Final = 8

#: Sample for testing whether the tokens of a word depend on its neighbours.
WORDS: Final = "zebras carry the mail; kuda membawa surat"

#: Most characters of a document.
MAX_DOCUMENT_CHARS: Final = 16_000_000

#: Suffixes of the ids of Markdown documents.
MARKDOWN: Final = (".md", ".markdown", ".mdx")

#: Metadata fields of a part: its number, and the character of its document at which it begins.
PART: Final = "part"
START: Final = "start"

#: (character at which it begins, text)
Part = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """The settings of a split, and the algorithm."""

    #: Most tokens of a part, including special ones.
    max_tokens: int
    #: Most tokens that neighbouring parts share.
    overlap_tokens: int = 0
    #: The model's ``tokenizer.json``.
    tokenizer: Path

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise InvalidRequestError("split", f"{self.max_tokens} tokens are too few for a sentence; give at least 8")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            reason = f"{self.overlap_tokens} is not from 0 to half of the {self.max_tokens} tokens of a part"
            raise InvalidRequestError("overlap", reason)

    def parts(self, text: str, *, is_markdown: bool) -> list[Part]:
        """Return the parts of a text, at least one.

        Every character other than white space is in a part. The text is tokenized once; a part is tokenized again only
        if its tokens may differ from those that it has within the text.
        """
        counts = TokenCounts(text, self._tokenizer)
        parts = self._cut(counts, 0, text, is_markdown=is_markdown)
        if is_markdown:
            parts = self._with_headings(counts, parts)
        return [piece for start, part in parts for piece in self._fitting(counts, start, part)] or [(0, text)]

    def _cut(
        self, counts: TokenCounts, at: int, text: str, *, is_markdown: bool, capacity: int | None = None
    ) -> list[Part]:
        """Cut a piece of the text that begins at character ``at``."""
        kind = MarkdownSplitter if is_markdown else TextSplitter
        most = self._capacity if capacity is None else capacity
        counts.rewind(at)
        splitter = kind.from_callback(counts.of_piece, most, min(self.overlap_tokens, most // 2))
        return [(at + start, part) for start, part in splitter.chunk_indices(text)]

    def _with_headings(self, counts: TokenCounts, parts: list[Part]) -> list[Part]:
        """Join headings that are parts by themselves to the next part; a final one to the previous part."""
        text = counts.text
        joined: list[Part] = []
        heading = -1
        for start, part in parts:
            begin, end = (start if heading < 0 else heading), start + len(part)
            heading = begin if is_heading(text[begin:end]) else -1
            if heading >= 0:
                continue
            if begin == start or counts.between(begin, end) <= self._capacity:
                joined.append((begin, text[begin:end]))
            else:
                joined += self._headed(counts, begin, text[begin:end])
        return joined if heading < 0 else self._trailed(counts, joined, heading, parts[-1])

    def _headed(self, counts: TokenCounts, start: int, part: str) -> list[Part]:
        """Cut a part that is too long because a heading was joined to it."""
        body = headings_end(part)
        room = self._capacity - counts.between(start, start + body)
        if room * MIN_BODY < self._capacity:
            return [(start, part[:body].rstrip()), (start + body, part[body:])]
        first_start, first = self._cut(counts, start + body, part[body:], is_markdown=False, capacity=room)[0]
        end = first_start + len(first)
        rest = self._cut(counts, end, part[end - start :], is_markdown=True)
        return [(start, part[: end - start]), *self._with_headings(counts, rest)]

    def _trailed(self, counts: TokenCounts, parts: list[Part], heading: int, last: Part) -> list[Part]:
        """Join a heading at the end of the text to the end of the previous part."""
        end = last[0] + len(last[1])
        room = self._capacity - counts.between(heading, end)
        if not parts or room * MIN_BODY < self._capacity:
            return [*parts, (heading, counts.text[heading:end])]
        *before, (start, part) = parts
        *pieces, (begin, _) = self._cut(counts, start, part, is_markdown=False, capacity=room)
        return [*before, *pieces, (begin, counts.text[begin:end])]

    def _fitting(self, counts: TokenCounts, start: int, part: str) -> list[Part]:
        """Return a part, or its pieces if it has too many tokens when tokenized by itself."""
        end = start + len(part)
        if self._is_wordwise and counts.is_apart(start, end) and counts.between(start, end) <= self._capacity:
            return [(start, part)]
        if len(self._tokenizer.encode(part, add_special_tokens=False)) <= self._capacity:
            return [(start, part)]
        return [(start + at, piece) for at, piece in self._exact.chunk_indices(part)]

    @cached_property
    def _exact(self) -> TextSplitter:
        """The splitter that tokenizes each candidate; slow, for parts whose counted tokens were wrong."""
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self._capacity)

    @cached_property
    def settings(self) -> str:
        """Everything besides the text that determines the parts; part of a document's digest in the ledger."""
        hashed = hashlib.blake2b(self._tokenizer_json, digest_size=8).hexdigest()
        return f"{VERSION} {self.max_tokens} {self.overlap_tokens} {hashed}"

    @cached_property
    def _is_wordwise(self) -> bool:
        """Whether the tokens of a word do not depend on its neighbours, as they do if spaces are in tokens."""
        alone = [id for word in WORDS.split() for id in self._tokenizer.encode(word, add_special_tokens=False).ids]
        return bool(self._tokenizer.encode(WORDS, add_special_tokens=False).ids == alone)

    @property
    def _capacity(self) -> int:
        """Most tokens of a part without the special ones, which the library does not count."""
        return self.max_tokens - self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @cached_property
    def _tokenizer_json(self) -> bytes:
        try:
            check_regular(self.tokenizer)
            return self.tokenizer.read_bytes()
        except OSError as error:
            raise SourceError(str(self.tokenizer), f"cannot be read: {error.strerror}") from None

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """The tokenizer without truncation and padding, which would change the number of tokens."""
        try:
            loaded = Tokenizer.from_buffer(self._tokenizer_json)
        except Exception as error:  # the library raises nothing more precise
            raise SourceError(str(self.tokenizer), f"is not a tokenizer.json ({type(error).__name__})") from None
        loaded.no_truncation()
        loaded.no_padding()
        return loaded


class Split:
    """A source that yields the parts of another source's texts."""

    def __init__(self, source: Source, splitter: Splitter) -> None:
        self.name = source.name
        self._source = source
        self._splitter = splitter

    @property
    def documents(self) -> Source:
        """The source of the documents."""
        return self._source

    @property
    def settings(self) -> str:
        """Everything besides a document that determines its parts."""
        return self._splitter.settings

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Yield the parts of each record."""
        for item in self._source:
            if isinstance(item, BadRecord):
                yield item
            else:
                yield from self.parts(item)

    @property
    def notes(self) -> list[str]:
        """The notes of the source."""
        return notes_of(self._source)

    @property
    def origins(self) -> Mapping[str, str]:
        """The origins of the source."""
        return origins_of(self._source)

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """The ways in which the source is read and split."""
        parts = f"{self._splitter.max_tokens} tokens, {self._splitter.overlap_tokens} shared"
        return [{**way, "split": parts} for way in ways_of(self._source)]

    def fraction(self) -> float | None:
        """Return the share of the source that has been read."""
        return self._source.fraction()

    def parts(self, record: Record) -> Iterator[Record | BadRecord]:
        """Split one record; yield a BadRecord if it cannot be split."""
        if len(record.text) > MAX_DOCUMENT_CHARS:
            detail = f"{len(record.text)} characters, limit {MAX_DOCUMENT_CHARS}"
            yield BadRecord(id=record.id, reason=UNFIT, detail=detail, is_anonymous=False)
            return
        try:
            record.text.encode()
        except UnicodeEncodeError as error:
            detail = f"lone surrogate at character {error.start}; is it UTF-8?"
            yield BadRecord(id=record.id, reason=UNFIT, detail=detail, is_anonymous=False)
            return
        is_markdown = record.id.lower().endswith(MARKDOWN)
        try:
            with silenced():
                parts = self._splitter.parts(record.text, is_markdown=is_markdown)
        except (*STOPS, MemoryError, SourceError):
            raise
        except BaseException as error:  # usually a panic, whose message may quote the text
            detail = f"the tokenizer failed on it ({type(error).__name__})"
            yield BadRecord(id=record.id, reason=Reason.FAILED, detail=detail, is_anonymous=False)
            return
        for number, (start, part) in enumerate(parts):
            metadata = {**_kept(record.metadata), PART: number, START: start}
            made = to_record(f"{record.id}#{number}", part, metadata, record.id)
            yield made if isinstance(made, BadRecord) else replace(made, parent=record.id)


def _kept(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record's metadata with its own ``part`` and ``start`` renamed to ``document_…``."""
    if PART not in metadata and START not in metadata:
        return metadata
    return {f"document_{key}" if key in (PART, START) else key: value for key, value in metadata.items()}


class TokenCounts:
    """The positions of a text's tokens, to count the tokens of its pieces."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self._starts = array("i")
        self._ends = array("i")
        self._latest = 0
        for begin, block in _blocks(text):
            offsets = tokenizer.encode(block, add_special_tokens=False).offsets
            self._starts.extend([begin + start for start, _ in offsets])
            self._ends.extend([begin + end for _, end in offsets])

    def between(self, start: int, end: int) -> int:
        """Return the number of tokens that overlap these characters.

        A token that ends just before them also counts: it may be the space that belongs to the first word.
        """
        return max(0, bisect_left(self._starts, end) - bisect_left(self._ends, start or 1))

    def of_piece(self, piece: str) -> int:
        """Return the number of tokens of a piece, after finding its position, which the splitter does not pass."""
        near = max(0, self._latest - BEHIND)
        start = self.text.find(piece, near, self._latest + BEHIND + 4 * len(piece))
        if start < 0:
            start = max(0, self.text.find(piece))
        else:
            self._latest = max(self._latest, start)
        return self.between(start, start + len(piece))

    def rewind(self, start: int) -> None:
        """Search for the next piece from this character on."""
        self._latest = start

    def is_apart(self, start: int, end: int) -> bool:
        """Return whether a piece is surrounded by white space or the ends of the text."""
        text = self.text
        return (start == 0 or text[start - 1].isspace()) and (end >= len(text) or text[end].isspace())


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text into blocks after lines, else after words, so that tokens are rarely cut."""
    start = 0
    while start < len(text):
        end = start + BLOCK_CHARS
        if end < len(text):
            end = 1 + (max(text.rfind("\n", start, end), start) or start)
            if end == start + 1:
                end = 1 + text.rfind(" ", start, start + BLOCK_CHARS)
            if end <= start:
                end = start + BLOCK_CHARS
        yield start, text[start:end]
        start = end


def headings_end(text: str) -> int:
    """Return the position after the headings and blank lines at the start of a text; 0 without a heading."""
    end = 0
    while found := _HEADING.match(text, end):
        end = found.end()
    return end + len(text[end:]) - len(text[end:].lstrip()) if end else 0


def is_heading(text: str) -> bool:
    """Return whether a text consists of headings only."""
    return bool(text) and headings_end(text) == len(text)
