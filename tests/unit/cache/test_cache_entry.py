"""Entries of the embedding cache: what is not whole is as if it were not there."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedmill_worker.cache.cache_entry import CacheEntry, hash_of, pack, unpack

HASH = bytes(range(32))

vectors = arrays.arrays(np.float32, st.integers(1, 64), elements=st.floats(-1, 1, width=32))


@given(vectors, st.integers(0, 2**32 - 1), st.booleans())
def test_an_entry_comes_back_to_the_bit(vector, token_count, is_truncated):
    entry = unpack(
        pack(CacheEntry(vector=vector, token_count=token_count, is_truncated=is_truncated), HASH),
        HASH,
        dimension=len(vector),
    )
    assert entry is not None
    assert entry.vector.tobytes() == vector.tobytes()
    assert (entry.token_count, entry.is_truncated) == (token_count, is_truncated)


@given(vectors, st.data())
def test_an_entry_with_any_bit_flipped_is_none(vector, data):
    packed = bytearray(pack(CacheEntry(vector=vector, token_count=7, is_truncated=False), HASH))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    assert unpack(bytes(packed), HASH, dimension=len(vector)) is None


@given(st.one_of(st.none(), st.binary(max_size=64), st.text(), st.integers()), st.integers(0, 16))
def test_anything_else_is_none(data, dimension):
    assert unpack(data, HASH, dimension=dimension) is None


def test_an_entry_of_another_dimension_is_none():
    packed = pack(CacheEntry(vector=np.ones(4, np.float32), token_count=1, is_truncated=False), HASH)
    assert unpack(packed, HASH, dimension=4) is not None
    assert unpack(packed, HASH, dimension=8) is None


def test_a_vector_of_nan_is_none_although_its_checksum_is_right():
    packed = pack(CacheEntry(vector=np.full(4, np.nan, np.float32), token_count=1, is_truncated=False), HASH)
    assert unpack(packed, HASH, dimension=4) is None


def test_fingerprint_runtime_input_type_and_text_each_make_another_entry():
    first = {"text": "t", "fingerprint": "f", "runtime": "r", "bits": "exact", "input_type": None}
    others = [
        first | change
        for change in (
            {"text": "u"},
            {"fingerprint": "g"},
            {"runtime": "s"},
            {"bits": "close"},
            {"input_type": "query"},
        )
    ]
    hashes = {hash_of(**values) for values in [first, *others]}
    assert len(hashes) == 6
    assert hash_of(**first) == hash_of(**first)


def test_an_entry_of_another_text_is_none():
    packed = pack(CacheEntry(vector=np.ones(4, np.float32), token_count=1, is_truncated=False), HASH)
    assert unpack(packed, bytes(32), dimension=4) is None
