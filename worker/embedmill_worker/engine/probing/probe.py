"""Measured once on a machine: does a vector depend on its batch, how fast is a core, what does a precision cost?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from embedmill.errors import InferenceError
from embedmill_worker.arrays import Floats, finite_rows
from embedmill_worker.engine.engine import Encoder
from embedmill_worker.engine.probing.measurements import BatchClass, PrecisionReport, ProbeResult
from embedmill_worker.engine.probing.passages import passages
from embedmill_worker.engine.transformer.batching import plan
from embedmill_worker.engine.transformer.tokenization import TextTokenizer

Batches = Sequence[Sequence[int]]

#: Runs one batch of token ids.
Forward = Callable[[Sequence[Sequence[int]]], Floats]

#: Cosine from which a batched vector passes for the one computed alone (bf16: 0.99999, dynamic int8: 0.97).
CLOSE_COSINE: Final = 0.9999

#: Passes of which the median gives the speed.
SPEED_PASSES: Final = 3

#: Passages of Python's language reference that are embedded besides the probe's sentences: about 7,000 tokens, two
#: seconds of MiniLM in fp32.
PASSAGES: Final = 64

#: Interleaved passes of which the medians give the speed, over one text in so many.
PRICE_PASSES: Final = 3
TIMED_ONE_IN: Final = 4

#: Ordinary text of several languages, so that characters a token is what users see.
SENTENCES: Final = (
    "The river had risen during the night, and the lower fields were under water.",
    "Selamat pagi, apakah toko buku di jalan Diponegoro sudah buka hari ini?",
    "To reset the device, hold the power button for ten seconds until the light turns amber.",
    "Pemerintah daerah menyiapkan anggaran baru untuk memperbaiki jembatan yang rusak.",
    "She closed the account in March and moved the remaining balance to her savings.",
    "La réunion a été reportée à jeudi prochain en raison de la grève des trains.",
    "Der Vertrag verlängert sich automatisch um ein Jahr, wenn er nicht gekündigt wird.",
    "Every function returns a value, and every value has a type that can be checked.",
)

#: Words of each probe text: from nothing to more than 512 tokens.
LENGTHS: Final = (0, 1, 2, 3, 5, 8, 11, 12, 13, 17, 20, 26, 31, 40, 55, 70, 90, 120, 160, 230, 400)


def probe_texts() -> list[str]:
    """Return texts of ``LENGTHS`` words, each beginning elsewhere."""
    words = " ".join(SENTENCES).split()
    return [" ".join(words[(i + j) % len(words)] for j in range(length)) for i, length in enumerate(LENGTHS)]


def classify(tokenizer: TextTokenizer, forward: Forward, *, max_batch_tokens: int) -> tuple[BatchClass, float]:
    """Embed the probe texts alone, in planned batches and in pairs of short and long; see ``judge``.

    Raises:
        InferenceError: the graph failed, or put out numbers that are not finite.
        MemoryError: there is not enough.
    """
    ids = _probe_ids(tokenizer)
    planned = plan([len(row) for row in ids], max_batch_tokens=max_batch_tokens)
    pairs = [[i, len(ids) - 1 - i] for i in range(len(ids) // 2)] + [[len(ids) // 2]] * (len(ids) % 2)
    alone = _vectors(forward, ids, [[i] for i in range(len(ids))])
    if not finite_rows(alone).all():
        raise InferenceError(tokenizer.model, "its graph puts out numbers that are not finite; use another file")
    return judge(alone, [_vectors(forward, ids, batches) for batches in (planned, pairs)])


def tokens_per_s(tokenizer: TextTokenizer, forward: Forward, *, max_batch_tokens: int) -> float:
    """Time the probe texts in batches of this budget, on one core."""
    ids = _probe_ids(tokenizer)
    planned = plan([len(row) for row in ids], max_batch_tokens=max_batch_tokens)
    return sum(map(len, ids)) / _seconds(lambda: _vectors(forward, ids, planned))


def _probe_ids(tokenizer: TextTokenizer) -> list[Sequence[int]]:
    # Without special tokens there is nothing to run for the empty text.
    return [e.ids for e in tokenizer.encode(probe_texts()) if e.ids]


def measure_encoder(tokenizer: TextTokenizer, encoder: Encoder) -> ProbeResult:
    """Class and time an encoder that takes all texts at once.

    Raises:
        InferenceError: it failed, or put out numbers that are not finite.
    """
    ids = _probe_ids(tokenizer)
    alone = np.concatenate([encoder([row]) for row in ids])
    if not finite_rows(alone).all():
        raise InferenceError(tokenizer.model, "its table holds numbers that are not finite; use another file")
    batch_class, min_cosine = judge(alone, [encoder(ids)])
    return ProbeResult(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=sum(map(len, ids)) / _seconds(lambda: encoder(ids)),
        chars_per_token=chars_per_token(probe_texts(), tokenizer),
    )


def price_texts() -> list[str]:
    """Return real text: sentences in several languages and passages of a reference manual."""
    from pydoc_data import topics  # noqa: PLC0415 (half a megabyte, and only for a precision not measured yet)

    found = [passage.text for passage in passages(topics.topics)]
    return [*SENTENCES, *found[:: max(1, len(found) // PASSAGES)][:PASSAGES]]


def measure_price(
    model: str,
    ids: Sequence[Any],
    reference: Callable[[Sequence[Any]], Floats],
    other: Callable[[Sequence[Any]], Floats],
) -> PrecisionReport:
    """Embed the same tokenized texts in both ways, and some of them again, in turn, to time them.

    Raises:
        InferenceError: one of them failed, or put out numbers that are not finite.
        MemoryError: there is not enough.
    """
    vectors = [reference(ids), other(ids)]
    if not all(finite_rows(rows).all() for rows in vectors):
        raise InferenceError(model, "it puts out numbers that are not finite for ordinary text; use another precision")
    cosine = cosines(*vectors)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PRICE_PASSES):
        for way, times_s in zip((reference, other), seconds, strict=True):
            start_s = time.process_time()
            way(ids[::TIMED_ONE_IN])
            times_s.append(time.process_time() - start_s)
    return PrecisionReport(
        texts=len(ids),
        speed=median(seconds[0]) / median(seconds[1]),
        mean_cosine=float(cosine.mean()),
        min_cosine=float(cosine.min()),
    )


def judge(alone: Floats, batched: Sequence[Floats]) -> tuple[BatchClass, float]:
    """Class a model by the vectors (n, dimension) of the same texts alone and in other companies.

    Returns:
        The class and the lowest cosine.
    """
    min_cosine = min(float(cosines(alone, other).min()) for other in batched)
    if all(alone.tobytes() == other.tobytes() for other in batched):
        return BatchClass.EXACT, min_cosine
    return (BatchClass.CLOSE if min_cosine >= CLOSE_COSINE else BatchClass.VARIANT), min_cosine


def cosines(a: Floats, b: Floats) -> Floats:
    """Return the cosine of each row of ``a`` with the same row of ``b``, (n,)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, np.float32(1e-12)), dtype=np.float32)


def chars_per_token(texts: Sequence[str], tokenizer: TextTokenizer) -> float:
    """Return characters a token over all texts, special tokens not counted."""
    token_count = sum(e.token_count - tokenizer.special_count for e in tokenizer.encode(texts))
    return sum(map(len, texts)) / max(1, token_count)


def _vectors(forward: Forward, ids: Sequence[Sequence[int]], batches: Batches) -> Floats:
    rows: list[Floats] = [np.empty(0, dtype=np.float32)] * len(ids)
    for batch in batches:
        for position, row in zip(batch, forward([ids[i] for i in batch]), strict=True):
            rows[position] = row.copy()  # the next run may overwrite it
    return np.stack(rows)


def _seconds(run: Callable[[], object]) -> float:
    """CPU time, which a machine that is busy at a worker's first start does not lengthen."""
    times_s = []
    for _ in range(SPEED_PASSES):
        start_s = time.process_time()
        run()
        times_s.append(time.process_time() - start_s)
    return median(times_s)
