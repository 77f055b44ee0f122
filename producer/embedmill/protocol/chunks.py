"""Chunks of a job and their replies, and how they are packed. No I/O here."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

from embedmill.errors import MessageError
from embedmill.limits import (
    MAX_CHUNK_BYTES,
    MAX_CHUNK_TEXTS,
    MAX_DETAIL_CHARS,
    MAX_DIMENSION,
    MAX_JOB_TEXTS,
    MAX_REPLY_BYTES,
    MAX_TEXT_CHARS,
)
from embedmill.protocol.codec import check_types, is_label, pack, read_array, unpack, unpack_list
from embedmill.protocol.options import EmbedOptions, options_to_list
from embedmill.protocol.vectors import Dtype
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.reply import Rejected
from embedmill.safe.printable import printable

IndexArray = npt.NDArray[np.uint32]

_CHUNK_TYPES: Final = ((bytes,), (list,))

_REPLY_TYPES: Final = ((bytes,), (bytes,), (str,), (int,), (bytes,), (bytes,), (list,), (str,), (str,), (dict,))

_REJECTED_TYPES: Final = ((int,), (str,), (str,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a job: some of its texts and their positions in the job."""

    #: uint32 (n,): positions in the job's input.
    indices: IndexArray
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReply:
    """The vectors of a chunk and what happened to its texts; rows are in the chunk's order."""

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
    #: Texts without a vector; ``index`` is the position in the job's input.
    rejected: tuple[Rejected, ...]
    fingerprint: str
    #: ONNX Runtime version and CPU that computed the vectors.
    runtime: str
    #: Milliseconds of each stage: queue, tokenization, inference, total.
    timings_ms: dict[str, float]


def digest(model: str, options: EmbedOptions, texts: Iterable[bytes]) -> str:
    """Return the sha256 of model, options and texts; it does not depend on how they are cut into chunks."""
    content = hashlib.sha256(msgpack.packb([PROTOCOL_VERSION, model, *options_to_list(options)]))
    for text in texts:
        content.update(struct.pack("<Q", len(text)))
        content.update(text)
    return content.hexdigest()


def pack_chunk(chunk: Chunk) -> bytes:
    """Pack a chunk's texts, compressed when large."""
    return pack([chunk.indices.astype("<u4").tobytes(), list(chunk.texts)])


def unpack_chunk(data: bytes) -> Chunk:
    """Read a packed chunk.

    Raises:
        MessageError: the data cannot be read, is too large, or is not a chunk.
    """
    packed_indices, texts = unpack_list(data, MAX_CHUNK_BYTES, "a chunk", _CHUNK_TYPES)
    if len(texts) > MAX_CHUNK_TEXTS or not all(type(text) is str for text in texts):
        raise MessageError(f"a chunk holds at most {MAX_CHUNK_TEXTS} texts, all of them str")
    longest = max(map(len, texts), default=0)
    if longest > MAX_TEXT_CHARS:
        raise MessageError(f"a chunk holds a text of {longest} characters, limit {MAX_TEXT_CHARS}")
    indices = read_array(packed_indices, "<u4", len(texts))
    if len(indices) and int(indices.max()) >= MAX_JOB_TEXTS:
        raise MessageError(f"a chunk holds text {int(indices.max())}, but a job has at most {MAX_JOB_TEXTS} texts")
    return Chunk(indices=indices.astype(np.uint32), texts=tuple(texts))


def pack_reply(reply: ChunkReply) -> bytes:
    """Pack a reply. Vectors are not compressed, as they would not shrink."""
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
    """Read a packed reply.

    Raises:
        MessageError: the data cannot be read, is too large, or is not a reply.
    """
    values = unpack_list(data, MAX_REPLY_BYTES, "a reply", _REPLY_TYPES)
    indices, rows, dtype_name, dimension, token_counts, truncated, rejected, fingerprint, runtime, timings_ms = values
    if dtype_name not in tuple(Dtype) or not 0 <= dimension <= MAX_DIMENSION:
        raise MessageError(f"a reply holds vectors of an unknown dtype, or of dimension {dimension}")
    dtype, count = Dtype(dtype_name), len(indices) // 4
    if len(rows) != count * dtype.columns(dimension) * dtype.numpy.itemsize:
        raise MessageError(f"a reply of {count} texts holds {len(rows)} bytes of {dtype} vectors")
    if not all(map(is_label, (fingerprint, runtime, *timings_ms))):
        raise MessageError("a reply's fingerprint, runtime or timing has a name that no worker writes")
    if not all(type(value) in (float, int) for value in timings_ms.values()):
        raise MessageError("a reply's timings are not numbers")
    return ChunkReply(
        indices=read_array(indices, "<u4", count).astype(np.uint32),
        vectors=rows,
        dtype=dtype,
        dimension=dimension,
        token_counts=read_array(token_counts, "<u4", count).astype(np.uint32),
        truncated=read_array(truncated, "u1", count).astype(np.bool_),
        rejected=unpack_rejected(rejected),
        fingerprint=fingerprint,
        runtime=runtime,
        timings_ms={str(stage): float(value) for stage, value in timings_ms.items()},
    )


def unpack_rejected(rows: Any) -> tuple[Rejected, ...]:
    """Read ``[[index, reason, detail], …]``. Details are cut, and their control characters escaped.

    Raises:
        MessageError: the rows have another form.
    """
    if not isinstance(rows, list):
        raise MessageError("rejected texts are not a list")
    triples = [check_types(row, "a rejected text", _REJECTED_TYPES) for row in rows]
    if any(not 0 <= index < MAX_JOB_TEXTS for index, _, _ in triples):
        raise MessageError(f"the position of a rejected text is not from 0 to {MAX_JOB_TEXTS - 1}")
    if not all(is_label(reason) for _, reason, _ in triples):
        raise MessageError("a rejected text has a reason that no worker writes")
    return tuple(
        Rejected(index=index, reason=reason, detail=printable(detail, limit=MAX_DETAIL_CHARS))
        for index, reason, detail in triples
    )


def pack_rejected(rejected: Iterable[Rejected]) -> bytes:
    """Pack the texts that the client itself rejected, for the job record."""
    return pack([[r.index, r.reason, r.detail] for r in rejected])


def read_rejected(data: bytes) -> tuple[Rejected, ...]:
    """Read what ``pack_rejected`` packed.

    Raises:
        MessageError: the data cannot be read.
    """
    return unpack_rejected(unpack(data, MAX_CHUNK_BYTES)) if data else ()


#: A chunk's weight, which stands before it: texts and estimated tokens.
_WEIGHT: Final = struct.Struct("<II")


def weigh_chunk(packed: bytes, n_texts: int, n_tokens: int) -> bytes:
    """Return a packed chunk with its weight before it, as Redis stores it and ``lua/claim.lua`` reads it."""
    return _WEIGHT.pack(n_texts, min(n_tokens, 0xFFFFFFFF)) + packed


def without_weight(stored: bytes) -> bytes:
    """Return the packed chunk in what Redis stores."""
    return stored[_WEIGHT.size :]
