"""Embedding with isolation of failures: a text that fails is rejected, and its neighbours get their vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from embedmill.errors import InferenceError
from embedmill.protocol import vectors
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import Reason, Rejected
from embedmill.safe.native import STOPS
from embedmill_worker.engine.engine import Embedder, Embeddings

log = logging.getLogger(__name__)


def embed(engine: Embedder, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
    """Embed texts together, or one by one if that fails. Rows are cut to the requested dimensions."""
    embeddings = embed_together(engine, texts, options)
    return embed_alone(engine, texts, options) if embeddings is None else embeddings


def embed_together(engine: Embedder, texts: Sequence[str], options: EmbedOptions) -> Embeddings | None:
    """Embed texts in planned batches; return None if that raises, so that the faulty text must be found."""
    try:
        return _as_asked(engine.embed(texts, input_type=options.input_type, truncate=options.truncate), options)
    except STOPS:
        raise
    except BaseException as error:  # of any kind; its message may hold a text and is not logged
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
    before: Callable[[int], Rejected | None] = lambda _: None,
) -> Embeddings:
    """Embed texts one by one, so that a failure or crash is the fault of a single text.

    Args:
        engine: the model.
        texts: at least one text.
        options: options of the request.
        before: called with each position before its forward pass; returns a rejection to skip it, or None.
    """
    parts = []
    for position, text in enumerate(texts):
        rejected = before(position)
        made = _embed_one(engine, text, options) if rejected is None else _none(engine, options, rejected)
        parts.append(([position], made))
    return Embeddings.join(parts)


def _embed_one(engine: Embedder, text: str, options: EmbedOptions) -> Embeddings:
    try:
        return _as_asked(engine.embed([text], input_type=options.input_type, truncate=options.truncate), options)
    except STOPS:
        raise
    except BaseException as error:
        detail = f"the engine failed on it alone ({_kind(error)})"
        return _none(engine, options, Rejected(index=0, reason=Reason.FAILED, detail=detail))


def _none(engine: Embedder, options: EmbedOptions, rejected: Rejected) -> Embeddings:
    return Embeddings.rejecting(rejected, dimension=options.dimensions or engine.card.dimension)


def _kind(error: BaseException) -> str:
    """Return a description of an error that holds no text: the reason of our own error, or else only the type."""
    return error.reason if isinstance(error, InferenceError) else type(error).__name__


def _as_asked(made: Embeddings, options: EmbedOptions) -> Embeddings:
    """Cut rows to the requested dimensions, and reject those that the requested dtype cannot hold."""
    rows = vectors.cut(made.vectors, options.dimensions)
    too_large = np.flatnonzero(vectors.overflows(rows, options.dtype))
    if not len(too_large):
        return replace(made, vectors=rows)
    detail = (
        f"its vector holds numbers too large for {options.dtype}, limit {vectors.FLOAT16_OVERFLOW:.0f}; ask for float32"
    )
    more = [Rejected(index=int(i), reason=Reason.NOT_FINITE, detail=detail) for i in too_large]
    return replace(
        made,
        vectors=np.where(np.isin(np.arange(len(rows)), too_large)[:, None], np.float32(np.nan), rows),
        rejected=tuple(sorted([*made.rejected, *more], key=lambda one: one.index)),
    )
