"""OpenAI's ``/v1/embeddings`` and ``/v1/models``, as its official clients speak to them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from embedmill.errors import InvalidRequestError
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Vectors
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.http import Api, Call, Gate, json_response, option_headers, truncation_headers
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.requests import EmbedRequest

ENCODINGS: Final = ("float", "base64")

#: Kind → type and code of OpenAI's error; all others are an ``invalid_request_error`` without a code.
_ERRORS: Final[dict[Kind, tuple[str, str | None]]] = {
    Kind.TOO_LONG: ("invalid_request_error", "context_length_exceeded"),
    Kind.UNAUTHENTICATED: ("invalid_request_error", "invalid_api_key"),
    Kind.UNKNOWN_MODEL: ("invalid_request_error", "model_not_found"),
    Kind.UNEMBEDDABLE: ("invalid_request_error", "text_rejected"),
    Kind.OVERLOADED: ("requests", "rate_limit_exceeded"),
    Kind.RATE_LIMITED: ("tokens", "rate_limit_exceeded"),
    Kind.QUOTA: ("insufficient_quota", "insufficient_quota"),
    Kind.STORAGE_FULL: ("server_error", "storage_full"),
    Kind.UNAVAILABLE: ("server_error", "service_unavailable"),
    Kind.FAILED: ("server_error", None),
}

_PRINTABLE: Final = re.compile(r"[^ -~]")


class CreateEmbeddings(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/embeddings``. What OpenAI has not: ``input_type``, ``lane``, ``truncate``."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None
    input_type: str | None = None
    lane: str | None = None
    truncate: bool | None = None


def refuse(error: RefusedError) -> Response:
    """Return OpenAI's error object."""
    return json_response(error_body(error), status=error.status)


def error_body(error: RefusedError) -> dict[str, Any]:
    """Return the body of an error."""
    kind, code = _ERRORS.get(error.kind, ("invalid_request_error", None))
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


API: Final = Api(name="openai", refuse=refuse)


def routes(gate: Gate, detokenizer: Detokenizer) -> list[Route]:
    """Return the routes."""

    async def create(call: Call) -> Response:
        asked = call.read(CreateEmbeddings)
        encoding = check_encoding(asked)
        options = option_headers(call.headers)
        request = EmbedRequest(
            request_id=call.request_id,
            texts=await read_texts("input", asked.input, call.service.card(asked.model), detokenizer),
            model=asked.model,
            lane=asked.lane or options.get("lane"),
            options=embed_options(
                input_type=asked.input_type or options.get("input_type"),
                dimensions=asked.dimensions,
                truncate=asked.truncate is not False,
            ),
        )
        embedded = await call.service.embed(request, call.caller)
        body = reply_body(embedded.reply.vectors, encoding, model=embedded.card.name, tokens=embedded.tokens)
        return json_response(body, headers=truncation_headers(embedded))

    async def list_models(call: Call) -> Response:
        data = [_model(card.name) for card in call.service.models]
        return json_response({"object": "list", "data": data})

    async def get_model(call: Call) -> Response:
        return json_response(_model(call.service.card(call.path["model"]).name))

    return [
        gate.route(API, "/v1/embeddings", create),
        gate.route(API, "/v1/models", list_models, method="GET"),
        gate.route(API, "/v1/models/{model:path}", get_model, method="GET"),
    ]


def check_encoding(asked: CreateEmbeddings) -> str:
    """Return how the vectors are to be written.

    Raises:
        RefusedError: there is no such encoding.
    """
    encoding = asked.encoding_format or "float"
    if encoding not in ENCODINGS:
        shown = _PRINTABLE.sub("?", encoding[:32])
        reason = f"Invalid value for 'encoding_format' = {shown}. Supported values: {list(ENCODINGS)}."
        raise RefusedError(Kind.INVALID, reason, param="encoding_format")
    return encoding


def reply_body(vectors: Vectors, encoding: str, *, model: str, tokens: int) -> dict[str, Any]:
    """Return the body of a response with vectors; ``tokens``: that the model has read."""
    return {
        "object": "list",
        "data": rows(vectors, encoding),
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


@lru_cache(maxsize=64)
def embed_options(**options: Any) -> EmbedOptions:
    """Return options of a request.

    Raises:
        RefusedError: one of them cannot be served.
    """
    try:
        return EmbedOptions(**options)
    except InvalidRequestError as error:
        raise RefusedError(Kind.INVALID, str(error), param=error.option) from None


def rows(vectors: Vectors, encoding: str) -> list[dict[str, Any]]:
    """Return the ``data`` of a response: lists of numbers, or base64 of little-endian float32."""
    if encoding == "base64":
        cells: Sequence[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors]
    else:
        cells = list(vectors)
    return [{"object": "embedding", "index": index, "embedding": cell} for index, cell in enumerate(cells)]


async def read_texts(
    param: str, value: str | list[str | int | list[int]], card: ModelCard, detokenizer: Detokenizer
) -> list[str]:
    """Return the texts of a field: a string, strings, a text's tokens, or several texts' tokens.

    Raises:
        RefusedError: it is empty or mixed, or its tokens are not of one text.
    """
    found = texts_or_tokens(param, value)
    return found.texts if found.texts else await detokenizer.texts(card, found.arrays, param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a field holds: texts, or the tokens of texts."""

    texts: list[str] = field(default_factory=list, repr=False)
    arrays: list[list[int]] = field(default_factory=list, repr=False)


def texts_or_tokens(param: str, value: str | list[str | int | list[int]]) -> Inputs:
    """Return the texts or tokens of a field.

    Raises:
        RefusedError: it is empty or mixed.
    """
    values = [value] if isinstance(value, str) else value
    if not values:
        raise RefusedError(Kind.INVALID, f"'{param}' must not be empty", param=param)
    kinds = {type(each) for each in values}
    if len(kinds) != 1:
        raise RefusedError(Kind.INVALID, f"'{param}' must hold strings only, or tokens only", param=param)
    if kinds == {str}:
        if "" in values:
            reason = f"'{param}[{values.index('')}]' must not be an empty string"
            raise RefusedError(Kind.INVALID, reason, param=param)
        return Inputs(texts=cast("list[str]", values))
    return Inputs(arrays=cast("list[list[int]]", [values] if kinds == {int} else values))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "embedmill"}
