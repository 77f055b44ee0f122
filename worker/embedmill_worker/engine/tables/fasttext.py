"""fastText: words straight from the text, and vectors from the mapped matrix of its file."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embedmill.errors import ModelLoadError
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine.tables.segments import segment_sums
from embedmill_worker.engine.tables.word_vectors import EOS, WordVectors
from embedmill_worker.engine.transformer.tokenization import Encoded
from embedmill_worker.models.formats.fasttext_file import MAX_TOKENS, FastTextFile, mapped

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Words of a run: bounds its memory, 20 MB at 300 dimensions. A text of more makes a run of its own.
_RUN_WORDS: Final = 8_192
#: Factor of fastText's hash of several words (its `Dictionary::addWordNgrams`).
_NGRAM_FACTOR: Final = np.uint64(116049371)


class FastTextTokenizer:
    """Splits where fastText splits, at ASCII white space alone. Supervised models end every text with ``</s>``."""

    def __init__(self, *, is_supervised: bool) -> None:
        self._is_supervised = is_supervised

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[Encoded]:
        """Split texts of valid Unicode, with a prefix before each, into words of UTF-8; these are the ids.

        A newline is white space, too, where fastText's own package refuses a text that holds one.
        """
        return [self._encoded(prefix + text) for text in texts]

    def _encoded(self, text: str) -> Encoded:
        if not self._is_supervised:
            words = text.encode().split()
            return Encoded(words[:MAX_TOKENS], len(words))
        words = text.encode().replace(b"\0", b" ").split()
        kept = words[:MAX_TOKENS]
        # As fastText does: this word ends a text wherever it stands.
        return Encoded([*(kept[: kept.index(EOS)] if EOS in kept else kept), EOS], len(words))


class FastTextEncoder:
    """See ``engine.Encoder``: the mean of the words' vectors and, in supervised models, of their n-grams' rows.

    Sums go in the order of the text, so its neighbours cannot change a bit. Not for several threads at a time.
    """

    def __init__(self, model: FastTextFile) -> None:
        """Map the file; only rows that texts use come into memory, and all children share them.

        Raises:
            ModelLoadError: it is not the file any more that was read.
        """
        try:
            data = mapped(model.path)
        except (OSError, ValueError) as error:
            raise ModelLoadError(model.name, f"{model.path}: {error}") from None
        size = model.rows * model.header.dimension * 4
        if len(data) < model.matrix_start + size:
            raise ModelLoadError(model.name, f"{model.path} has become shorter; replace it by renaming, and restart")
        data.madvise(mmap.MADV_RANDOM)
        matrix = np.frombuffer(data, dtype=np.uint8, count=size, offset=model.matrix_start)
        #: The input matrix as bytes, since it begins anywhere in the file: uint8 (rows, 4 × dimension).
        self._matrix = matrix.reshape(model.rows, -1)
        self._model = model
        self.words = WordVectors(model, data, self._matrix)

    @property
    def runtime(self) -> str:
        """What rounds: the version of numpy and the CPU's instruction set."""
        return f"numpy {np.__version__} {instruction_set()}"

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._model.header.dimension

    def __call__(self, ids: Sequence[Sequence[bytes]]) -> Floats:
        """Give (n, dimension) for the words of n texts; zeros for a text without any that the model has rows for."""
        return np.concatenate([self._run(run) for run in _runs(ids)])

    def _run(self, texts: Sequence[Sequence[bytes]]) -> Floats:
        counts = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        places = self.words.places(list(chain.from_iterable(texts)))
        sums = segment_sums(self.words.vectors, places, counts)
        weights = np.add.reduceat(self.words.weights[places], np.cumsum(counts) - counts)
        for rows, row_counts in self._word_ngrams(places, counts):
            sums += segment_sums(self._matrix, rows, row_counts)
            weights += row_counts
        sums /= np.maximum(weights, 1)[:, None].astype(np.float32)
        return sums

    def _word_ngrams(self, places: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Give the rows of the n-grams of each length, text after text, and how many each text has."""
        header = self._model.header
        if not header.is_supervised or header.word_ngrams < 2:
            return
        texts = np.repeat(np.arange(len(counts)), counts)
        counted = self.words.is_word[places]
        texts, hashes = texts[counted], self.words.hashes[places][counted]
        sums = hashes
        for n in range(2, min(header.word_ngrams, len(hashes)) + 1):
            sums = sums[:-1] * _NGRAM_FACTOR + hashes[n - 1 :]
            whole = texts[: len(sums)] == texts[n - 1 :]
            if not whole.any():
                return
            rows = self._model.words + (sums[whole] % np.uint64(header.bucket)).astype(np.int64)
            yield rows, np.bincount(texts[: len(sums)][whole], minlength=len(counts))


def _runs(texts: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Cut texts into runs of at most ``_RUN_WORDS`` words, or of one text."""
    start = words = 0
    for i, text in enumerate(texts):
        if i > start and words + len(text) > _RUN_WORDS:
            yield texts[start:i]
            start, words = i, 0
        words += len(text)
    yield texts[start:]
