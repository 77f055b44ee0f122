"""The character n-grams of many words at once, hashed as fastText does (its `Dictionary::computeSubwords`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from embedmill_worker.models.formats.fnv import BASIS, hashes, step

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint32]


def word_hashes(words: Sequence[bytes]) -> Hashes:
    """Give the hash of each whole word, uint32 (n,)."""
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    return hashes(np.frombuffer(b"".join(words), dtype=np.int8), np.cumsum(lengths) - lengths, lengths)


def subwords(words: Sequence[bytes], minn: int, maxn: int) -> Iterator[tuple[Hashes, Ints]]:
    """Give the n-grams of each length, from ``minn`` to ``maxn`` characters, of words in ``<`` and ``>``.

    Args:
        words: UTF-8, at least one.
        minn: characters of the shortest; a single ``<`` or ``>`` is none.
        maxn: characters of the longest.

    Yields:
        Their hashes, uint32, word after word, and how many each word has, (n,).
    """
    data = np.frombuffer(b"".join([b"<" + word + b">" for word in words]), dtype=np.int8)
    is_first = (data.view(np.uint8) & 0xC0) != 0x80
    firsts = np.flatnonzero(is_first)
    sizes = np.diff(firsts, append=len(data))  # bytes of each character
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words)) + 2
    chars = np.add.reduceat(is_first, np.cumsum(lengths) - lengths, dtype=np.int64)
    # Of each character: how many there are from it to the end of its word, and of its word.
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


def _with_character(sums: Hashes, data: npt.NDArray[np.int8], firsts: Ints, sizes: Ints) -> Hashes:
    """Take one more character, of one to four bytes, into each hash."""
    longer = step(sums, data[firsts])
    for byte in range(1, int(sizes.max(initial=1))):
        has = np.flatnonzero(sizes > byte)
        longer[has] = step(longer[has], data[firsts[has] + byte])
    return longer
