"""The page at ``/`` for people with a browser, and ``/v1/status``, from which it draws."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import LANES
from embedmill.status import QueueStatus, WorkerStatus
from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.apis import openai
from embedmill_worker.gateway.http import Call, Gate, json_response, product_version

#: What Ollama's tools look for at ``/``.
_RUNNING: Final = "Ollama is running"

_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Model(msgspec.Struct, kw_only=True):
    """A model that workers have announced."""

    name: str
    fingerprint: str
    #: Length of a vector.
    dimension: int
    #: Most tokens that it reads of a text.
    max_tokens: int
    precision: str
    #: Whether a worker takes work for it now.
    served: bool


class Worker(msgspec.Struct, kw_only=True):
    """A live worker, and those of its models that are in one state."""

    name: str
    #: ``ready``, ``stalled``, ``stopping`` or ``unannounced``.
    state: str
    #: Number of processes that embed.
    children: int
    models: list[str]


class Lane(msgspec.Struct, kw_only=True):
    """Work of one model and lane; texts and tokens are those not yet embedded."""

    model: str
    lane: str
    texts: int
    #: Estimated.
    tokens: int
    #: Seconds since the oldest unfinished job was submitted.
    oldest_age_s: float
    #: Since the lane came into use.
    tokens_done: int
    #: While it last had work; 0: not measured lately.
    tokens_per_s: float


class Limits(msgspec.Struct, kw_only=True):
    """What the caller may do."""

    #: Name of the key, or "anybody" where no keys are set.
    name: str
    lanes: list[str]
    #: None: any number.
    tokens_per_minute: int | None


class Status(msgspec.Struct, kw_only=True):
    """Answer of ``GET /v1/status``."""

    object: str
    version: str
    models: list[Model]
    workers: list[Worker]
    lanes: list[Lane]
    caller: Limits


def routes(gate: Gate) -> list[Route]:
    """Return the routes."""

    async def front(call: Call) -> Response:
        vary = {"vary": "accept"}
        if "text/html" not in call.headers.get("accept", ""):
            return PlainTextResponse(_RUNNING, headers=vary)
        html, policy = page()
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return HTMLResponse(html, headers=headers | vary)

    async def show_status(call: Call) -> Response:
        found = status_of(await call.service.status(), call.service.models, call.caller)
        return json_response(msgspec.to_builtins(found), headers={"cache-control": "no-store"})

    return [
        gate.route(openai.API, "/", front, method="GET", is_open=True),
        gate.route(openai.API, "/v1/status", show_status, method="GET"),
    ]


@cache
def page() -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, which allows nothing but what stands in it."""
    html = files("embedmill_worker.gateway").joinpath("page.html").read_text("utf-8")
    hashes = {kind: _hash(source) for kind, source in _INLINE.findall(html)}
    rules = (
        "default-src 'none'",
        f"script-src '{hashes['script']}'",
        f"style-src '{hashes['style']}'",
        "connect-src 'self'",
        "img-src data:",  # its icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return html, "; ".join(rules)


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def status_of(queue: QueueStatus, cards: Sequence[ModelCard], caller: Caller) -> Status:
    """Return what a caller is shown of the queue: no process ids and no names of keys in Redis."""
    return Status(
        object="status",
        version=product_version(),
        models=[
            Model(
                name=card.name,
                fingerprint=card.fingerprint,
                dimension=card.dimension,
                max_tokens=card.max_tokens,
                precision=card.precision,
                served=queue.serves(card.name),
            )
            for card in cards
        ],
        workers=_workers(queue.workers),
        lanes=[
            Lane(
                model=lane.model,
                lane=lane.lane,
                texts=lane.texts,
                tokens=lane.tokens,
                oldest_age_s=lane.oldest_age_s,
                tokens_done=lane.tokens_done,
                tokens_per_s=lane.tokens_per_s,
            )
            for lane in queue.lanes
        ],
        caller=Limits(
            name=caller.name,
            lanes=["bulk"] if caller.lane == "bulk" else list(LANES),
            tokens_per_minute=caller.tokens_per_minute or None,
        ),
    )


def _workers(entries: Sequence[WorkerStatus]) -> list[Worker]:
    """Return the workers, each with its models; the queue's status has an entry for each model."""
    found: dict[tuple[str, int, str], Worker] = {}
    for entry in entries:
        key = (entry.name, entry.pid, entry.state)
        worker = found.setdefault(key, Worker(name=entry.name, state=entry.state, children=entry.children, models=[]))
        worker.models.append(entry.model)
    return list(found.values())
