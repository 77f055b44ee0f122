"""fastText: words straight from the text, and vectors from the mapped matrix of its file.

Sums of rows are taken segment by segment: the same bits for a segment in any batch.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker.arrays import Floats, Ints, finite_rows
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.probing.measurements import ProbeResult
from embedmill_worker.engine.probing.probe import SPEED_PASSES, judge, probe_texts
from embedmill_worker.engine.tables.loading import engine_of
from embedmill_worker.engine.transformer.tokenization import Encoded
from embedmill_worker.models.formats.fasttext_file import MAX_TOKENS, FastTextFile, mapped
from embedmill_worker.models.formats.fnv import subwords, word_hashes

#: Rows up to which segments are summed side by side, row by row: a microsecond for ten rows of 300, an eighth of what
#: ``np.add.reduceat`` takes. Longer ones are summed alone, in blocks.
_SIDE_BY_SIDE: Final = 64
_BLOCK_ROWS: Final = 2_048

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
        """Return the place of each word, (n,), until the next call; at most ``MAX_TOKENS`` and the end of the line."""
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
        """Return the sum of each word's rows, its own and those of its subwords, and how many they are."""
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
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._model.header.dimension

    def __call__(self, ids: Sequence[Sequence[bytes]]) -> Floats:
        """Return (n, dimension) for the words of n texts; zeros for a text without any that the model has rows for."""
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
        """Return the rows of the n-grams of each length, text after text, and how many each text has."""
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


def _normalized_means(sums: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """Scale means to L2 length 1, weight 1; a word without rows, or with a mean of zeros, has weight 0.

    One that is not finite, or whose length overflows, becomes NaN.
    """
    means = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
    norms = np.sqrt(np.square(means).sum(axis=1, keepdims=True))
    norms[np.isinf(norms)] = np.nan
    has = norms != 0
    return np.where(has, means / np.where(has, norms, np.float32(1)), np.float32(0)), has[:, 0].astype(np.int64)


def segment_sums(table: npt.NDArray[Any], rows: Ints, counts: Ints) -> Floats:
    """Sum consecutive segments of rows, each in its own order.

    Args:
        table: float32 (m, dimension), or the same as bytes, uint8 (m, 4 × dimension), which need no alignment.
        rows: rows of the table, segment after segment.
        counts: length of each segment, (n,).

    Returns:
        float32 (n, dimension); zeros for empty segments.
    """
    order = np.argsort(-counts, kind="stable")
    starts, lengths = (np.cumsum(counts) - counts)[order], counts[order]
    dimension = table.shape[1] // (4 if table.dtype == np.uint8 else 1)
    sums = np.zeros((len(counts), dimension), dtype=np.float32)
    first = int(np.searchsorted(-lengths, -_SIDE_BY_SIDE, side="left"))
    for i in range(first):
        start, end = int(starts[i]), int(starts[i] + lengths[i])
        for block in range(start, end, _BLOCK_ROWS):
            sums[i] += _gather(table, rows[block : min(block + _BLOCK_ROWS, end)]).sum(axis=0)
    for place in range(int(lengths[first]) if first < len(lengths) else 0):
        alive = int(np.searchsorted(-lengths, -place, side="left"))
        sums[first:alive] += _gather(table, rows[starts[first:alive] + place])
    back = np.empty_like(sums)
    back[order] = sums
    return back


def _gather(table: npt.NDArray[Any], rows: Ints) -> Floats:
    return np.asarray(np.take(table, rows, axis=0).view(np.float32))


def load_fasttext(files: FastTextFile, *, cache_dir: Path | None) -> Engine:
    """Load fastText's table; see ``engine.load``."""
    tokenizer = FastTextTokenizer(is_supervised=files.header.is_supervised)
    encoder = FastTextEncoder(files)
    return engine_of(
        files,
        tokenizer,
        encoder,
        lambda: _probe_fasttext(files.name, tokenizer, encoder),
        dimension=encoder.dimension,
        max_tokens=MAX_TOKENS,
        cache_dir=cache_dir,
    )


def _probe_fasttext(name: str, tokenizer: FastTextTokenizer, encoder: FastTextEncoder) -> ProbeResult:
    """Embed the probe texts alone and together, and time them with no word kept: one in twelve is new, as in real text.

    Raises:
        InferenceError: a vector is not finite.
    """
    texts = probe_texts()
    encoded = tokenizer.encode(texts)
    ids = [one.ids for one in encoded if one.ids]
    together = encoder(ids)
    if not finite_rows(together).all():
        raise InferenceError(name, "its matrix holds numbers that are not finite; use another file")
    times_s = []
    for _ in range(SPEED_PASSES):
        encoder.words.clear()
        start_s = time.process_time()
        encoder([one.ids for one in tokenizer.encode(texts) if one.ids])
        times_s.append(time.process_time() - start_s)
    encoder.words.clear()
    batch_class, min_cosine = judge(np.concatenate([encoder([row]) for row in ids]), [together])
    token_count = sum(one.token_count for one in encoded)
    return ProbeResult(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=token_count / median(times_s),
        chars_per_token=sum(map(len, texts)) / token_count,
    )
