"""Ollama's routes for embeddings, and what its clients ask before them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from starlette.responses import Response
from starlette.routing import Route

from embedmill.protocol.cards import ModelCard
from embedmill.protocol.vectors import Vectors
from embedmill_worker.gateway.apis.openai import embed_options
from embedmill_worker.gateway.http import (
    Api,
    Call,
    Gate,
    json_response,
    option_headers,
    product_version,
    truncation_headers,
)
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.requests import Embedded, EmbedRequest

#: The tag of a name that has none: both name one model.
_TAG: Final = ":latest"

#: Shown as every model's date: workers do not announce one.
_STARTED: Final = datetime.now(UTC).isoformat()


class Embed(msgspec.Struct, kw_only=True):
    """Body of ``POST /api/embed``."""

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None


class Embeddings(msgspec.Struct, kw_only=True):
    """Body of ``POST /api/embeddings``, the older route."""

    model: str
    prompt: str = ""


class Show(msgspec.Struct, kw_only=True):
    """Body of ``POST /api/show``."""

    model: str = ""
    name: str = ""


def refuse(error: RefusedError) -> Response:
    """Return Ollama's error object."""
    message = "the input length exceeds the context length" if error.kind is Kind.TOO_LONG else error.message
    return json_response({"error": message}, status=error.status)


API: Final = Api(name="ollama", refuse=refuse)


def routes(gate: Gate) -> list[Route]:
    """Return the routes."""

    async def embed(call: Call) -> Response:
        began_ns = time.perf_counter_ns()
        asked = call.read(Embed)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        card = _card(call, asked.model)
        if not texts:
            return json_response({"model": asked.model, "embeddings": [], "total_duration": 0, "load_duration": 0})
        embedded = await _embed(call, card, texts, dimensions=asked.dimensions, truncate=asked.truncate is not False)
        body = {
            "model": asked.model,
            "embeddings": list(_normalized(embedded.reply.vectors)),
            "total_duration": time.perf_counter_ns() - began_ns,
            "load_duration": 0,
            "prompt_eval_count": embedded.tokens,
        }
        return json_response(body, headers=truncation_headers(embedded))

    async def embeddings(call: Call) -> Response:
        asked = call.read(Embeddings)
        card = _card(call, asked.model)
        if not asked.prompt:
            return json_response({"embedding": []})
        embedded = await _embed(call, card, [asked.prompt])
        return json_response({"embedding": embedded.reply.vectors[0]}, headers=truncation_headers(embedded))

    async def tags(call: Call) -> Response:
        return json_response({"models": [_model(card) for card in call.service.models]})

    async def ps(call: Call) -> Response:
        models = [card for card in call.service.models if call.service.is_served(card.name)]
        more = {"expires_at": _STARTED, "size_vram": 0}
        return json_response({"models": [_model(card) | more for card in models]})

    async def show(call: Call) -> Response:
        asked = call.read(Show)
        card = _card(call, asked.model or asked.name)
        info = {
            "general.architecture": "embedding",
            "embedding.embedding_length": card.dimension,
            "embedding.context_length": card.max_tokens,
        }
        details = _model(card)["details"]
        return json_response({"details": details, "model_info": info, "capabilities": ["embedding"]})

    async def version(_call: Call) -> Response:
        return json_response({"version": product_version()})

    return [
        gate.route(API, "/api/embed", embed),
        gate.route(API, "/api/embeddings", embeddings),
        gate.route(API, "/api/tags", tags, method="GET"),
        gate.route(API, "/api/ps", ps, method="GET"),
        gate.route(API, "/api/show", show),
        gate.route(API, "/api/version", version, method="GET", is_open=True),
    ]


def _card(call: Call, name: str) -> ModelCard:
    try:
        return call.service.card(name.removesuffix(_TAG))
    except RefusedError as error:
        if error.kind is Kind.UNKNOWN_MODEL:
            raise RefusedError(error.kind, f"model '{name[:100]}' not found", param="model") from None
        raise


async def _embed(call: Call, card: ModelCard, texts: list[str], **options: Any) -> Embedded:
    ours = option_headers(call.headers)
    request = EmbedRequest(
        request_id=call.request_id,
        texts=texts,
        model=card.name,
        lane=ours.get("lane"),
        options=embed_options(input_type=ours.get("input_type"), **options),
    )
    return await call.service.embed(request, call.caller)


def _normalized(vectors: Vectors) -> Vectors:
    """Return the rows at length 1, as Ollama's newer route has them; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.abs(lengths - 1) < 1e-5
    return np.where(near | (lengths == 0), vectors, vectors / np.maximum(lengths, np.float32(1e-12)))


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name + _TAG,
        "model": card.name + _TAG,
        "modified_at": _STARTED,
        "size": 0,
        "digest": card.fingerprint,
        "details": {
            "parent_model": "",
            "format": "onnx",
            "family": "embedding",
            "families": ["embedding"],
            "parameter_size": "",
            "quantization_level": card.precision,
            "embedding_length": card.dimension,
        },
    }
