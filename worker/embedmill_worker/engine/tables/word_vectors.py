"""What each word brings to a text in a fastText model, computed once and kept in bounded memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedmill_worker.engine.tables.segments import segment_sums
from embedmill_worker.engine.tables.subwords import subwords, word_hashes
from embedmill_worker.models.formats.fasttext_file import MAX_TOKENS, FastTextFile

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: The word that ends a line in fastText; it has no subwords.
EOS: Final = b"</s>"
#: What labels begin with unless the dictionary says otherwise.
_LABEL: Final = b"__label__"

#: Bytes of kept vectors, of each child: 14,000 words at 300 dimensions.
_KEPT_BYTES: Final = 16 << 20
#: Bytes of the kept words themselves from which all are let go.
_KEPT_WORD_BYTES: Final = 2 << 20
#: Bytes of words whose subwords are looked up at a time.
_BLOCK_BYTES: Final = 1 << 16


class WordVectors:
    """Vectors of words by their place in a table that is emptied when it is full.

    In unsupervised models a word brings the mean of its rows, scaled to length 1, once; in supervised ones the sum of
    its rows, as often as there are rows.
    """

    def __init__(self, model: FastTextFile, data: mmap.mmap, matrix: npt.NDArray[np.uint8]) -> None:
        """``data`` is the mapped file, ``matrix`` its input matrix as bytes, uint8 (rows, 4 × dimension)."""
        self._model, self._data, self._matrix = model, data, matrix
        dimension = model.header.dimension
        capacity = max(MAX_TOKENS + 1, _KEPT_BYTES // (4 * dimension))
        self._places: dict[bytes, int] = {}
        self._word_bytes = 0
        #: float32 (capacity, dimension); memory is taken as words come.
        self.vectors: Floats = np.empty((capacity, dimension), dtype=np.float32)
        #: How often each counts in the mean, int64 (capacity,).
        self.weights: Ints = np.empty(capacity, dtype=np.int64)
        #: Its part in n-grams of words, uint64 (capacity,), and whether it has one: labels have none.
        self.hashes = np.empty(capacity, dtype=np.uint64)
        self.is_word = np.empty(capacity, dtype=np.bool_)

    def places(self, words: Sequence[bytes]) -> Ints:
        """Give the place of each word, (n,), until the next call; at most ``MAX_TOKENS`` and the end of the line."""
        unknown = [word for word in dict.fromkeys(words) if word not in self._places]
        if unknown:
            if len(self._places) + len(unknown) > len(self.vectors) or self._word_bytes > _KEPT_WORD_BYTES:
                self.clear()
                unknown = list(dict.fromkeys(words))
            self._add(unknown)
        return np.fromiter(map(self._places.__getitem__, words), dtype=np.int64, count=len(words))

    def clear(self) -> None:
        """Let all words go."""
        self._places.clear()
        self._word_bytes = 0

    def _add(self, words: list[bytes]) -> None:
        start = size = 0
        for i, word in enumerate(words):
            if i > start and size + len(word) > _BLOCK_BYTES:
                self._compute(words[start:i])
                start, size = i, 0
            size += len(word)
        self._compute(words[start:])

    def _compute(self, words: list[bytes]) -> None:
        fnv = word_hashes(words)
        ids = self._model.index.find(self._data, words, fnv)
        is_word = np.where(ids < 0, [not word.startswith(_LABEL) for word in words], ids < self._model.words)
        sums, counts = self._row_sums(words, ids)
        if self._model.header.is_supervised:
            sums[~is_word], counts[~is_word] = 0, 0
        else:
            sums, counts = _normalized_means(sums, counts)
        first = len(self._places)
        new = slice(first, first + len(words))
        self.vectors[new], self.weights[new], self.is_word[new] = sums, counts, is_word
        self.hashes[new] = fnv.view(np.int32).astype(np.int64).view(np.uint64)  # signed there
        self._places.update(zip(words, range(first, first + len(words)), strict=True))
        self._word_bytes += sum(map(len, words))

    def _row_sums(self, words: list[bytes], ids: Ints) -> tuple[Floats, Ints]:
        """Give the sum of each word's rows, its own and those of its subwords, and how many they are."""
        header = self._model.header
        # Labels of unsupervised models have ids beyond the words, where the rows of n-grams are; so has fastText.
        counts = ((ids >= 0) & (ids < self._model.rows)).astype(np.int64)
        sums = segment_sums(self._matrix, ids[counts > 0], counts)
        spelt = np.array([i for i, word in enumerate(words) if word != EOS], dtype=np.int64)
        if header.maxn > 0 and len(spelt):
            for fnv, row_counts in subwords([words[i] for i in spelt], header.minn, header.maxn):
                rows = self._model.words + (fnv % np.uint32(header.bucket)).astype(np.int64)
                sums[spelt] += segment_sums(self._matrix, rows, row_counts)
                counts[spelt] += row_counts
        return sums, counts


def _normalized_means(sums: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """Scale means to L2 length 1, weight 1; a word without rows, or with a mean of zeros, has weight 0.

    One that is not finite, or whose length overflows, becomes NaN.
    """
    means = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
    norms = np.sqrt(np.square(means).sum(axis=1, keepdims=True))
    norms[np.isinf(norms)] = np.nan
    has = norms != 0
    return np.where(has, means / np.where(has, norms, np.float32(1)), np.float32(0)), has[:, 0].astype(np.int64)
