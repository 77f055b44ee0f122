"""The ordinary Celery task ``embedmill.embed``: a list of texts in, raw vectors out.

Any program may call it with any values, and its errors are logged and stored, so no error quotes a value. Texts that
are passed one by one by mistake arrive as model, input type and so on, or as the names of arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from embedmill.errors import InferenceError, InvalidRequestError, TooManyTextsError
from embedmill.jobs import chunking
from embedmill.jobs.request import check_texts, fault_of
from embedmill.limits import MAX_CHUNK_TEXTS
from embedmill.protocol import vectors
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype
from embedmill.safe.native import STOPS
from embedmill.safe.printable import kind
from embedmill_worker.engine.engine import Embedder
from embedmill_worker.jobs import isolation

#: Arguments of the task, by position or by name.
ARGUMENTS: Final = ("texts", "model", "input_type", "dimensions", "dtype", "truncate")

#: Hint for the likely mistake if strings are passed in place of options.
ONE_LIST: Final = "texts are one list of strings: did you pass them one by one?"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """Validated arguments of one task."""

    texts: list[str] = field(repr=False)
    #: A model that this worker serves; None: its default model.
    model: str | None
    options: EmbedOptions


def read_call(args: Sequence[Any], kwargs: Mapping[str, Any], served: Sequence[str]) -> EmbedCall:
    """Validate the arguments of a task.

    Args:
        args: arguments by position, in the order of ``ARGUMENTS``.
        kwargs: arguments by name.
        served: the models of this worker.

    Raises:
        RequestError: an argument is invalid. The message names arguments, types and lengths, and quotes no value.
    """
    values = _bind(args, kwargs)
    try:
        texts = check_texts(values["texts"])
        model = _check_model(values.get("model"), served)
        options = EmbedOptions(
            input_type=values.get("input_type"),
            dimensions=values.get("dimensions"),
            dtype=values.get("dtype", Dtype.FLOAT32),
            truncate=values.get("truncate", True),
        )
    except InvalidRequestError as error:
        if len(args) > 1 or isinstance(values["texts"], str):
            raise InvalidRequestError(error.option, f"{error.reason}; {ONE_LIST}") from None
        raise
    return EmbedCall(texts=texts, model=model, options=options)


def _bind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name."""
    if len(args) > len(ARGUMENTS):
        raise InvalidRequestError("arguments", f"{len(args)} passed by position, at most {len(ARGUMENTS)}; {ONE_LIST}")
    if unknown := sum(name not in ARGUMENTS for name in kwargs):
        known = ", ".join(ARGUMENTS)
        raise InvalidRequestError("arguments", f"{unknown} passed by a name that is not one of {known}; {ONE_LIST}")
    by_position = dict(zip(ARGUMENTS, args, strict=False))
    if twice := [name for name in by_position if name in kwargs]:
        raise InvalidRequestError(twice[0], f"passed by position and by name; {ONE_LIST}")
    values = {**by_position, **kwargs}
    if "texts" not in values:
        raise InvalidRequestError("texts", "missing; pass one list of strings")
    return values


def _check_model(model: Any, served: Sequence[str]) -> str | None:
    if model in (None, ""):
        return None
    if model not in served:
        raise InvalidRequestError("model", f"{kind(model)} is not a model that this worker serves: {', '.join(served)}")
    return str(model)


def embed(engine: Embedder, call: EmbedCall) -> dict[str, Any]:
    """Embed texts that cost at most one chunk; a text that fails is rejected alone.

    Returns:
        ``vectors`` (raw little-endian rows), ``shape``, ``dtype``, ``token_counts``, ``truncated``, ``rejected``
        (``[index, reason, detail]``), ``model``, ``fingerprint``.

    Raises:
        RequestError: texts or options are invalid, or the texts cost more than one chunk.
        InferenceError: the task failed, not because of a single text; the message holds no text.
    """
    values, options = call.texts, call.options
    engine.card.check(options)
    check_cost(engine, values)
    _check_texts(values)
    try:
        return _embedded(engine, values, options)
    except STOPS:
        raise
    except BaseException as error:  # its message may hold a text, and a MemoryError would end the worker
        raise InferenceError(engine.card.name, f"the task failed ({type(error).__name__})") from None


def _embedded(engine: Embedder, values: Sequence[str], options: EmbedOptions) -> dict[str, Any]:
    embeddings = isolation.embed(engine, values, options)
    return {
        "vectors": vectors.to_bytes(embeddings.vectors, options.dtype),
        "shape": [len(values), options.dtype.columns(embeddings.vectors.shape[1])],
        "dtype": str(options.dtype),
        "token_counts": embeddings.token_counts.tolist(),
        "truncated": embeddings.truncated.tolist(),
        "rejected": [[one.index, str(one.reason), one.detail] for one in embeddings.rejected],
        "model": engine.card.name,
        "fingerprint": engine.card.fingerprint,
    }


def check_cost(engine: Embedder, texts: Sequence[str]) -> None:
    """Raise TooManyTextsError if texts cost more than one chunk; a single text never does."""
    budget = chunking.chunk_budget(engine.card)
    costs = chunking.estimate_costs([len(text) for text in texts], engine.card)
    if len(texts) > 1 and (len(texts) > MAX_CHUNK_TEXTS or costs.sum() > budget):
        fit = min(MAX_CHUNK_TEXTS, max(1, int((costs.cumsum() <= budget).sum())))
        raise TooManyTextsError(len(texts), fit, "use EmbeddingClient.submit, which cuts a job into chunks")


def _check_texts(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if fault := fault_of(text):
            raise InvalidRequestError(f"texts[{index}]", fault[1])
