"""Long texts in parts, cut by the model's own tokens at the best place near by (crate text-splitter).

A part is named ``PARENT#0``, ``PARENT#1``, …, so that a document that has changed in one place keeps the names of its
parts, and parts that it no longer has are found and deleted.
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

#: Characters tokenized at a time: an encoding takes some 200 bytes a token while it lives, these arrays eight.
BLOCK_CHARS: Final = 65_536

#: Characters before the latest piece in which the next one is looked for first: parts may overlap.
BEHIND: Final = 4_096

#: Version of the way parts are cut; another one cuts unchanged documents anew.
VERSION: Final = 2

#: A heading leaves at least one in so many of a part's tokens to what follows it, or stands alone.
MIN_BODY: Final = 8

#: Words to see by whether the tokens of a word depend on its neighbours.
WORDS: Final = "zebras carry the mail; kuda membawa surat"

#: Characters of a document that is split.
MAX_DOCUMENT_CHARS: Final = 16_000_000

#: Endings of ids that name Markdown.
MARKDOWN: Final = (".md", ".markdown", ".mdx")

#: Fields in the metadata of a part: its number, and where in its document it begins.
PART: Final = "part"
START: Final = "start"

#: Character at which it begins, text.
Part = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """How texts are split."""

    #: Tokens of a part, special ones counted.
    max_tokens: int
    #: Tokens that neighbouring parts share, at most.
    overlap_tokens: int = 0
    #: The model's ``tokenizer.json``.
    tokenizer: Path

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise InvalidRequestError("split", f"{self.max_tokens} tokens hold no sentence; give at least 8")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            reason = f"{self.overlap_tokens} of {self.max_tokens} tokens; give at most half of what a part has"
            raise InvalidRequestError("overlap", reason)

    def parts(self, text: str, *, is_markdown: bool) -> list[Part]:
        """Return the parts, at least one.

        Every character of the text that is not white space is in one of them. The text is tokenized once; a part is
        tokenized again only where its tokens may differ from those that it has within the text.
        """
        counts = TokenCounts(text, self._tokenizer)
        parts = self._cut(counts, 0, text, is_markdown=is_markdown)
        if is_markdown:
            parts = self._with_headings(counts, parts)
        return [piece for start, part in parts for piece in self._fitting(counts, start, part)] or [(0, text)]

    def _cut(
        self, counts: TokenCounts, at: int, text: str, *, is_markdown: bool, capacity: int | None = None
    ) -> list[Part]:
        """Cut a piece that begins at a character of the text."""
        kind = MarkdownSplitter if is_markdown else TextSplitter
        most = self._capacity if capacity is None else capacity
        counts.rewind(at)
        splitter = kind.from_callback(counts.of_piece, most, min(self.overlap_tokens, most // 2))
        return [(at + start, part) for start, part in splitter.chunk_indices(text)]

    def _with_headings(self, counts: TokenCounts, parts: list[Part]) -> list[Part]:
        """Put headings that are parts by themselves together with what follows, the last one with what precedes."""
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
        """Cut a part that is too long because a heading was put before it."""
        body = headings_end(part)
        room = self._capacity - counts.between(start, start + body)
        if room * MIN_BODY < self._capacity:
            return [(start, part[:body].rstrip()), (start + body, part[body:])]
        first_start, first = self._cut(counts, start + body, part[body:], is_markdown=False, capacity=room)[0]
        end = first_start + len(first)
        rest = self._cut(counts, end, part[end - start :], is_markdown=True)
        return [(start, part[: end - start]), *self._with_headings(counts, rest)]

    def _trailed(self, counts: TokenCounts, parts: list[Part], heading: int, last: Part) -> list[Part]:
        """Put a heading that ends the text together with the end of what precedes it."""
        end = last[0] + len(last[1])
        room = self._capacity - counts.between(heading, end)
        if not parts or room * MIN_BODY < self._capacity:
            return [*parts, (heading, counts.text[heading:end])]
        *before, (start, part) = parts
        *pieces, (begin, _) = self._cut(counts, start, part, is_markdown=False, capacity=room)
        return [*before, *pieces, (begin, counts.text[begin:end])]

    def _fitting(self, counts: TokenCounts, start: int, part: str) -> list[Part]:
        """Return a part, or what it is cut into if it alone has too many tokens."""
        end = start + len(part)
        if self._is_wordwise and counts.is_apart(start, end) and counts.between(start, end) <= self._capacity:
            return [(start, part)]
        if len(self._tokenizer.encode(part, add_special_tokens=False)) <= self._capacity:
            return [(start, part)]
        return [(start + at, piece) for at, piece in self._exact.chunk_indices(part)]

    @cached_property
    def _exact(self) -> TextSplitter:
        """Cuts what the counts were wrong about; tokenizes again and again."""
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self._capacity)

    @cached_property
    def settings(self) -> str:
        """What parts depend on besides the text: for ledgers, which know an unchanged document by it."""
        hashed = hashlib.blake2b(self._tokenizer_json, digest_size=8).hexdigest()
        return f"{VERSION} {self.max_tokens} {self.overlap_tokens} {hashed}"

    @cached_property
    def _is_wordwise(self) -> bool:
        """Whether words have the same tokens in any company, as they have unless spaces are parts of tokens."""
        alone = [id for word in WORDS.split() for id in self._tokenizer.encode(word, add_special_tokens=False).ids]
        return bool(self._tokenizer.encode(WORDS, add_special_tokens=False).ids == alone)

    @property
    def _capacity(self) -> int:
        """Tokens of a part besides the special ones, which the library does not count."""
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
        """The tokenizer without truncation and padding, by which all long parts would count alike."""
        try:
            loaded = Tokenizer.from_buffer(self._tokenizer_json)
        except Exception as error:  # the library raises nothing more precise
            raise SourceError(str(self.tokenizer), f"is no tokenizer.json ({type(error).__name__})") from None
        loaded.no_truncation()
        loaded.no_padding()
        return loaded


class Split:
    """A source whose texts are split."""

    def __init__(self, source: Source, splitter: Splitter) -> None:
        self.name = source.name
        self._source = source
        self._splitter = splitter

    @property
    def documents(self) -> Source:
        """The source of what is split."""
        return self._source

    @property
    def settings(self) -> str:
        """What parts depend on besides their documents."""
        return self._splitter.settings

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Read the parts of each record in turn."""
        for item in self._source:
            if isinstance(item, BadRecord):
                yield item
            else:
                yield from self.parts(item)

    @property
    def notes(self) -> list[str]:
        """What the source has to say."""
        return notes_of(self._source)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where the source's ids come from."""
        return origins_of(self._source)

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How the source is read, and split."""
        parts = f"{self._splitter.max_tokens} tokens, {self._splitter.overlap_tokens} shared"
        return [{**way, "split": parts} for way in ways_of(self._source)]

    def fraction(self) -> float | None:
        """Return how much of the source has been read."""
        return self._source.fraction()

    def parts(self, record: Record) -> Iterator[Record | BadRecord]:
        """Split one record; what cannot be split is a bad one."""
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
        except BaseException as error:  # a panic, as a rule, and its words quote the text
            detail = f"the tokenizer failed on it ({type(error).__name__})"
            yield BadRecord(id=record.id, reason=Reason.FAILED, detail=detail, is_anonymous=False)
            return
        for number, (start, part) in enumerate(parts):
            metadata = {**_kept(record.metadata), PART: number, START: start}
            made = to_record(f"{record.id}#{number}", part, metadata, record.id)
            yield made if isinstance(made, BadRecord) else replace(made, parent=record.id)


def _kept(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record's metadata, its own ``part`` and ``start`` under names of their own."""
    if PART not in metadata and START not in metadata:
        return metadata
    return {f"document_{key}" if key in (PART, START) else key: value for key, value in metadata.items()}


class TokenCounts:
    """Where each token of a text begins and ends."""

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
        """Return the number of tokens that touch these characters.

        A token that ends just before them counts, too: it may be the space that belongs to the first word.
        """
        return max(0, bisect_left(self._starts, end) - bisect_left(self._ends, start or 1))

    def of_piece(self, piece: str) -> int:
        """Return the number of tokens of a piece of the text; the splitter does not say where it stands."""
        near = max(0, self._latest - BEHIND)
        start = self.text.find(piece, near, self._latest + BEHIND + 4 * len(piece))
        if start < 0:
            start = max(0, self.text.find(piece))
        else:
            self._latest = max(self._latest, start)
        return self.between(start, start + len(piece))

    def rewind(self, start: int) -> None:
        """Look for the next piece from here on."""
        self._latest = start

    def is_apart(self, start: int, end: int) -> bool:
        """Return whether a piece has white space, or an end of the text, on either side."""
        text = self.text
        return (start == 0 or text[start - 1].isspace()) and (end >= len(text) or text[end].isspace())


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text where no token is cut, as far as possible: after lines, else after words."""
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
    """Return the character after the headings, with blank lines, that a text begins with; 0: there is none."""
    end = 0
    while found := _HEADING.match(text, end):
        end = found.end()
    return end + len(text[end:]) - len(text[end:].lstrip()) if end else 0


def is_heading(text: str) -> bool:
    """Return whether a text is nothing but headings."""
    return bool(text) and headings_end(text) == len(text)
