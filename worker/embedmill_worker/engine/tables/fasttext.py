"""fastText: splits texts into words, and computes their vectors from the mapped matrix of the model's file.

Sums over rows are batch-invariant: each segment of rows is summed on its own, in its order.
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
from embedmill_worker.engine.probing.probe import SPEED_PASSES, classify_vectors, probe_texts
from embedmill_worker.engine.tables.loading import engine_of
from embedmill_worker.engine.transformer.tokenization import Encoded
from embedmill_worker.models.formats.fasttext_file import MAX_TOKENS, FastTextFile, mapped
from embedmill_worker.models.formats.fnv import subwords, word_hashes

#: Segments of at most this many rows are summed side by side, row by row, which takes a microsecond for ten rows of 300
#: numbers, an eighth of ``np.add.reduceat``. Longer segments are summed one by one, in blocks.
_SIDE_BY_SIDE: Final = 64
_BLOCK_ROWS: Final = 2_048

#: The word that ends a line in fastText; it has no subwords.
EOS: Final = b"</s>"
#: Beginning of labels, for words that are not in the dictionary.
_LABEL: Final = b"__label__"

#: Bytes of vectors that each child keeps: 14,000 words at 300 dimensions.
_KEPT_BYTES: Final = 16 << 20
#: Bytes of the kept words themselves beyond which all are dropped.
_KEPT_WORD_BYTES: Final = 2 << 20
#: Bytes of words whose subwords are looked up at once.
_BLOCK_BYTES: Final = 1 << 16

#: Maximum words of a run, which bounds its memory: 20 MB at 300 dimensions. A longer text gets its own run.
_RUN_WORDS: Final = 8_192
#: Factor of fastText's hash of several words (its `Dictionary::addWordNgrams`).
_NGRAM_FACTOR: Final = np.uint64(116049371)


class FastTextTokenizer:
    """A tokenizer that splits at ASCII white space only, as fastText does. For supervised models it adds ``</s>``."""

    def __init__(self, *, is_supervised: bool) -> None:
        self._is_supervised = is_supervised

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[Encoded]:
        """Split texts of valid Unicode, with a prefix before each, into words of UTF-8; these are the ids.

        A newline counts as white space, whereas fastText's own package refuses a text that holds one.
        """
        return [self._encoded(prefix + text) for text in texts]

    def _encoded(self, text: str) -> Encoded:
        if not self._is_supervised:
            words = text.encode().split()
            return Encoded(words[:MAX_TOKENS], len(words))
        words = text.encode().replace(b"\0", b" ").split()
        kept = words[:MAX_TOKENS]
        # This word ends a text wherever it stands, as in fastText.
        return Encoded([*(kept[: kept.index(EOS)] if EOS in kept else kept), EOS], len(words))


class WordVectors:
    """Vectors of words in a table that is emptied when it is full.

    In unsupervised models a word's vector is the mean of its rows, scaled to length 1, with weight 1; in supervised
    models it is the sum of its rows, with the number of rows as its weight.
    """

    def __init__(self, model: FastTextFile, data: mmap.mmap, matrix: npt.NDArray[np.uint8]) -> None:
        """Take the mapped file, and its input matrix as bytes, uint8 (rows, 4 × dimension)."""
        self._model, self._data, self._matrix = model, data, matrix
        dimension = model.header.dimension
        capacity = max(MAX_TOKENS + 1, _KEPT_BYTES // (4 * dimension))
        self._places: dict[bytes, int] = {}
        self._word_bytes = 0
        #: float32 (capacity, dimension); memory is used as words are added.
        self.vectors: Floats = np.empty((capacity, dimension), dtype=np.float32)
        #: Weight of each word in a mean, int64 (capacity,).
        self.weights: Ints = np.empty(capacity, dtype=np.int64)
        #: Each word's hash in n-grams of words, uint64 (capacity,), and whether it takes part in them: labels do not.
        self.hashes = np.empty(capacity, dtype=np.uint64)
        self.is_word = np.empty(capacity, dtype=np.bool_)

    def places(self, words: Sequence[bytes]) -> Ints:
        """Return each word's row in the table, (n,), valid until the next call. At most ``MAX_TOKENS`` + 1 words."""
        unknown = [word for word in dict.fromkeys(words) if word not in self._places]
        if unknown:
            if len(self._places) + len(unknown) > len(self.vectors) or self._word_bytes > _KEPT_WORD_BYTES:
                self.clear()
                unknown = list(dict.fromkeys(words))
            self._add(unknown)
        return np.fromiter(map(self._places.__getitem__, words), dtype=np.int64, count=len(words))

    def clear(self) -> None:
        """Drop all words."""
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
        self.hashes[new] = fnv.view(np.int32).astype(np.int64).view(np.uint64)  # fastText's hash is signed
        self._places.update(zip(words, range(first, first + len(words)), strict=True))
        self._word_bytes += sum(map(len, words))

    def _row_sums(self, words: list[bytes], ids: Ints) -> tuple[Floats, Ints]:
        """Return the sum of each word's rows, its own and its subwords', and the number of rows."""
        header = self._model.header
        # Labels of unsupervised models have ids beyond the words', where the rows of n-grams are, as in fastText.
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
    """Encoder of fastText: the mean of the words' vectors and, in supervised models, of their n-grams' rows.

    It sums in the order of the text, so it is batch-invariant. It is not thread-safe.
    """

    def __init__(self, model: FastTextFile) -> None:
        """Map the file; only rows that texts use are loaded, and all children share them.

        Raises:
            ModelLoadError: the file has changed since it was read.
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
        #: Input matrix as bytes, because it may start at any offset of the file: uint8 (rows, 4 × dimension).
        self._matrix = matrix.reshape(model.rows, -1)
        self._model = model
        self.words = WordVectors(model, data, self._matrix)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._model.header.dimension

    def __call__(self, ids: Sequence[Sequence[bytes]]) -> Floats:
        """Return (n, dimension) for the words of n texts; zeros for a text whose words have no rows."""
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
        """Yield the rows of the n-grams of each length, text after text, and their number in each text."""
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
    """Cut texts into runs of one text or at most ``_RUN_WORDS`` words."""
    start = words = 0
    for i, text in enumerate(texts):
        if i > start and words + len(text) > _RUN_WORDS:
            yield texts[start:i]
            start, words = i, 0
        words += len(text)
    yield texts[start:]


def _normalized_means(sums: Floats, counts: Ints) -> tuple[Floats, Ints]:
    """Return means scaled to L2 length 1, and weights of 1; a word without rows, or with a zero mean, has weight 0.

    A mean that is not finite, or whose length overflows, becomes NaN.
    """
    means = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
    norms = np.sqrt(np.square(means).sum(axis=1, keepdims=True))
    norms[np.isinf(norms)] = np.nan
    has = norms != 0
    return np.where(has, means / np.where(has, norms, np.float32(1)), np.float32(0)), has[:, 0].astype(np.int64)


def segment_sums(table: npt.NDArray[Any], rows: Ints, counts: Ints) -> Floats:
    """Return the sums of consecutive segments of rows, each summed in order.

    Args:
        table: float32 (m, dimension), or the same as unaligned bytes, uint8 (m, 4 × dimension).
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
    """Load a fastText model; see ``engine.load``."""
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
    """Embed the probe texts alone and together, and time them.

    They are timed with an empty table of words: one word in twelve is new, as in real text.

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
    batch_class, min_cosine = classify_vectors(np.concatenate([encoder([row]) for row in ids]), [together])
    token_count = sum(one.token_count for one in encoded)
    return ProbeResult(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=token_count / median(times_s),
        chars_per_token=sum(map(len, texts)) / token_count,
    )
