"""What goes through Redis, as values: options, chunks, replies and model cards. No I/O here.

Every packed value is one frame byte (0 plain, 1 zlib) and msgpack. Readers accept exactly the types
written here, of bounded size, and refuse all else with MessageError.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.harmless import kind, printable
from embedmill.limits import (
    MAX_CHUNK_BYTES,
    MAX_CHUNK_TEXTS,
    MAX_DETAIL_CHARS,
    MAX_DIMENSION,
    MAX_ENTRY_BYTES,
    MAX_JOB_TEXTS,
    MAX_REPLY_BYTES,
    MAX_TEXT_CHARS,
)
from embedmill.reply import Rejected
from embedmill.vectors import Dtype

#: Version of everything in Redis. A worker refuses records of another one.
PROTOCOL_VERSION: Final = 1

#: Packed bytes from which compression pays; below it costs more than it saves.
COMPRESS_FROM_BYTES: Final = 4_096

#: Characters of a name that a worker announces.
MAX_LABEL_CHARS: Final = 512

#: Rates that a card may name, a second or a token: estimates made of them stay numbers that Redis can count.
SLOWEST: Final = 1e-3
FASTEST: Final = 1e12

INPUT_TYPES: Final = ("query", "passage")

IndexArray = npt.NDArray[np.uint32]

#: What each place of a packed list may hold.
_NONE: Final = type(None)
_OPTIONS_TYPES: Final = ((str, _NONE), (int, _NONE), (str,), (bool,))
_CHUNK_TYPES: Final = ((bytes,), (list,))
_REPLY_TYPES: Final = ((bytes,), (bytes,), (str,), (int,), (bytes,), (bytes,), (list,), (str,), (str,), (dict,))
_REJECTED_TYPES: Final = ((int,), (str,), (str,))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How the texts of one job are embedded."""

    #: "query" or "passage": the model's prefix for it; None: no prefix.
    input_type: str | None = None
    #: Components to keep; None: all.
    dimensions: int | None = None
    dtype: Dtype = Dtype.FLOAT32
    #: False: a text over the model's limit is rejected instead of cut.
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.input_type is not None and self.input_type not in INPUT_TYPES:
            raise InvalidRequestError(
                "input_type", f"{kind(self.input_type)} is none of {', '.join(INPUT_TYPES)}, None"
            )
        if self.dimensions is not None and (
            type(self.dimensions) is not int or not 1 <= self.dimensions <= MAX_DIMENSION
        ):
            raise InvalidRequestError("dimensions", f"{kind(self.dimensions)} is not an int from 1 to {MAX_DIMENSION}")
        if type(self.truncate) is not bool:
            raise InvalidRequestError("truncate", f"{kind(self.truncate)} is not a bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What workers announce of a model, from which the client sizes chunks."""

    name: str
    fingerprint: str
    #: Length of a vector.
    dimension: int
    #: Tokens the model reads, special tokens included.
    max_tokens: int
    #: Characters a token on ordinary text, for estimates.
    chars_per_token: float
    #: Tokens a second of one core, for estimates.
    tokens_per_s: float
    precision: str = "fp32"
    #: exact, close or variant: how a vector depends on its batch.
    batch_class: str = "exact"
    #: What was fetched from a hub, as "org/name@commit"; empty for files that were on the worker's disk.
    revision: str = ""

    def to_json(self) -> str:
        """Give the card as workers publish it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str | bytes) -> ModelCard:
        """Read a card, ignoring fields of newer workers.

        Raises:
            MessageError: not a card.
        """
        check_entry_size(data)
        try:
            values = json.loads(data)
            card = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise MessageError(f"unreadable model card ({type(error).__name__})") from None
        strings = (card.name, card.fingerprint, card.precision, card.batch_class, card.revision)
        sizes = (card.dimension, card.max_tokens)
        rates = (card.chars_per_token, card.tokens_per_s)
        if not (
            all(is_label(value) for value in strings)
            and all(type(size) is int and 0 < size < 1 << 31 for size in sizes)
            and card.dimension <= MAX_DIMENSION
            and all(type(rate) in (float, int) and SLOWEST <= rate <= FASTEST for rate in rates)
        ):
            raise MessageError("unreadable model card: a field has a value that no worker writes")
        return card


#: What a client assumes of a model that no worker has announced yet.
UNKNOWN_CARD: Final = ModelCard(
    name="", fingerprint="", dimension=0, max_tokens=512, chars_per_token=3.0, tokens_per_s=2_000.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a job: some of its texts and where they stand in the job."""

    #: uint32 (n,): positions in the job's input.
    indices: IndexArray
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReply:
    """The vectors of a chunk and what there is to say of its texts; rows in the chunk's order."""

    #: uint32 (n,): positions in the job's input.
    indices: IndexArray
    #: Rows as ``vectors.to_bytes`` made them.
    vectors: bytes
    dtype: Dtype
    dimension: int
    #: uint32 (n,): tokens of each text before truncation.
    token_counts: IndexArray
    #: bool (n,)
    truncated: npt.NDArray[np.bool_]
    #: By position in the job's input.
    rejected: tuple[Rejected, ...]
    fingerprint: str
    #: What computed it: ONNX Runtime version, CPU.
    runtime: str
    #: queue, tokenization, inference, total: milliseconds.
    timings_ms: dict[str, float]


def is_label(value: Any) -> bool:
    """Say whether it is a str that may be shown on a terminal, not longer than any name."""
    return type(value) is str and len(value) <= MAX_LABEL_CHARS and value.isprintable()


def check_entry_size(data: str | bytes) -> None:
    """Raise MessageError for more than a worker ever says of itself or of a model."""
    if len(data) > MAX_ENTRY_BYTES:
        raise MessageError(f"an entry has {len(data)} bytes, limit {MAX_ENTRY_BYTES}")


def digest(model: str, options: EmbedOptions, texts: Iterable[bytes]) -> str:
    """Give the sha256 of what is asked, however it is cut into chunks."""
    content = hashlib.sha256(msgpack.packb([PROTOCOL_VERSION, model, *options_to_list(options)]))
    for text in texts:
        content.update(struct.pack("<Q", len(text)))
        content.update(text)
    return content.hexdigest()


def options_to_list(options: EmbedOptions) -> list[Any]:
    """Give the options as a flat list for msgpack."""
    return [options.input_type, options.dimensions, str(options.dtype), options.truncate]


def pack_options(options: EmbedOptions) -> bytes:
    """Pack the options of a job record."""
    return _pack(options_to_list(options))


def unpack_options(data: bytes) -> EmbedOptions:
    """Read the options of a job record.

    Raises:
        MessageError: not readable, or not options.
    """
    values = _fields(_unpack(data, 4_096), "job options", _OPTIONS_TYPES)
    try:
        return EmbedOptions(
            input_type=values[0], dimensions=values[1], dtype=Dtype.parse(values[2]), truncate=values[3]
        )
    except InvalidRequestError as error:
        raise MessageError(f"job options cannot be served: {error}") from None


def pack_chunk(chunk: Chunk) -> bytes:
    """Pack a chunk's texts; compressed when large."""
    return _pack([chunk.indices.astype("<u4").tobytes(), list(chunk.texts)])


def unpack_chunk(data: bytes) -> Chunk:
    """Read a chunk.

    Raises:
        MessageError: not readable, too large, or not a chunk.
    """
    packed_indices, texts = _fields(_unpack(data, MAX_CHUNK_BYTES), "a chunk", _CHUNK_TYPES)
    if len(texts) > MAX_CHUNK_TEXTS or not all(type(text) is str for text in texts):
        raise MessageError(f"a chunk holds at most {MAX_CHUNK_TEXTS} texts, all of them str")
    longest = max(map(len, texts), default=0)
    if longest > MAX_TEXT_CHARS:
        raise MessageError(f"a chunk holds a text of {longest} characters, limit {MAX_TEXT_CHARS}")
    indices = _array(packed_indices, "<u4", len(texts))
    if len(indices) and int(indices.max()) >= MAX_JOB_TEXTS:
        raise MessageError(f"a chunk holds text {int(indices.max())}, a job at most {MAX_JOB_TEXTS}")
    return Chunk(indices=indices.astype(np.uint32), texts=tuple(texts))


def pack_reply(reply: ChunkReply) -> bytes:
    """Pack a reply. Vectors are not compressed: they do not shrink."""
    head = [
        reply.indices.astype("<u4").tobytes(),
        reply.vectors,
        str(reply.dtype),
        reply.dimension,
        reply.token_counts.astype("<u4").tobytes(),
        reply.truncated.astype("u1").tobytes(),
        [[r.index, r.reason, r.detail] for r in reply.rejected],
        reply.fingerprint,
        reply.runtime,
        reply.timings_ms,
    ]
    packed: bytes = b"\x00" + msgpack.packb(head)
    return packed


def unpack_reply(data: bytes) -> ChunkReply:
    """Read a reply.

    Raises:
        MessageError: not readable, too large, or not a reply.
    """
    values = _fields(_unpack(data, MAX_REPLY_BYTES), "a reply", _REPLY_TYPES)
    indices, rows, dtype_name, dimension, token_counts, truncated, rejected, fingerprint, runtime, timings_ms = values
    if dtype_name not in tuple(Dtype) or not 0 <= dimension <= MAX_DIMENSION:
        raise MessageError(f"a reply holds vectors of no known dtype, or of dimension {dimension}")
    dtype, count = Dtype(dtype_name), len(indices) // 4
    if len(rows) != count * dtype.columns(dimension) * dtype.numpy.itemsize:
        raise MessageError(f"a reply of {count} texts holds {len(rows)} bytes of {dtype} vectors")
    if not all(map(is_label, (fingerprint, runtime, *timings_ms))):
        raise MessageError("a reply's fingerprint, its runtime or the name of a timing is none that a worker writes")
    if not all(type(value) in (float, int) for value in timings_ms.values()):
        raise MessageError("a reply's timings are not numbers")
    return ChunkReply(
        indices=_array(indices, "<u4", count).astype(np.uint32),
        vectors=rows,
        dtype=dtype,
        dimension=dimension,
        token_counts=_array(token_counts, "<u4", count).astype(np.uint32),
        truncated=_array(truncated, "u1", count).astype(np.bool_),
        rejected=unpack_rejected(rejected),
        fingerprint=fingerprint,
        runtime=runtime,
        timings_ms={str(stage): float(value) for stage, value in timings_ms.items()},
    )


def unpack_rejected(rows: Any) -> tuple[Rejected, ...]:
    """Read ``[[index, reason, detail], …]``; a detail is cut to a line that moves no cursor.

    Raises:
        MessageError: anything else.
    """
    if not isinstance(rows, list):
        raise MessageError("rejected texts are not a list")
    triples = [_fields(row, "a rejected text", _REJECTED_TYPES) for row in rows]
    if any(not 0 <= index < MAX_JOB_TEXTS for index, _, _ in triples):
        raise MessageError(f"a rejected text stands at no position from 0 to {MAX_JOB_TEXTS - 1}")
    if not all(is_label(reason) for _, reason, _ in triples):
        raise MessageError("the reason of a rejected text is none that a worker writes")
    return tuple(
        Rejected(index=index, reason=reason, detail=printable(detail, limit=MAX_DETAIL_CHARS))
        for index, reason, detail in triples
    )


def pack_rejected(rejected: Iterable[Rejected]) -> bytes:
    """Pack what the client itself rejected, for the job record."""
    return _pack([[r.index, r.reason, r.detail] for r in rejected])


def read_rejected(data: bytes) -> tuple[Rejected, ...]:
    """Read what ``pack_rejected`` packed.

    Raises:
        MessageError: not readable.
    """
    return unpack_rejected(_unpack(data, MAX_CHUNK_BYTES)) if data else ()


def pack_weights(weights: Iterable[tuple[int, int]]) -> bytes:
    """Pack (texts, tokens) of every chunk, 8 bytes each, as ``prelude.lua`` reads them."""
    return b"".join(struct.pack("<II", texts, min(tokens, 0xFFFFFFFF)) for texts, tokens in weights)


def pack_values(values: Sequence[Any]) -> bytes:
    """Pack a flat list; compressed when large."""
    return _pack(list(values))


def unpack_values(data: bytes, limit: int, what: str, types: Sequence[tuple[type, ...]]) -> list[Any]:
    """Read what ``pack_values`` packed, if it has at most ``limit`` bytes and exactly these types.

    Raises:
        MessageError: it has not.
    """
    return _fields(_unpack(data, limit), what, types)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    if len(packed) < COMPRESS_FROM_BYTES:
        return b"\x00" + packed
    return b"\x01" + zlib.compress(packed, 1)


def _unpack(data: bytes, limit: int) -> Any:
    if len(data) > limit:
        raise MessageError(f"{len(data)} bytes, limit {limit}")
    if data[:1] == b"\x01":
        data = _inflate(data[1:], limit)
    elif data[:1] == b"\x00":
        data = data[1:]
    else:
        raise MessageError("unknown frame byte: not written by this protocol")
    try:
        # A list's length is believed only up to the bytes that are there: its room is taken before it is read.
        longest = min(MAX_JOB_TEXTS, len(data))
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=longest, max_map_len=64)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MessageError(f"unreadable msgpack ({type(error).__name__})") from None


def _inflate(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, limit)
    except zlib.error:
        raise MessageError("unreadable compressed frame") from None
    if not inflater.eof:
        raise MessageError(f"a compressed frame is cut off or holds more than {limit} bytes")
    return plain


def _fields(values: Any, what: str, types: Sequence[tuple[type, ...]]) -> list[Any]:
    """Give the list back if it holds exactly these types."""
    if not isinstance(values, list) or len(values) != len(types):
        raise MessageError(f"{what} is not a list of {len(types)}")
    for place, (value, allowed) in enumerate(zip(values, types, strict=True)):
        if type(value) not in allowed:
            raise MessageError(f"{what} holds {type(value).__name__} at place {place}")
    return values


def _array(data: bytes, dtype: str, count: int) -> npt.NDArray[Any]:
    if len(data) != count * np.dtype(dtype).itemsize:
        raise MessageError(f"an array of {count} items has another length")
    return np.frombuffer(data, dtype=dtype)
