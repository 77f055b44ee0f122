"""Texts through an engine so that whatever goes wrong is one text's fault, and its neighbours have their vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from embedmill.errors import InferenceError
from embedmill.protocol import vectors
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import Reason
from embedmill.safe.native import STOPS
from embedmill_worker.engine.engine import Embedder, Embeddings

log = logging.getLogger(__name__)

#: Reason and detail of a text without a vector.
Rejection = tuple[Reason, str]


def embed(engine: Embedder, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
    """Embed texts; what fails together is embedded one by one. Rows are cut to the asked dimensions."""
    embeddings = embed_together(engine, texts, options)
    return embed_alone(engine, texts, options) if embeddings is None else embeddings


def embed_together(engine: Embedder, texts: Sequence[str], options: EmbedOptions) -> Embeddings | None:
    """Embed texts in planned batches; None if something was thrown, and the culprit must be found."""
    try:
        return _as_asked(engine.embed(texts, input_type=options.input_type, truncate=options.truncate), options)
    except STOPS:
        raise
    except BaseException as error:  # whatever it is: its message may hold a text and is not passed on
        log.warning(
            "%d texts failed together (%s); they are embedded one by one",
            len(texts),
            _kind(error),
            extra={"action": "one_by_one"},
        )
        return None


def embed_alone(
    engine: Embedder,
    texts: Sequence[str],
    options: EmbedOptions,
    before: Callable[[int], Rejection | None] = lambda _: None,
) -> Embeddings:
    """Embed text by text, so that whatever fails or crashes is one text's fault.

    Args:
        engine: the model.
        texts: some, at least one.
        options: how.
        before: called with each position before its forward pass; says why there shall be none, or None.
    """
    parts = []
    for position, text in enumerate(texts):
        rejection = before(position)
        parts.append(_embed_one(engine, text, options) if rejection is None else _none(engine, options, *rejection))
    return Embeddings(
        vectors=np.concatenate([p.vectors for p in parts]),
        token_counts=np.concatenate([p.token_counts for p in parts]),
        truncated=np.concatenate([p.truncated for p in parts]),
        rejected=tuple((i, reason, detail) for i, p in enumerate(parts) for _, reason, detail in p.rejected),
        tokenize_ms=sum(p.tokenize_ms for p in parts),
        inference_ms=sum(p.inference_ms for p in parts),
    )


def _embed_one(engine: Embedder, text: str, options: EmbedOptions) -> Embeddings:
    try:
        return _as_asked(engine.embed([text], input_type=options.input_type, truncate=options.truncate), options)
    except STOPS:
        raise
    except BaseException as error:
        return _none(engine, options, Reason.FAILED, f"the engine failed on it alone ({_kind(error)})")


def _kind(error: BaseException) -> str:
    """Return what may be said of an error: our own words, which hold no text, or no more than its type."""
    return error.reason if isinstance(error, InferenceError) else type(error).__name__


def _none(engine: Embedder, options: EmbedOptions, reason: Reason, detail: str) -> Embeddings:
    return Embeddings(
        vectors=np.full((1, options.dimensions or engine.card.dimension), np.nan, dtype=np.float32),
        token_counts=np.zeros(1, dtype=np.uint32),
        truncated=np.zeros(1, dtype=np.bool_),
        rejected=((0, str(reason), detail),),
        tokenize_ms=0.0,
        inference_ms=0.0,
    )


def _as_asked(made: Embeddings, options: EmbedOptions) -> Embeddings:
    """Cut rows to the asked dimensions, and reject those that the asked dtype cannot hold."""
    rows = vectors.cut(made.vectors, options.dimensions)
    too_large = np.flatnonzero(vectors.overflows(rows, options.dtype))
    if not len(too_large):
        return replace(made, vectors=rows)
    detail = (
        f"its vector holds numbers too large for {options.dtype}, limit {vectors.FLOAT16_OVERFLOW:.0f}; ask for float32"
    )
    more = [(int(i), str(Reason.NOT_FINITE), detail) for i in too_large]
    return replace(
        made,
        vectors=np.where(np.isin(np.arange(len(rows)), too_large)[:, None], np.float32(np.nan), rows),
        rejected=tuple(sorted([*made.rejected, *more])),
    )
