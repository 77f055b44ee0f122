"""Jobs over HTTP: ``/v1/jobs``, for work that nobody waits for."""

from __future__ import annotations

import asyncio
import hashlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from embedmill.errors import InvalidRequestError
from embedmill.limits import MAX_JOB_TEXTS
from embedmill_worker.gateway.apis import results
from embedmill_worker.gateway.apis.jobs_document import MAX_LIMIT, CreateJob, Webhook
from embedmill_worker.gateway.apis.openai import API, embed_options, read_texts
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.http import Call, Gate, Head, Streamed, json_response
from embedmill_worker.gateway.jobs import events
from embedmill_worker.gateway.jobs.caller_jobs import CallerJobs, JobOrder
from embedmill_worker.gateway.jobs.ids import check_id
from embedmill_worker.gateway.jobs.objects import job_object
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.requests import estimate_tokens
from embedmill_worker.webhooks.addresses import UnsafeAddressError
from embedmill_worker.webhooks.settings import WebhookSettings
from embedmill_worker.webhooks.signing import SecretError, check_secret

if TYPE_CHECKING:
    from embedmill_worker.gateway.service import EmbeddingService

#: Seconds that Redis keeps a result, unless the request says otherwise, and the most that it may say.
DEFAULT_TTL_S: Final = 86_400
MAX_TTL_S: Final = 7 * 86_400

#: Jobs of one page of a list, unless the request says otherwise.
DEFAULT_LIMIT: Final = 20

#: Clients of one gateway that follow events, and results that are in its memory, at a time.
MAX_FOLLOWERS: Final = 512
MAX_RESULTS: Final = 4

#: Bounds of the seconds after which a client is asked to look at a new job.
SOONEST_S: Final = 1
LATEST_S: Final = 60


def routes(gate: Gate, detokenizer: Detokenizer, service: EmbeddingService) -> list[Route]:
    """Return the routes."""
    jobs = JobRoutes(service, detokenizer)
    return [
        gate.route(API, "/v1/jobs", jobs.create),
        gate.route(API, "/v1/jobs", jobs.list_newest, method="GET"),
        gate.route(API, "/v1/jobs/{id}", jobs.show, method="GET"),
        gate.route(API, "/v1/jobs/{id}", jobs.cancel, method="DELETE"),
        gate.stream(API, "/v1/jobs/{id}/result", jobs.result),
        gate.stream(API, "/v1/jobs/{id}/events", jobs.follow),
    ]


class JobRoutes:
    """The work of each route."""

    def __init__(self, service: EmbeddingService, detokenizer: Detokenizer) -> None:
        self._jobs = CallerJobs(service)
        self._service = service
        self._detokenizer = detokenizer
        self._followers = asyncio.Semaphore(MAX_FOLLOWERS)
        self._in_memory = asyncio.Semaphore(MAX_RESULTS)

    async def create(self, call: Call) -> Response:
        """Submit a job."""
        order = await _read_order(call, self._detokenizer)
        seen = await self._jobs.submit(order, call.caller)
        shown = job_object(seen)
        headers = {"location": shown["links"]["self"]}
        if not seen.is_over:
            rate = self._service.expected_tokens_per_s(order.card)
            wait_s = order.tokens / rate if rate else LATEST_S
            headers["retry-after"] = str(min(max(math.ceil(wait_s), SOONEST_S), LATEST_S))
        return json_response(shown, status=202, headers=headers)

    async def show(self, call: Call) -> Response:
        """Show a job."""
        return json_response(job_object(await self._jobs.find(call.path["id"], call.caller)))

    async def list_newest(self, call: Call) -> Response:
        """List the caller's jobs."""
        query = call.query
        found, has_more = await self._jobs.list_newest(call.caller, _read_limit(query), query.get("after"))
        data = [job_object(seen) for seen in found]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return json_response({"object": "list", "data": data, **ends, "has_more": has_more})

    async def cancel(self, call: Call) -> Response:
        """Cancel a job."""
        return json_response(job_object(await self._jobs.cancel(call.path["id"], call.caller)))

    async def result(self, call: Call) -> Streamed:
        """Send a job's vectors."""
        form = results.choose(call.headers.get("accept"))
        if form == results.ARROW:
            await asyncio.to_thread(results.arrow_library)
        async with self._in_memory:
            reply = await self._jobs.result(await self._jobs.find(call.path["id"], call.caller))
            yield results.head(reply, form)
            async for part in results.parts(reply, form, _tokens(self._service, reply)):
                yield part

    async def follow(self, call: Call) -> Streamed:
        """Send events until a job is over."""
        if self._followers.locked():
            reason = f"{MAX_FOLLOWERS} clients follow events of this gateway already; ask for the status instead"
            raise RefusedError(Kind.OVERLOADED, reason)
        async with self._followers:
            job_id, caller = call.path["id"], call.caller
            seen = await self._jobs.find(job_id, caller)
            yield Head(media_type=events.MEDIA_TYPE, headers=events.HEADERS)
            look = partial(self._jobs.find, job_id, caller)
            async for part in events.follow(seen, look, job_object, self._service.ending):
                yield part


async def _read_order(call: Call, detokenizer: Detokenizer) -> JobOrder:
    asked = call.read(CreateJob)
    key = call.headers.get("idempotency-key")
    if key is not None and asked.id is not None and key != asked.id:
        raise RefusedError(Kind.INVALID, "'id' and the header idempotency-key name two jobs; give one of them")
    job_id = asked.id if key is None else key
    if job_id is not None:
        check_id(job_id, "id" if key is None else "idempotency-key")
    lane = call.caller.check_lane(asked.lane or call.headers.get("x-embedmill-lane") or "bulk")
    input_type = asked.input_type or call.headers.get("x-embedmill-input-type")
    card = call.service.card(asked.model)
    options = embed_options(
        input_type=input_type,
        dimensions=asked.dimensions,
        dtype=asked.dtype or "float32",
        truncate=asked.truncate is not False,
    )
    try:
        card.check(options)
    except InvalidRequestError as error:
        raise RefusedError(Kind.INVALID, str(error), param=error.option) from None
    ttl_s = DEFAULT_TTL_S if asked.ttl_s is None else asked.ttl_s
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise RefusedError(Kind.INVALID, f"'ttl_s' must be from 1 to {MAX_TTL_S}", param="ttl_s")
    url, secret = _read_webhook(asked.webhook, call.service.settings.webhooks)
    texts = await read_texts("input", asked.input, card, detokenizer)
    if len(texts) > MAX_JOB_TEXTS:
        reason = f"{len(texts)} texts, but at most {MAX_JOB_TEXTS} fit into one job"
        raise RefusedError(Kind.INVALID, reason, param="input")
    asked.id = None
    content = msgspec.json.encode((asked, lane, input_type, card.name))
    return JobOrder(
        job_id=job_id,
        request=hashlib.sha256(content).hexdigest(),
        texts=texts,
        card=card,
        options=options,
        lane=lane,
        ttl_s=float(ttl_s),
        url=url,
        secret=secret,
        tokens=estimate_tokens(texts, card),
    )


def _read_webhook(asked: Webhook | None, settings: WebhookSettings) -> tuple[str, str]:
    """Return the URL and the secret of a request; "" for the URL if there is no webhook."""
    if asked is None:
        return "", ""
    try:
        settings.rules.check_url(asked.url)
    except UnsafeAddressError as error:
        raise RefusedError(Kind.INVALID, f"'webhook.url': {error}", param="webhook.url") from None
    if not asked.secret and not settings.secret:
        reason = "'webhook.secret' is missing, and the gateway has none (EMBEDMILL_WEBHOOK_SECRET)"
        raise RefusedError(Kind.INVALID, reason, param="webhook.secret")
    try:
        return asked.url, check_secret(asked.secret) if asked.secret else ""
    except SecretError as error:
        raise RefusedError(Kind.INVALID, f"'webhook.secret': {error}", param="webhook.secret") from None


def _read_limit(query: dict[str, str]) -> int:
    value = query.get("limit") or str(DEFAULT_LIMIT)
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and 1 <= int(value) <= MAX_LIMIT):
        raise RefusedError(Kind.INVALID, f"'limit' must be from 1 to {MAX_LIMIT}", param="limit")
    return int(value)


def _tokens(service: EmbeddingService, reply: Any) -> int:
    try:
        longest = service.card(reply.model).max_tokens
    except RefusedError:  # the model is not announced any more
        longest = int(reply.token_counts.max(initial=0))
    return results.usage(reply, longest)
