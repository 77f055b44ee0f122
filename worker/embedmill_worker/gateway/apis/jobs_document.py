"""What ``/v1/jobs`` reads and answers: the bodies, and its part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from embedmill_worker.gateway.apis import results
from embedmill_worker.gateway.jobs import events
from embedmill_worker.gateway.refusals import Kind

Errors = Callable[[Collection[Kind]], dict[str, Any]]

#: Jobs of one page of a list at most.
MAX_LIMIT: Final = 100


class Webhook(msgspec.Struct, kw_only=True):
    """Where the end of a job is reported, and the secret that signs the report."""

    url: str
    secret: str | None = None


class CreateJob(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/jobs``."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: int | None = None
    input_type: str | None = None
    truncate: bool | None = None
    dtype: str | None = None
    lane: str | None = None
    ttl_s: int | None = None
    webhook: Webhook | None = None
    id: str | None = None


_COUNT: Final = {"type": "integer", "minimum": 0}
_STRING: Final = {"type": "string"}
_JOB_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


JOB: Final = _object(
    id=_JOB_ID,
    object={"const": "job"},
    status={"enum": ["queued", "running", "completed", "failed", "cancelled", "expired"]},
    model=_STRING,
    lane={"enum": ["interactive", "bulk"]},
    created_at=_COUNT,
    expires_at={"type": ["integer", "null"]},
    texts=_object(total=_COUNT, done=_COUNT, failed=_COUNT),
    links=_object(self=_STRING, result=_STRING, events=_STRING),
)
JOB["properties"]["webhook"] = _object(status={"enum": ["pending", "delivered", "failed"]}, attempts=_COUNT)

_ID_OR_NONE: Final = {"type": ["string", "null"]}
_LIST: Final = _object(
    object={"const": "list"},
    data={"type": "array", "items": JOB},
    first_id=_ID_OR_NONE,
    last_id=_ID_OR_NONE,
    has_more={"type": "boolean"},
)

_ROW: Final = _object(
    object={"const": "embedding"}, index=_COUNT, embedding={"type": "array", "items": {"type": "number"}}
)
_RESULT: Final = _object(
    object={"const": "list"},
    data={"type": "array", "items": _ROW},
    rejected={"type": "array", "items": _object(index=_COUNT, reason=_STRING, detail=_STRING)},
    model=_STRING,
    usage=_object(prompt_tokens=_COUNT, total_tokens=_COUNT),
)
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}

#: One event; those without a name are comments, and the time after which a client connects again.
_EVENT: Final = {
    "type": "object",
    "properties": {"event": {"enum": ["progress", "done"]}, "id": _STRING, "data": _STRING},
}

_PATH: Final = {"name": "id", "in": "path", "required": True, "schema": _JOB_ID}
_KEY: Final = {"name": "idempotency-key", "in": "header", "schema": _JOB_ID}
_QUERY: Final = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}},
    {"name": "after", "in": "query", "schema": _JOB_ID},
]

#: Kinds of refusals of all these routes, and of those that read a body.
_OF_ALL: Final = {Kind.UNAUTHENTICATED, Kind.FORBIDDEN, Kind.UNAVAILABLE, Kind.FAILED}
_OF_POST: Final = _OF_ALL | {
    *(Kind.INVALID, Kind.UNKNOWN_MODEL, Kind.CONFLICT, Kind.TOO_LARGE, Kind.SLOW_BODY, Kind.OVERLOADED),
    Kind.RATE_LIMITED,
}


def paths(body: Any, errors: Errors) -> dict[str, Any]:
    """Return the routes by path.

    Args:
        body: schema of what ``POST /v1/jobs`` reads.
        errors: makes the responses of kinds of refusals.
    """
    answer = {"202": _reply({"application/json": {"schema": JOB}}, location=_STRING)}
    create = {
        "summary": "Submit a job",
        "parameters": [_KEY],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answer | errors(_OF_POST),
    }
    one = _OF_ALL | {Kind.NOT_FOUND}
    forms = {results.JSON: {"schema": _RESULT}, results.RAW: _BYTES, results.ARROW: _BYTES}
    stream = {events.MEDIA_TYPE: {"schema": _EVENT}}
    of_result = one | {Kind.CONFLICT, Kind.NOT_ACCEPTABLE}
    job = {"application/json": {"schema": JOB}}
    return {
        "/v1/jobs": {
            "post": create,
            "get": _read("List jobs, the newest first", _LIST_CONTENT, errors(_OF_ALL | {Kind.INVALID}), _QUERY),
        },
        "/v1/jobs/{id}": {
            "get": _read("Show a job", job, errors(one)),
            "delete": _read("Cancel a job", job, errors(one)),
        },
        "/v1/jobs/{id}/result": {"get": _read("Fetch the vectors of a job", forms, errors(of_result))},
        "/v1/jobs/{id}/events": {
            "get": _read("Follow the progress of a job", stream, errors(one | {Kind.OVERLOADED})),
        },
    }


_LIST_CONTENT: Final = {"application/json": {"schema": _LIST}}


def _read(summary: str, content: Any, refusals: Any, parameters: Any = (_PATH,)) -> dict[str, Any]:
    return {"summary": summary, "parameters": list(parameters), "responses": {"200": _reply(content)} | refusals}


def _reply(content: Any, **headers: Any) -> dict[str, Any]:
    shown = {name: {"schema": schema} for name, schema in headers.items()}
    return {"description": "The answer", "content": content} | ({"headers": shown} if shown else {})
