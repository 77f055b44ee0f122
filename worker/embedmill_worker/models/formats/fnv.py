"""FNV-1a over many byte strings at once, as fastText hashes: bytes are signed (its `Dictionary::hash`)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Start and factor of 32-bit FNV-1a (Fowler, Noll and Vo).
BASIS: Final = np.uint32(2166136261)
PRIME: Final = np.uint32(16777619)

#: With fewer strings left than this, one by one is faster than a numpy call for each byte.
_FEW = 32
_MASK = 0xFFFFFFFF


def hashes(data: NDArray[np.int8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Hashes the strings that begin at `starts`, (n,), in `data`; all of them byte by byte, the longest first."""
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


def step(sums: NDArray[np.uint32], data: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Takes one more byte into each hash; both are (n,)."""
    return (sums ^ data.astype(np.int32).view(np.uint32)) * PRIME


def _rest(sum_: int, data: NDArray[np.int8]) -> int:
    for byte in data.tolist():
        sum_ = ((sum_ ^ (byte & _MASK)) * 16777619) & _MASK
    return sum_
