"""The OpenAPI document of the HTTP routes, made of the bodies that they read."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, Final

import msgspec

from embedmill_worker.batches.objects import ENDPOINT
from embedmill_worker.batches.objects import Status as BatchStatus
from embedmill_worker.gateway.apis import batches, jobs_document, ollama, openai, page, tei
from embedmill_worker.gateway.http import product_version
from embedmill_worker.gateway.refusals import STATUS, Kind

_NUMBERS: Final = {"type": "array", "items": {"type": "number"}}
_OBJECT: Final = {"type": "object"}

#: Kinds of refusals that a route with a body may answer, and one without.
_OF_POST: Final = frozenset(Kind) - {
    *(Kind.NOT_FOUND, Kind.METHOD_NOT_ALLOWED, Kind.CONFLICT, Kind.NOT_ACCEPTABLE),
    *(Kind.QUOTA, Kind.STORAGE_FULL),
}
_OF_GET: Final = frozenset({Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.UNKNOWN_MODEL, Kind.UNAVAILABLE, Kind.FAILED})

#: Kinds that the routes of files and batches may answer.
_OF_FILES: Final = frozenset(
    {
        *(Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.UNAVAILABLE, Kind.FAILED, Kind.INVALID),
        *(
            Kind.NOT_FOUND,
            Kind.CONFLICT,
            Kind.TOO_LARGE,
            Kind.SLOW_BODY,
            Kind.OVERLOADED,
            Kind.QUOTA,
            Kind.STORAGE_FULL,
        ),
    }
)

_OPENAI_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_TEI_ERROR: Final = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
}
_OLLAMA_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}

_OPENAI_REPLY: Final = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [_NUMBERS, {"type": "string", "contentEncoding": "base64"}]},
                },
            },
        },
        "model": {"type": "string"},
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
        },
    },
}


@cache
def document() -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    bodies = (
        *(openai.CreateEmbeddings, batches.CreateBatch, tei.Embed, ollama.Embed, ollama.Embeddings, ollama.Show),
        *(page.Status, jobs_document.CreateJob),
    )
    (*schemas,), components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    create, create_batch, embed, ollama_embed, ollama_embeddings, show, status, create_job = schemas
    of_openai = {"error": _OPENAI_ERROR, "statuses": STATUS}
    of_tei = {"error": _TEI_ERROR, "statuses": {kind: tei.status_of(kind) for kind in Kind} | {None: 400}}
    of_ollama = {"error": _OLLAMA_ERROR, "statuses": STATUS}
    vectors = {"type": "array", "items": _NUMBERS}
    paths = {
        "/v1/embeddings": {"post": _post("Embed, as OpenAI does", create, _OPENAI_REPLY, **of_openai)},
        "/v1/models": {"get": _get("List models", _OBJECT, **of_openai)},
        "/v1/models/{model}": {"get": _get("Show a model", _OBJECT, parameters=[_MODEL], **of_openai)},
        "/v1/status": {"get": _get("Show lanes, workers and models, and what the caller may do", status, **of_openai)},
        **_files(create_batch),
        "/embed": {"post": _post("Embed, as text-embeddings-inference does", embed, vectors, **of_tei)},
        "/": {
            "post": _post("The same as /embed", embed, vectors, **of_tei),
            "get": _get("Show the page; to who asks for no HTML, that the gateway runs", _PAGE, **of_openai),
        },
        "/info": {"get": _get("Describe the default model", _OBJECT, **of_tei)},
        "/api/embed": {"post": _post("Embed, as Ollama does", ollama_embed, _OBJECT, **of_ollama)},
        "/api/embeddings": {"post": _post("Embed one text, as older Ollama", ollama_embeddings, _OBJECT, **of_ollama)},
        "/api/tags": {"get": _get("List models", _OBJECT, **of_ollama)},
        "/api/ps": {"get": _get("List the models that workers serve now", _OBJECT, **of_ollama)},
        "/api/show": {"post": _post("Show a model", show, _OBJECT, **of_ollama)},
        "/api/version": {"get": _get("Show the version", _OBJECT, **of_ollama)},
        **jobs_document.paths(create_job, _openai_errors),
        "/health": {"get": _get("Tell whether requests are served now", _OBJECT, unhealthy=_OBJECT, **of_openai)},
        "/ping": {"get": _get("Tell that the gateway runs", None, **of_openai)},
        "/metrics": {"get": _get("Metrics for Prometheus", None, **of_openai)},
        "/openapi.json": {"get": _get("This document", _OBJECT, **of_openai)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedmill", "version": product_version()},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


_FILE: Final = {
    "type": "object",
    "required": ["id", "object", "bytes", "created_at", "filename", "purpose", "status"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "file"},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer"},
        "expires_at": {"type": ["integer", "null"]},
        "filename": {"type": "string"},
        "purpose": {"enum": ["batch", "batch_output"]},
        "status": {"const": "processed"},
    },
}
_BATCH: Final = {
    "type": "object",
    "required": ["id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "batch"},
        "endpoint": {"const": ENDPOINT},
        "status": {"enum": [str(status) for status in BatchStatus]},
        "input_file_id": {"type": "string"},
        "output_file_id": {"type": ["string", "null"]},
        "error_file_id": {"type": ["string", "null"]},
        "errors": {"type": ["object", "null"]},
        "request_counts": {"type": "object"},
        "usage": {"type": "object"},
        "metadata": {"type": ["object", "null"]},
    },
}
_DELETED: Final = {
    "type": "object",
    "required": ["id", "object", "deleted"],
    "properties": {"id": {"type": "string"}, "object": {"const": "file"}, "deleted": {"const": True}},
}
_FORM: Final = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"const": "batch"},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": 3_600, "maximum": 2_592_000},
    },
}


def _files(create_batch: Any) -> dict[str, Any]:
    """Return the paths of files and batches."""
    after = {"name": "after", "in": "query", "schema": {"type": "string"}}
    order = {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}}
    purpose = {"name": "purpose", "in": "query", "schema": {"type": "string"}}
    file, batch = ({"name": f"{name}_id", "in": "path"} | _NAMED for name in ("file", "batch"))
    return {
        "/v1/files": {
            "post": _stored("Upload a file", _FILE, body={"multipart/form-data": {"schema": _FORM}}),
            "get": _stored("List files", _page(_FILE), parameters=(after, _limit(10_000), order, purpose)),
        },
        "/v1/files/{file_id}": {
            "get": _stored("Show a file", _FILE, parameters=(file,)),
            "delete": _stored("Delete a file", _DELETED, parameters=(file,)),
        },
        "/v1/files/{file_id}/content": {"get": _stored("Download a file", None, parameters=(file,))},
        "/v1/batches": {
            "post": _stored("Create a batch", _BATCH, body={"application/json": {"schema": create_batch}}),
            "get": _stored("List batches", _page(_BATCH), parameters=(after, _limit(100))),
        },
        "/v1/batches/{batch_id}": {"get": _stored("Show a batch", _BATCH, parameters=(batch,))},
        "/v1/batches/{batch_id}/cancel": {"post": _stored("Cancel a batch", _BATCH, parameters=(batch,))},
    }


def _stored(summary: str, reply: Any, *, parameters: Any = (), body: Any = None) -> dict[str, Any]:
    found = {"description": "The file", "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    responses = {"200": _reply(reply) if reply is not None else found}
    responses |= _errors(_OPENAI_ERROR, {STATUS[kind] for kind in _OF_FILES})
    operation = {"summary": summary, "parameters": list(parameters), "responses": responses}
    return operation if body is None else operation | {"requestBody": {"required": True, "content": body}}


def _page(of: Any) -> dict[str, Any]:
    ids = {"type": ["string", "null"]}
    return {
        "type": "object",
        "required": ["object", "data", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": of},
            "first_id": ids,
            "last_id": ids,
            "has_more": {"type": "boolean"},
        },
    }


def _limit(most: int) -> dict[str, Any]:
    return {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}}


_NAMED: Final = {"required": True, "schema": {"type": "string", "minLength": 1}}

_MODEL: Final = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _post(summary: str, body: Any, reply: Any, *, error: Any, statuses: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    return {
        "summary": summary,
        "parameters": _HEADERS,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": _reply(reply)}
        | _errors(error, {statuses[kind] for kind in _OF_POST} | {statuses.get(None, 400)}),
    }


def _get(
    summary: str, reply: Any, *, error: Any, statuses: Any, parameters: Any = (), unhealthy: Any = None
) -> dict[str, Any]:
    responses = {"200": _reply(reply)} | _errors(error, {statuses[kind] for kind in _OF_GET})
    if unhealthy is not None:
        responses["503"] = _reply(unhealthy)
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


_HEADERS: Final = [
    {"name": "x-embedmill-lane", "in": "header", "schema": {"enum": ["interactive", "bulk"]}},
    {"name": "x-embedmill-input-type", "in": "header", "schema": {"enum": ["query", "passage"]}},
    {"name": "x-request-id", "in": "header", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}},
]


#: Stands for what has no schema: a page for people.
_PAGE: Final = "page"


def _reply(schema: Any) -> dict[str, Any]:
    if schema == _PAGE:
        text = {"schema": {"type": "string"}}
        return {"description": "The page, or a line of text", "content": {"text/html": text, "text/plain": text}}
    if schema is None:
        return {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"description": "The answer", "content": {"application/json": {"schema": schema}}}


def _openai_errors(kinds: Collection[Kind]) -> dict[str, Any]:
    return _errors(_OPENAI_ERROR, {STATUS[kind] for kind in kinds})


def _errors(schema: Any, statuses: set[int]) -> dict[str, Any]:
    error = {"description": "Why there is no answer", "content": {"application/json": {"schema": schema}}}
    return {str(status): error for status in sorted(statuses)}
