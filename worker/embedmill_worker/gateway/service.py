"""What all APIs of the gateway stand on: models, texts to a reply, who may use how much."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from embedmill.async_client import AsyncEmbeddingClient
from embedmill.errors import EmbedError, QueueError, ResultTimeoutError
from embedmill.jobs.coalescing import BatchKey
from embedmill.jobs.discovery import DirectorySnapshot, look_around
from embedmill.jobs.operations import JobOperations
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace, Lane
from embedmill.reply import EmbeddingReply
from embedmill.status import QueueStatus
from embedmill.status import read as read_status
from embedmill.transport.flow import Flow, RoundTrip, T
from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.admission import Admission
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.refusals import Kind, RefusedError, refusal_of, refusal_of_texts
from embedmill_worker.gateway.requests import Embedded, EmbedRequest, estimate_tokens
from embedmill_worker.gateway.settings import HELD_BODIES, GatewaySettings

log = logging.getLogger(__name__)

#: Seconds between two looks at the workers, and that one look may take.
REFRESH_S: Final = 2.0

#: Seconds of one read or write for a request that is not the embedding itself.
BRIEF_S: Final = 2.0

#: Looks in a row that must fail before requests are refused at once: on a busy machine, one may.
FAILED_LOOKS: Final = 2

_NOBODY: Final = DirectorySnapshot(cards={}, workers=())


class EmbeddingService:
    """Embeds texts through the queue, for one process and one event loop."""

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        client = settings.client
        self.settings = settings
        self.admission = Admission(
            max_wait_s=settings.max_wait_s,
            max_requests=settings.max_requests,
            max_bytes=HELD_BODIES * settings.max_body_bytes,
        )
        self._client = AsyncEmbeddingClient(
            client.redis_url, client.model, namespace=client.namespace, tenant=client.tenant
        )
        self._keys = Keyspace(client.namespace)
        self._directory = _NOBODY
        self._metrics = metrics
        #: Whether Redis answered when it was last asked.
        self.is_reachable = False
        self._failed_looks = 0
        self._task: asyncio.Task[None] | None = None
        #: Set once the gateway ends: what would go on until a job's end stops.
        self.ending = asyncio.Event()

    async def start(self) -> None:
        """Look at the workers, now and every ``REFRESH_S``."""
        await self._refresh()
        self._task = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """Cancel the calls under way and close all connections."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()

    @property
    def client(self) -> AsyncEmbeddingClient:
        """The client of the queue, for work other than single requests."""
        return self._client

    @property
    def models(self) -> list[ModelCard]:
        """The models that workers have announced, by name."""
        return [self._directory.cards[name] for name in sorted(self._directory.cards)]

    @property
    def served(self) -> list[str]:
        """The names of the models that live workers serve, sorted."""
        return self._directory.served()

    def is_served(self, model: str) -> bool:
        """Return whether a live worker serves the model."""
        return self._directory.is_served(model)

    @property
    def is_ready(self) -> bool:
        """Whether Redis answers and a live worker serves the default model, or any if there is none."""
        wanted = self.settings.client.model
        served = {model for worker in self._directory.workers for model in worker.models}
        return self.is_reachable and bool(served) and (wanted is None or wanted in served)

    def card(self, model: str | None = None) -> ModelCard:
        """Return the card of a model; None: of the default one.

        Raises:
            RefusedError: no worker has announced it, or none was named and there are several.
        """
        cards = self._directory.cards
        name = model or self.settings.client.model
        if name in cards:
            return cards[name]
        known = self._directory.served() or sorted(cards)
        if not name and len(known) == 1:
            return cards[known[0]]
        if not self.is_reachable:
            raise RefusedError(Kind.UNAVAILABLE, "The queue does not answer; try again")
        if not cards:
            raise RefusedError(Kind.UNAVAILABLE, "No worker is running; try again once one has started")
        shown = ", ".join(known)
        if not name:
            raise RefusedError(Kind.UNKNOWN_MODEL, f"Name a model; workers serve: {shown}", param="model")
        reason = f"The model `{name[:100]}` does not exist; workers serve: {shown}"
        raise RefusedError(Kind.UNKNOWN_MODEL, reason, param="model")

    async def embed(self, request: EmbedRequest, caller: Caller) -> Embedded:
        """Embed texts; cancelling it cancels the work.

        Raises:
            RefusedError: there are no vectors, or not of all texts.
        """
        lane = caller.check_lane(request.lane)
        card = self.card(request.model)
        tokens = self.estimate(request, card)
        if not self.is_reachable:
            raise RefusedError(Kind.UNAVAILABLE, "The queue does not answer; try again")
        if not self.is_served(card.name):
            raise RefusedError(Kind.UNAVAILABLE, f"No worker serves {card.name} now; try again")
        expected = self.expected_tokens_per_s(card)
        with self.admission.admitted((card.name, lane), tokens, expected, time.monotonic):
            await self.charge(caller, tokens)  # what is refused for other reasons costs nothing
            reply = await self._embed(request, card, lane, caller.tenant)
        if reply.rejected:
            raise refusal_of_texts(reply.rejected)
        embedded = Embedded(reply=reply, card=card)
        self.count(card.name, lane, len(request.texts), embedded.tokens)
        return embedded

    def estimate(self, request: EmbedRequest, card: ModelCard) -> int:
        """Return about how many tokens a request has.

        Raises:
            RefusedError: it has more texts or tokens than fit into one.
        """
        if len(request.texts) > self.settings.max_texts:
            reason = f"{len(request.texts)} texts, but at most {self.settings.max_texts} fit into one request"
            raise RefusedError(Kind.INVALID, reason, param="input")
        tokens = estimate_tokens(request.texts, card)
        if tokens > self.settings.max_tokens:
            reason = f"About {tokens} tokens, but at most {self.settings.max_tokens} fit into one request"
            raise RefusedError(Kind.INVALID, reason, param="input")
        return tokens

    def count(self, model: str, lane: Lane, texts: int, tokens: int) -> None:
        """Count texts that were embedded."""
        self._metrics.embedded(model, lane, texts, tokens)

    async def _embed(self, request: EmbedRequest, card: ModelCard, lane: Lane, tenant: str | None) -> EmbeddingReply:
        kind = BatchKey(model=card.name, lane=lane, options=request.options, tenant=tenant)
        try:
            return await self._client.coalescer.embed(
                request.texts, kind, self.settings.timeout_s, label=request.request_id
            )
        except ResultTimeoutError:
            message = f"The vectors were not ready after {self.settings.timeout_s:g} s; try again"
            raise RefusedError(Kind.UNAVAILABLE, message, retry_after_s=self.settings.max_wait_s) from None
        except EmbedError as error:
            raise refusal_of(error) from None

    @property
    def operations(self) -> JobOperations:
        """The flows of the queue's clients, for ``run``."""
        return self._client.operations

    async def run(self, flow: Flow[T], timeout_s: float = BRIEF_S) -> T:
        """Run a flow.

        Raises:
            RefusedError: Redis does not answer, or what was asked for cannot be served.
        """
        try:
            return await self._client.transport.run(flow, timeout_s=timeout_s, outage_s=0.0)
        except EmbedError as error:
            raise refusal_of(error) from None

    def expected_tokens_per_s(self, card: ModelCard) -> float:
        """Return what the live workers of a model do in a second, as they announce it; 0: there is none."""
        return card.tokens_per_s * self._directory.children(card.name)

    async def status(self) -> QueueStatus:
        """Read the workers and what waits.

        Raises:
            RefusedError: Redis does not answer.
        """
        return await self.run(read_status(self._keys))

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Count tokens against the caller's limit of this minute, which all gateways share.

        Raises:
            RefusedError: the limit was reached before; says when the next minute begins.
        """
        if not caller.tokens_per_minute:
            return
        now_s = time.time()
        key = self._keys.rate(caller.name, int(now_s // 60))
        used = await self.run(_add(key, tokens))
        if used - tokens >= caller.tokens_per_minute:
            await self.run(_add(key, -tokens))
            limit = f"{caller.tokens_per_minute} tokens a minute"
            raise RefusedError(Kind.RATE_LIMITED, f"This API key may use {limit}", retry_after_s=60 - now_s % 60)

    async def _refresh(self) -> None:
        try:
            directory = await self._client.transport.run(look_around(self._keys), timeout_s=BRIEF_S, outage_s=0.0)
        except QueueError as error:
            self._failed_looks += 1
            if self.is_reachable and self._failed_looks >= FAILED_LOOKS:
                log.warning("the queue does not answer: %s", error, extra={"action": "gateway_queue"})
                self.is_reachable = False
            return
        self._failed_looks = 0
        if not self.is_reachable:
            log.info("the queue answers; workers serve %s", directory.served(), extra={"action": "gateway_queue"})
        self.is_reachable = True
        self._directory = directory
        self._client.operations.outlook.update(directory)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._refresh()


def _add(key: str, tokens: int) -> Flow[int]:
    used, _ = yield RoundTrip([("INCRBY", key, tokens), ("EXPIRE", key, 120)])
    return int(used)
