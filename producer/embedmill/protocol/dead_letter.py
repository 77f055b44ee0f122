"""A dead letter: the record of a text that the workers gave up. No I/O here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_JOB_TEXTS, MAX_KEPT_TEXT_BYTES
from embedmill.protocol.codec import MAX_LABEL_CHARS, is_label, unpack_list
from embedmill.protocol.codec import pack as pack_value
from embedmill.protocol.keys import LANES
from embedmill.protocol.options import EmbedOptions, pack_options, unpack_options
from embedmill.safe.printable import printable

#: Most bytes of one packed letter: the text, if it is kept, and the other fields.
MAX_LETTER_BYTES: Final = MAX_KEPT_TEXT_BYTES + 8_192

#: ``reason`` of a letter that cannot be read.
UNREADABLE: Final = "unreadable"

#: Id of a letter, given by a Redis stream: milliseconds since 1970 by Redis's clock, and a sequence number.
_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_NONE: Final = type(None)
_TYPES: Final = (
    *((str,), (int,), (int, _NONE), (str,), (str,), (str,), (str,), (int,), (str,)),
    *((str,), (int,), (int,), (bytes,), (str, _NONE)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A text, or a whole chunk, that the workers gave up."""

    #: Id of the letter; "" until Redis has stored it.
    id: str = ""
    job_id: str
    chunk: int
    #: Position in the job; None for a whole chunk that could not be read or served.
    index: int | None
    model: str
    lane: str
    #: One of ``Reason``: crashed, workers_lost, failed, not_finite or unsupported. If the letter itself cannot be
    #: read: ``unreadable``.
    reason: str
    #: What happened, for people.
    detail: str
    #: Number of crashes, losses or failures.
    attempts: int
    #: Id of the worker that gave up.
    worker: str
    #: Hexadecimal sha256 of the text's UTF-8, or of the stored bytes of a whole chunk.
    sha256: str
    #: Length of the text in characters; 0 for a whole chunk.
    n_chars: int
    #: Length of the text's UTF-8, or of a whole chunk, in bytes.
    n_bytes: int
    options: EmbedOptions = field(default_factory=EmbedOptions)
    #: The text, if workers keep texts (``EMBEDMILL_KEEP_DEAD_TEXTS``) and it is not too long; else None.
    text: str | None = field(default=None, repr=False)

    @property
    def at_ms(self) -> int:
        """Time at which the letter was written, in milliseconds since 1970 by Redis's clock."""
        return int(self.id.partition("-")[0] or 0)


def of_text(text: str, *, keep: bool, **known: Any) -> DeadLetter:
    """Make the letter of one text.

    Args:
        text: the text, of which the letter holds hash and lengths.
        keep: whether the letter holds the text itself, if it has at most ``MAX_KEPT_TEXT_BYTES``.
        known: the other fields of the letter.
    """
    data = text.encode("utf-8", "surrogatepass")
    return DeadLetter(
        sha256=hashlib.sha256(data).hexdigest(),
        n_chars=len(text),
        n_bytes=len(data),
        text=text if keep and len(data) <= MAX_KEPT_TEXT_BYTES else None,
        **known,
    )


def of_chunk(payload: bytes, **known: Any) -> DeadLetter:
    """Make the letter of a whole chunk from its stored bytes; ``known`` are the other fields."""
    return DeadLetter(index=None, sha256=hashlib.sha256(payload).hexdigest(), n_chars=0, n_bytes=len(payload), **known)


def check_id(letter_id: str) -> str:
    """Return the id if a letter can have it.

    Raises:
        InvalidRequestError: no letter can have it.
    """
    match = _ID.fullmatch(letter_id) if isinstance(letter_id, str) else None
    if match is None or max(map(int, match.groups())) >= 1 << 64:
        raise InvalidRequestError(
            "letter_id", "an id looks like 1764000000000-0; list() returns letters with their ids"
        )
    return letter_id


def pack(letter: DeadLetter) -> bytes:
    """Pack a letter without its id, which Redis assigns."""
    return pack_value(
        [
            letter.job_id,
            letter.chunk,
            letter.index,
            letter.model,
            letter.lane,
            str(letter.reason),
            printable(letter.detail, limit=MAX_LABEL_CHARS),
            letter.attempts,
            printable(letter.worker, limit=MAX_LABEL_CHARS),
            letter.sha256,
            letter.n_chars,
            letter.n_bytes,
            pack_options(letter.options),
            letter.text,
        ]
    )


def unpack(letter_id: str, data: bytes) -> DeadLetter:
    """Read a packed letter.

    Raises:
        MessageError: the data cannot be read, is too large, or is nothing that a worker writes.
    """
    values = unpack_list(data, MAX_LETTER_BYTES, "a dead letter", _TYPES)
    job_id, chunk, index, model, lane, reason, detail, attempts, worker, sha256, n_chars, n_bytes, options, text = (
        values
    )
    names = (job_id, model, reason, detail, worker)
    counts = (chunk, attempts, n_chars, n_bytes, 0 if index is None else index)
    if (
        not all(map(is_label, names))
        or any(not 0 <= count < 1 << 32 for count in counts)
        or (index is not None and index >= MAX_JOB_TEXTS)
        or lane not in LANES
        or not _SHA256.fullmatch(sha256)
        or (text is not None and len(text) > MAX_KEPT_TEXT_BYTES)
    ):
        raise MessageError("a dead letter has a field with a value that no worker writes")
    return DeadLetter(
        id=letter_id,
        job_id=job_id,
        chunk=chunk,
        index=index,
        model=model,
        lane=lane,
        reason=reason,
        detail=detail,
        attempts=attempts,
        worker=worker,
        sha256=sha256,
        n_chars=n_chars,
        n_bytes=n_bytes,
        options=unpack_options(options),
        text=text,
    )


def unreadable(letter_id: str, why: str) -> DeadLetter:
    """Return a stand-in for a letter that cannot be read, so that it can be listed and dropped."""
    return DeadLetter(
        id=letter_id,
        job_id="",
        chunk=0,
        index=None,
        model="",
        lane="",
        reason=UNREADABLE,
        detail=why,
        attempts=0,
        worker="",
        sha256="",
        n_chars=0,
        n_bytes=0,
    )


def text_to_requeue(letter: DeadLetter, text: str | None) -> str:
    """Return the letter's text: the one it holds, or the caller's if its hash is the letter's.

    Raises:
        InvalidRequestError: the letter is about a whole chunk, or its text is missing or differs.
    """
    if letter.index is None:
        reason = f"letter {letter.id} is about a whole chunk of job {letter.job_id}; submit its texts again"
        raise InvalidRequestError("letter_id", reason)
    if text is None:
        if letter.text is None:
            reason = (
                f"the text of letter {letter.id} was not kept; pass text=… with text {letter.index} of job "
                f"{letter.job_id}, or set EMBEDMILL_KEEP_DEAD_TEXTS=1 on workers to keep texts of later letters"
            )
            raise InvalidRequestError("text", reason)
        return letter.text
    if not isinstance(text, str):
        raise InvalidRequestError("text", f"{type(text).__name__} is not str")
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if sha256 != letter.sha256:
        passed = f"it has {len(text)} characters and sha256 {sha256[:12]}…"
        wanted = f"the letter's text has {letter.n_chars} and {letter.sha256[:12]}…"
        raise InvalidRequestError("text", f"{passed}, but {wanted}; pass the text exactly as it was submitted")
    return text
