"""What a source gives: records, or the reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import InvalidRequestError

#: Characters of an id.
MAX_ID_CHARS: Final = 1_024

#: Bytes of a digest: of the text's part, in which two of a billion texts agree by chance once in 10^20 corpora, and
#: of the metadata's.
TEXT_BYTES: Final = 16
METADATA_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A text to embed, under an id that stays the same from run to run."""

    #: 1 to 1,024 characters, none of them a control character.
    id: str
    text: str = field(repr=False)
    #: What the sink carries beside the vector: anything that JSON can hold.
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Id of the document that this text is a part of; "": it stands for itself.
    parent: str = ""

    def __post_init__(self) -> None:
        if not (self.id.isascii() and self.id.isprintable() and 0 < len(self.id) <= MAX_ID_CHARS):
            check_id(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """Something in the source that is no record. Holds nothing of any text."""

    #: Its id, if that could be read, else where it stands, as in ``corpus.jsonl:17``.
    id: str
    #: A word for programs, as in ``unreadable``.
    reason: str
    #: The reason for people.
    detail: str
    #: ``id`` is only a place: which record of an earlier run it may be, nobody knows.
    is_anonymous: bool = True
    #: More than one record could not be read: the rest of a file, or a folder.
    is_partial: bool = False


def parent_of(id: str, part: object) -> str:
    """Return the document that a row is a part of, by its id and what its metadata say of ``part``; "": of none."""
    stem, separator, number = id.rpartition("#")
    return stem if separator and isinstance(part, int) and number == str(part) else ""


def check_id(value: str) -> str:
    """Return the id.

    Raises:
        InvalidRequestError: it cannot be an id.
    """
    if not value or len(value) > MAX_ID_CHARS:
        raise InvalidRequestError("id", f"an id has 1 to {MAX_ID_CHARS} characters, this one {len(value)}")
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in value):
        raise InvalidRequestError("id", "an id holds no control characters and no lone surrogates")
    return value


def digest(text: str, metadata_json: str) -> bytes:
    """Return what tells a changed record from an unchanged one: 16 bytes of the text, 8 of the metadata (BLAKE2b)."""
    of_text = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=TEXT_BYTES)
    of_metadata = hashlib.blake2b(metadata_json.encode("utf-8", "surrogatepass"), digest_size=METADATA_BYTES)
    return of_text.digest() + of_metadata.digest()


def has_same_text(one: bytes, other: bytes) -> bool:
    """Return whether two digests are of the same text."""
    return one[:TEXT_BYTES] == other[:TEXT_BYTES]
