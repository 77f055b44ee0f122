"""Probe of a model, run once per machine: its batch class, its speed on a core, and the cost of a precision."""

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

#: Function that runs one batch of token ids.
Forward = Callable[[Sequence[Sequence[int]]], Floats]

#: Minimum cosine between a vector computed alone and in a batch for the close class (bf16: 0.99999, dynamic int8:
#: 0.97).
CLOSE_COSINE: Final = 0.9999

#: Passes whose median gives the speed.
SPEED_PASSES: Final = 3

#: Passages of Python's language reference to embed in addition to the probe's sentences: about 7,000 tokens, which
#: take MiniLM two seconds in fp32.
PASSAGES: Final = 64

#: Interleaved passes whose medians give the speed; each runs one text in ``TIMED_ONE_IN``.
PRICE_PASSES: Final = 3
TIMED_ONE_IN: Final = 4

#: Ordinary text of several languages, so that characters per token are close to those of users' texts.
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

#: Words of each probe text: from an empty text to more than 512 tokens.
LENGTHS: Final = (0, 1, 2, 3, 5, 8, 11, 12, 13, 17, 20, 26, 31, 40, 55, 70, 90, 120, 160, 230, 400)


def probe_texts() -> list[str]:
    """Return texts of ``LENGTHS`` words, each from a different start."""
    words = " ".join(SENTENCES).split()
    return [" ".join(words[(i + j) % len(words)] for j in range(length)) for i, length in enumerate(LENGTHS)]


def classify(tokenizer: TextTokenizer, forward: Forward, *, max_batch_tokens: int) -> tuple[BatchClass, float]:
    """Embed the probe texts alone, in planned batches and in pairs of short and long; see ``classify_vectors``.

    Raises:
        InferenceError: the graph failed, or returned numbers that are not finite.
        MemoryError: there is not enough memory.
    """
    ids = _probe_ids(tokenizer)
    planned = plan([len(row) for row in ids], max_batch_tokens=max_batch_tokens)
    pairs = [[i, len(ids) - 1 - i] for i in range(len(ids) // 2)] + [[len(ids) // 2]] * (len(ids) % 2)
    alone = _vectors(forward, ids, [[i] for i in range(len(ids))])
    if not finite_rows(alone).all():
        raise InferenceError(tokenizer.model, "its graph returns numbers that are not finite; use another file")
    return classify_vectors(alone, [_vectors(forward, ids, batches) for batches in (planned, pairs)])


def tokens_per_s(tokenizer: TextTokenizer, forward: Forward, *, max_batch_tokens: int) -> float:
    """Return the speed on one core, measured with the probe texts in batches of this budget."""
    ids = _probe_ids(tokenizer)
    planned = plan([len(row) for row in ids], max_batch_tokens=max_batch_tokens)
    return sum(map(len, ids)) / _seconds(lambda: _vectors(forward, ids, planned))


def _probe_ids(tokenizer: TextTokenizer) -> list[Sequence[int]]:
    # Without special tokens the empty text has no tokens to run.
    return [e.ids for e in tokenizer.encode(probe_texts()) if e.ids]


def measure_encoder(tokenizer: TextTokenizer, encoder: Encoder) -> ProbeResult:
    """Classify and time an encoder that takes all texts at once.

    Raises:
        InferenceError: it failed, or returned numbers that are not finite.
    """
    ids = _probe_ids(tokenizer)
    alone = np.concatenate([encoder([row]) for row in ids])
    if not finite_rows(alone).all():
        raise InferenceError(tokenizer.model, "its table holds numbers that are not finite; use another file")
    batch_class, min_cosine = classify_vectors(alone, [encoder(ids)])
    return ProbeResult(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=sum(map(len, ids)) / _seconds(lambda: encoder(ids)),
        chars_per_token=chars_per_token(probe_texts(), tokenizer),
    )


def price_texts() -> list[str]:
    """Return real texts: sentences in several languages and passages of a reference manual."""
    from pydoc_data import topics  # noqa: PLC0415 (half a megabyte, needed only for a precision that was not measured yet)

    found = [passage.text for passage in passages(topics.topics)]
    return [*SENTENCES, *found[:: max(1, len(found) // PASSAGES)][:PASSAGES]]


def measure_price(
    model: str,
    ids: Sequence[Any],
    reference: Callable[[Sequence[Any]], Floats],
    other: Callable[[Sequence[Any]], Floats],
) -> PrecisionReport:
    """Compare two encoders on the same tokenized texts, and time them by turns on some of these.

    Raises:
        InferenceError: an encoder failed, or returned numbers that are not finite.
        MemoryError: there is not enough memory.
    """
    vectors = [reference(ids), other(ids)]
    if not all(finite_rows(rows).all() for rows in vectors):
        raise InferenceError(model, "it returns numbers that are not finite for ordinary text; use another precision")
    cosine = cosines(*vectors)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PRICE_PASSES):
        for encoder, times_s in zip((reference, other), seconds, strict=True):
            start_s = time.process_time()
            encoder(ids[::TIMED_ONE_IN])
            times_s.append(time.process_time() - start_s)
    return PrecisionReport(
        texts=len(ids),
        speed=median(seconds[0]) / median(seconds[1]),
        mean_cosine=float(cosine.mean()),
        min_cosine=float(cosine.min()),
    )


def classify_vectors(alone: Floats, batched: Sequence[Floats]) -> tuple[BatchClass, float]:
    """Classify a model by its vectors (n, dimension) of the same texts alone and in several kinds of batches.

    Returns:
        The batch class and the lowest cosine.
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
    """Return the characters per token over all texts, without special tokens."""
    token_count = sum(e.token_count - tokenizer.special_count for e in tokenizer.encode(texts))
    return sum(map(len, texts)) / max(1, token_count)


def _vectors(forward: Forward, ids: Sequence[Sequence[int]], batches: Batches) -> Floats:
    rows: list[Floats] = [np.empty(0, dtype=np.float32)] * len(ids)
    for batch in batches:
        for position, row in zip(batch, forward([ids[i] for i in batch]), strict=True):
            rows[position] = row.copy()  # the next run may overwrite it
    return np.stack(rows)


def _seconds(run: Callable[[], object]) -> float:
    """Return the median CPU time of a run, which does not depend on how busy the machine is."""
    times_s = []
    for _ in range(SPEED_PASSES):
        start_s = time.process_time()
        run()
        times_s.append(time.process_time() - start_s)
    return median(times_s)
