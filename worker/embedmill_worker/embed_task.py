"""The ordinary Celery task ``embedmill.embed``: a list of texts in, raw vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedmill import chunking, vectors
from embedmill.errors import InvalidRequestError, TooManyTextsError
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_TEXT_CHARS
from embedmill.protocol import EmbedOptions
from embedmill.request import check_texts
from embedmill.vectors import Dtype
from embedmill_worker.engine import Embedder
from embedmill_worker.work import check_servable


def embed(
    engine: Embedder,
    texts: Sequence[str],
    *,
    input_type: str | None,
    dimensions: int | None,
    dtype: str,
    truncate: bool,
) -> dict[str, Any]:
    """Embed at most one chunk's cost of texts.

    Returns:
        ``vectors`` (raw little-endian rows), ``shape``, ``dtype``, ``token_counts``, ``truncated``, ``rejected``
        (``[index, reason, detail]``), ``model``, ``fingerprint``.

    Raises:
        RequestError: texts or options that cannot be served, or more than a chunk of them.
    """
    values = check_texts(texts)
    options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=Dtype.parse(dtype), truncate=truncate)
    check_servable(options, engine)
    check_cost(engine, values)
    _check_texts(values)
    embeddings = engine.embed(values, input_type=options.input_type, truncate=options.truncate)
    rows = vectors.cut(embeddings.vectors, options.dimensions)
    return {
        "vectors": vectors.to_bytes(rows, options.dtype),
        "shape": [len(values), options.dtype.columns(rows.shape[1])],
        "dtype": str(options.dtype),
        "token_counts": embeddings.token_counts.tolist(),
        "truncated": embeddings.truncated.tolist(),
        "rejected": [list(row) for row in embeddings.rejected],
        "model": engine.card.name,
        "fingerprint": engine.card.fingerprint,
    }


def check_cost(engine: Embedder, texts: Sequence[str]) -> None:
    """Raise TooManyTextsError for more than one chunk; one text alone is always a chunk."""
    budget = chunking.chunk_budget(engine.card)
    costs = chunking.estimate_costs([len(text) for text in texts], engine.card)
    if len(texts) > 1 and (len(texts) > MAX_CHUNK_TEXTS or costs.sum() > budget):
        fit = min(MAX_CHUNK_TEXTS, max(1, int((costs.cumsum() <= budget).sum())))
        raise TooManyTextsError(len(texts), fit, "use EmbeddingClient.submit, which cuts a job into chunks")


def _check_texts(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if len(text) > MAX_TEXT_CHARS:
            reason = f"{len(text)} characters, limit {MAX_TEXT_CHARS}; split it"
            raise InvalidRequestError(f"texts[{index}]", reason)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"texts[{index}]", f"lone surrogate at character {error.start}") from None
