"""Entries of the embedding cache: the vector of one text, its token count and a checksum. No I/O.

version 1 byte, flags 1 byte (1: truncated), 2 bytes 0, token count uint32, dimension uint32,
float32 × dimension, checksum 8 bytes (BLAKE2b of everything before it, keyed by the text's hash);
all little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

#: Version of the layout; entries of other versions are ignored.
VERSION: Final = 1

#: Bytes of a key's hash, and of an entry's checksum.
HASH_BYTES: Final = 32
CHECKSUM_BYTES: Final = 8

_HEAD: Final = struct.Struct("<BBHII")
_TRUNCATED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One text's embedding."""

    #: float32 (dimension,), as the model returned it.
    vector: npt.NDArray[np.float32]
    #: Tokens before truncation.
    token_count: int
    #: Whether the text was longer than the model reads.
    is_truncated: bool


def hash_of(text: str, *, fingerprint: str, runtime: str, bits: str, input_type: str | None) -> bytes:
    """Return the hash that names a text's entry.

    It covers the runtime, because bits are equal only within one runtime, and ``bits``: how far they are
    batch-invariant.

    Raises:
        UnicodeEncodeError: the text has no UTF-8 form.
    """
    known = f"{fingerprint}\n{runtime}\n{bits}\n{input_type or ''}\n"
    hashed = hashlib.blake2b(known.encode(), digest_size=HASH_BYTES)
    hashed.update(text.encode())
    return hashed.digest()


def pack(entry: CacheEntry, hash: bytes) -> bytes:
    """Return an entry's bytes; ``hash``, that of its text, is the key of the checksum."""
    flags = _TRUNCATED if entry.is_truncated else 0
    head = _HEAD.pack(VERSION, flags, 0, entry.token_count, len(entry.vector))
    body = head + np.ascontiguousarray(entry.vector, dtype="<f4").tobytes()
    return body + _checksum(body, hash)


def unpack(data: object, hash: bytes, *, dimension: int) -> CacheEntry | None:
    """Read the entry of a text; return None if the bytes are not a complete entry of this text and dimension."""
    size = _HEAD.size + 4 * dimension + CHECKSUM_BYTES
    if not isinstance(data, bytes) or len(data) != size:
        return None
    body = data[:-CHECKSUM_BYTES]
    version, flags, _, token_count, stored = _HEAD.unpack_from(body)
    if version != VERSION or stored != dimension or _checksum(body, hash) != data[-CHECKSUM_BYTES:]:
        return None
    vector = np.frombuffer(body, dtype="<f4", offset=_HEAD.size)
    if not np.isfinite(vector).all():
        return None
    return CacheEntry(vector=vector, token_count=token_count, is_truncated=bool(flags & _TRUNCATED))


def _checksum(body: bytes, hash: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES, key=hash).digest()
