"""FNV-1a hashes of many byte strings at once, as in fastText for words and their n-grams.

Bytes are signed; see fastText's `Dictionary::hash` and `Dictionary::computeSubwords`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from embedmill_worker.arrays import Ints

#: Start and factor of 32-bit FNV-1a (Fowler, Noll and Vo).
BASIS: Final = np.uint32(2166136261)
PRIME: Final = np.uint32(16777619)

#: Number of strings below which hashing one by one is faster than a numpy call per byte.
_FEW = 32
_MASK = 0xFFFFFFFF

Hashes = NDArray[np.uint32]


def hashes(data: NDArray[np.int8], starts: Ints, lengths: Ints) -> Hashes:
    """Return the hashes of the strings that begin at `starts`, (n,), in `data`."""
    order = np.argsort(-lengths, kind="stable")
    begins, left = starts[order], np.sort(lengths)
    sums = np.full(len(order), BASIS)
    done = 0
    while (alive := len(left) - int(np.searchsorted(left, done, side="right"))) >= _FEW:
        sums[:alive] = step(sums[:alive], data[begins[:alive] + done])
        done += 1
    for i in range(alive):
        sums[i] = _rest(int(sums[i]), data[begins[i] + done : begins[i] + int(lengths[order[i]])])
    found = np.empty_like(sums)
    found[order] = sums
    return found


def step(sums: Hashes, data: NDArray[np.int8]) -> Hashes:
    """Return the hashes after one more byte each; both are (n,)."""
    return (sums ^ data.astype(np.int32).view(np.uint32)) * PRIME


def _rest(sum_: int, data: NDArray[np.int8]) -> int:
    for byte in data.tolist():
        sum_ = ((sum_ ^ (byte & _MASK)) * 16777619) & _MASK
    return sum_


def word_hashes(words: Sequence[bytes]) -> Hashes:
    """Return the hash of each whole word, uint32 (n,)."""
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    return hashes(np.frombuffer(b"".join(words), dtype=np.int8), np.cumsum(lengths) - lengths, lengths)


def subwords(words: Sequence[bytes], minn: int, maxn: int) -> Iterator[tuple[Hashes, Ints]]:
    """Yield the n-grams of each length, from ``minn`` to ``maxn`` characters, of words in ``<`` and ``>``.

    Args:
        words: UTF-8, at least one.
        minn: minimum characters; a single ``<`` or ``>`` does not count as an n-gram.
        maxn: maximum characters.

    Yields:
        Hashes, uint32, word after word, and their number in each word, (n,).
    """
    data = np.frombuffer(b"".join([b"<" + word + b">" for word in words]), dtype=np.int8)
    is_first = (data.view(np.uint8) & 0xC0) != 0x80
    firsts = np.flatnonzero(is_first)
    sizes = np.diff(firsts, append=len(data))  # bytes of each character
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words)) + 2
    chars = np.add.reduceat(is_first, np.cumsum(lengths) - lengths, dtype=np.int64)
    # For each character: the characters from it to the end of its word, and those of its word.
    left = np.repeat(np.cumsum(chars), chars) - np.arange(len(firsts))
    whole = np.repeat(chars, chars)
    begins = np.arange(len(firsts))
    sums = np.full(len(firsts), BASIS)
    for n in range(1, maxn + 1):
        alive = left[begins] >= n
        begins, sums = begins[alive], sums[alive]
        sums = _with_character(sums, data, firsts[begins + n - 1], sizes[begins + n - 1])
        if n < minn:
            continue
        if n == 1:
            inner = (left != 1) & (left != whole)
            yield sums[inner], chars - 2
        else:
            yield sums, np.maximum(chars - n + 1, 0)


def _with_character(sums: Hashes, data: NDArray[np.int8], firsts: Ints, sizes: Ints) -> Hashes:
    """Return the hashes after one more character, of one to four bytes, each."""
    longer = step(sums, data[firsts])
    for byte in range(1, int(sizes.max(initial=1))):
        has = np.flatnonzero(sizes > byte)
        longer[has] = step(longer[has], data[firsts[has] + byte])
    return longer
