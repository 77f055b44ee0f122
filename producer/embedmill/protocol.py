"""What goes through Redis, as values: options, chunks, replies and model cards. No I/O here.

Every packed value is one frame byte (0 plain, 1 zlib) and msgpack. Readers accept exactly the types
written here, of bounded size, and refuse all else with MessageError.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_CHUNK_BYTES, MAX_CHUNK_TEXTS, MAX_DIMENSION, MAX_JOB_TEXTS, MAX_REPLY_BYTES
from embedmill.reply import Rejected
from embedmill.vectors import Dtype

#: Version of everything in Redis. A worker refuses records of another one.
PROTOCOL_VERSION: Final = 1

#: Packed bytes from which compression pays; below it costs more than it saves.
COMPRESS_FROM_BYTES: Final = 4_096

INPUT_TYPES: Final = ("query", "passage")

IndexArray = npt.NDArray[np.uint32]


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
            raise InvalidRequestError("input_type", f"{self.input_type!r} is none of {', '.join(INPUT_TYPES)}, None")
        if self.dimensions is not None and (
            type(self.dimensions) is not int or not 1 <= self.dimensions <= MAX_DIMENSION
        ):
            raise InvalidRequestError("dimensions", f"{self.dimensions!r} is not an int from 1 to {MAX_DIMENSION}")
        if type(self.truncate) is not bool:
            raise InvalidRequestError("truncate", f"{self.truncate!r} is not a bool")


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

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str | bytes) -> ModelCard:
        """Read a card, ignoring fields of newer workers.

        Raises:
            MessageError: not a card.
        """
        try:
            values = json.loads(data)
            return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"unreadable model card ({type(error).__name__})") from None


#: What a client assumes of a model that no worker has announced yet.
UNKNOWN_CARD: Final = ModelCard(
    name="", fingerprint="", dimension=0, max_tokens=512, chars_per_token=3.0, tokens_per_s=2_000.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a job: some of its texts and where they stand in the job."""

    #: uint32 (n,): positions in the job's input.
    indices: IndexArray
    texts: tuple[str, ...]


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


def digest(model: str, options: EmbedOptions, texts: Iterable[bytes]) -> str:
    """Give the sha256 of what is asked, however it is cut into chunks."""
    content = hashlib.sha256(msgpack.packb([PROTOCOL_VERSION, model, *options_to_list(options)]))
    for text in texts:
        content.update(struct.pack("<I", len(text)))
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
    values = _unpack(data, 4_096)
    if not isinstance(values, list) or len(values) != 4:
        raise MessageError("job options are not a list of four")
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
    values = _unpack(data, MAX_CHUNK_BYTES)
    if not isinstance(values, list) or len(values) != 2 or not isinstance(values[1], list):
        raise MessageError("a chunk is not a list of two")
    texts = values[1]
    if len(texts) > MAX_CHUNK_TEXTS or not all(type(text) is str for text in texts):
        raise MessageError(f"a chunk holds at most {MAX_CHUNK_TEXTS} texts, all of them str")
    indices = _array(values[0], "<u4", len(texts))
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
    values = _unpack(data, MAX_REPLY_BYTES)
    if not isinstance(values, list) or len(values) != 10:
        raise MessageError("a reply is not a list of ten")
    try:
        dtype, dimension, count = Dtype(values[2]), int(values[3]), len(values[0]) // 4
        if len(values[1]) != count * dtype.columns(dimension) * dtype.numpy.itemsize:
            raise MessageError(f"a reply of {count} texts holds {len(values[1])} bytes of {dtype} vectors")
        return ChunkReply(
            indices=_array(values[0], "<u4", count).astype(np.uint32),
            vectors=values[1],
            dtype=dtype,
            dimension=dimension,
            token_counts=_array(values[4], "<u4", count).astype(np.uint32),
            truncated=_array(values[5], "u1", count).astype(np.bool_),
            rejected=unpack_rejected(values[6]),
            fingerprint=str(values[7]),
            runtime=str(values[8]),
            timings_ms={str(k): float(v) for k, v in values[9].items()},
        )
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"unreadable reply ({type(error).__name__})") from None


def unpack_rejected(rows: Any) -> tuple[Rejected, ...]:
    """Read ``[[index, reason, detail], …]``.

    Raises:
        MessageError: anything else.
    """
    try:
        return tuple(Rejected(index=int(i), reason=str(reason), detail=str(detail)) for i, reason, detail in rows)
    except (ValueError, TypeError):
        raise MessageError("unreadable list of rejected texts") from None


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
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=MAX_JOB_TEXTS, max_map_len=64)
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


def _array(data: Any, dtype: str, count: int) -> npt.NDArray[Any]:
    if not isinstance(data, bytes) or len(data) != count * np.dtype(dtype).itemsize:
        raise MessageError(f"an array of {count} items has another length")
    return np.frombuffer(data, dtype=dtype)
