"""Routes of Hugging Face's text-embeddings-inference: ``/embed``, ``/info``, and its headers of timings."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from embedmill_worker.gateway.apis.openai import embed_options, read_texts
from embedmill_worker.gateway.apis.tokens import Detokenizer
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

#: Kind → status and type of TEI's error; all others are (422, "Validation").
_ERRORS: Final[dict[Kind, tuple[int, str]]] = {
    Kind.UNAUTHENTICATED: (401, "Unauthorized"),
    Kind.FORBIDDEN: (403, "Unauthorized"),
    Kind.NOT_FOUND: (404, "NotFound"),
    Kind.METHOD_NOT_ALLOWED: (405, "NotFound"),
    Kind.UNKNOWN_MODEL: (422, "Validation"),
    Kind.TOO_LARGE: (413, "Validation"),
    Kind.SLOW_BODY: (408, "Validation"),
    Kind.UNEMBEDDABLE: (424, "Backend"),
    Kind.OVERLOADED: (429, "Overloaded"),
    Kind.RATE_LIMITED: (429, "Overloaded"),
    Kind.UNAVAILABLE: (503, "Unhealthy"),
    Kind.FAILED: (424, "Backend"),
}

_OTHER: Final = (422, "Validation")


class Embed(msgspec.Struct, kw_only=True):
    """Body of ``POST /embed``."""

    inputs: str | list[str | int | list[int]]
    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None


def refuse(error: RefusedError) -> Response:
    """Return TEI's error object."""
    body = {"error": error.message, "error_type": _ERRORS.get(error.kind, _OTHER)[1]}
    return json_response(body, status=status_of(error.kind))


def status_of(kind: Kind) -> int:
    """Return the HTTP status of a refusal."""
    return _ERRORS.get(kind, _OTHER)[0]


API: Final = Api(name="tei", refuse=refuse)


def routes(gate: Gate, detokenizer: Detokenizer) -> list[Route]:
    """Return the routes."""

    async def embed(call: Call) -> Response:
        began_s = time.perf_counter()
        asked = call.read(Embed)
        if asked.inputs in ("", []):
            return json_response({"error": "`inputs` cannot be empty", "error_type": "Empty"}, status=400)
        _check(asked)
        card = call.service.card()
        texts = await read_texts("inputs", asked.inputs, card, detokenizer)
        options = option_headers(call.headers)
        request = EmbedRequest(
            request_id=call.request_id,
            texts=texts,
            lane=options.get("lane"),
            options=embed_options(
                input_type=asked.prompt_name or options.get("input_type"),
                dimensions=asked.dimensions,
                truncate=bool(asked.truncate),
            ),
        )
        embedded = await call.service.embed(request, call.caller)
        headers = _timings(embedded, sum(map(len, texts)), time.perf_counter() - began_s)
        return json_response(list(embedded.reply.vectors), headers=headers | truncation_headers(embedded))

    async def info(call: Call) -> Response:
        card, settings = call.service.card(), call.service.settings
        return json_response(
            {
                "model_id": card.name,
                "model_sha": card.revision.rpartition("@")[2] or None,
                "model_dtype": {"fp32": "float32", "bf16": "bfloat16"}.get(card.precision, card.precision),
                "model_type": {"embedding": {"pooling": "model"}},
                "max_concurrent_requests": settings.max_requests,
                "max_input_length": card.max_tokens,
                "max_batch_tokens": card.max_tokens,
                "max_batch_requests": None,
                "max_client_batch_size": settings.max_texts,
                "auto_truncate": False,
                "tokenization_workers": 1,
                "version": product_version(),
                "sha": None,
                "docker_label": None,
                "fingerprint": card.fingerprint,
            }
        )

    return [
        gate.route(API, "/embed", embed),
        gate.route(API, "/", embed),  # what inference clients call that know a base address alone
        gate.route(API, "/info", info, method="GET"),
    ]


def _check(asked: Embed) -> None:
    """Raise RefusedError for options that no model here can follow."""
    if asked.truncation_direction not in (None, "right", "Right"):
        raise RefusedError(Kind.INVALID, "`truncation_direction`: only right is served", param="truncation_direction")
    if asked.normalize is False:
        reason = "`normalize`: vectors come as the model's own files define them; false is not served"
        raise RefusedError(Kind.INVALID, reason, param="normalize")


def _timings(embedded: Embedded, chars: int, took_s: float) -> dict[str, str]:
    timings: dict[str, Any] = dict(embedded.reply.timings_ms)
    total = str(round(took_s * 1000))
    return {
        "x-compute-type": "cpu",
        "x-compute-time": total,
        "x-compute-characters": str(chars),
        "x-compute-tokens": str(embedded.tokens),
        "x-total-time": total,
        "x-tokenization-time": str(round(timings.get("tokenization", 0.0))),
        "x-queue-time": str(round(timings.get("queue", 0.0))),
        "x-inference-time": str(round(timings.get("inference", 0.0))),
    }
