"""The items of a source: records, and what could not be read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import InvalidRequestError

#: Most characters of an id.
MAX_ID_CHARS: Final = 1_024

#: Bytes of a digest for the text and for the metadata. At 16 bytes, two of a billion texts have the same digest by
#: chance in one of 10^20 corpora.
TEXT_BYTES: Final = 16
METADATA_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A text to embed, under an id that stays the same from run to run."""

    #: 1 to 1,024 characters, none of them a control character.
    id: str
    text: str = field(repr=False)
    #: Stored beside the vector: anything that JSON can hold.
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Id of the document that this text is a part of; "" if it is not a part.
    parent: str = ""

    def __post_init__(self) -> None:
        if not (self.id.isascii() and self.id.isprintable() and 0 < len(self.id) <= MAX_ID_CHARS):
            check_id(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """An item of the source that is not a valid record. It contains nothing of any text."""

    #: Its id, if that could be read, else its position, as in ``corpus.jsonl:17``.
    id: str
    #: The reason as a word for programs, as in ``unreadable``.
    reason: str
    #: The reason as a message.
    detail: str
    #: Whether ``id`` is only a position, so that it cannot be matched with a record of an earlier run.
    is_anonymous: bool = True
    #: Whether more than one record could not be read: the rest of a file, or a folder.
    is_partial: bool = False


def parent_of(id: str, part: object) -> str:
    """Return the id of a part's document, from its own id and its metadata field ``part``; "" if it is not a part."""
    stem, separator, number = id.rpartition("#")
    return stem if separator and isinstance(part, int) and number == str(part) else ""


def check_id(value: str) -> str:
    """Check an id and return it.

    Raises:
        InvalidRequestError: it is empty, too long or has a character that ids must not have.
    """
    if not value or len(value) > MAX_ID_CHARS:
        raise InvalidRequestError("id", f"an id must have 1 to {MAX_ID_CHARS} characters, this one has {len(value)}")
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in value):
        raise InvalidRequestError("id", "an id must not contain control characters or lone surrogates")
    return value


def digest(text: str, metadata_json: str) -> bytes:
    """Return a digest that changes with the record: 16 bytes for the text, 8 for the metadata (BLAKE2b)."""
    of_text = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=TEXT_BYTES)
    of_metadata = hashlib.blake2b(metadata_json.encode("utf-8", "surrogatepass"), digest_size=METADATA_BYTES)
    return of_text.digest() + of_metadata.digest()


def has_same_text(one: bytes, other: bytes) -> bool:
    """Return whether two digests are of the same text."""
    return one[:TEXT_BYTES] == other[:TEXT_BYTES]
