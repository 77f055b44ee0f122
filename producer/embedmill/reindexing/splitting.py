"""Long texts in parts, cut by the model's own tokens at the best place near by (crate text-splitter).

A part is named ``PARENT#0``, ``PARENT#1``, …, so that a document that has changed in one place keeps the names of its
parts, and parts that it no longer has are found and deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.native import STOPS, silenced
from embedmill.regular_file import check_regular
from embedmill.reindexing.origins import origins_of
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import UNFIT, Source, notes_of, to_record
from embedmill.reply import Reason

#: Characters of a document that is split.
MAX_DOCUMENT_CHARS: Final = 16_000_000

#: Endings of ids that name Markdown.
MARKDOWN: Final = (".md", ".markdown", ".mdx")

#: Of the metadata of a part: its number, and where in its document it begins.
PART: Final = "part"
START: Final = "start"


class Cutter(Protocol):
    """What the library's splitters do."""

    def chunk_indices(self, text: str) -> list[tuple[int, str]]:
        """Give (start, part) of each part."""
        ...


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

    def parts(self, text: str, *, is_markdown: bool) -> list[tuple[int, str]]:
        """Give (character at which it begins, part) of each part, at least one.

        Every character of the text that is not white space is in one of them.
        """
        return (self._markdown if is_markdown else self._plain).chunk_indices(text) or [(0, text)]

    @cached_property
    def _plain(self) -> Cutter:
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self._capacity, self.overlap_tokens)

    @cached_property
    def _markdown(self) -> Cutter:
        return MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, self._capacity, self.overlap_tokens)

    @property
    def _capacity(self) -> int:
        """Tokens of a part besides the special ones, which the library does not count."""
        return self.max_tokens - self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """The tokenizer without truncation and padding, by which all long parts would count alike."""
        try:
            check_regular(self.tokenizer)
            loaded = Tokenizer.from_file(str(self.tokenizer))
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

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Give the parts of each record in turn."""
        for item in self._source:
            if isinstance(item, BadRecord):
                yield item
            else:
                yield from self._parts(item)

    @property
    def notes(self) -> list[str]:
        """What the source has to say."""
        return notes_of(self._source)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where the source's ids come from."""
        return origins_of(self._source)

    def fraction(self) -> float | None:
        """Say how much of the source has been read."""
        return self._source.fraction()

    def _parts(self, record: Record) -> Iterator[Record | BadRecord]:
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
