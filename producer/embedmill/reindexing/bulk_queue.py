"""What a reindexer asks of the queue, over a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from embedmill.client import EmbeddingClient
from embedmill.errors import MessageError
from embedmill.jobs import discovery, reading
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.codec import read_ms
from embedmill.protocol.records import Events, JobStatus
from embedmill.reindexing.index import Index
from embedmill.reply import EmbeddingReply
from embedmill.transport.flow import Flow, RoundTrip

#: Seconds that a reply outlives a reindexer that was killed: it goes on within a day, or embeds a window again.
TTL_S: Final = 86_400.0

#: Seconds for reading the vectors of a job that is done.
FETCH_S: Final = 120.0

#: Seconds of one wait for news.
NEWS_S: Final = 0.5

#: A drain rate that no reconciler has measured for so long is past.
RATE_TTL_MS: Final = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model, as the workers announce it."""

    model: str
    card: ModelCard
    #: A live worker serves it.
    is_live: bool
    #: What the live workers should do together, by the card; 0: there are none.
    tokens_per_s: float


class BulkQueue:
    """The queue as a reindexer sees it: one model, the bulk lane."""

    lane: Final = "bulk"

    def __init__(self, client: EmbeddingClient, model: str | None) -> None:
        self._client = client
        self._calls = client._calls
        self._model = model
        self._tokens_per_s = 0.0

    def served(self) -> Served:
        """Read which model is meant and who serves it.

        Raises:
            UnknownModelError: none is named and not exactly one is announced.
            BrokerUnavailableError: Redis did not answer in time.
        """
        landscape = self._client._run(discovery.look_around(self._calls.keys))
        outlook = self._calls.outlook
        outlook.update(landscape)
        name, card, _ = outlook.choose(self._model)
        self._model, self._tokens_per_s = name, outlook.tokens_per_s(name)
        is_live = any(name in worker.models for worker in landscape.workers)
        return Served(model=name, card=card, is_live=is_live, tokens_per_s=self._tokens_per_s)

    def backlog(self) -> Backlog:
        """Read what waits in the lane, and how fast it drains."""
        return self._client._run(self._backlog())

    def submit(self, job_id: str, texts: list[str], index: Index, *, dimensions: int | None, block_s: float) -> None:
        """Store a job; block_s: seconds to wait for room, 0: none.

        Raises:
            QueueFullError: there is no room.
        """
        self._client.submit(
            texts,
            model=index.model,
            input_type=index.input_type,
            dimensions=dimensions,
            dtype=index.dtype,
            truncate=index.truncate,
            lane=self.lane,
            job_id=job_id,
            ttl_s=TTL_S,
            block=block_s > 0,
            timeout_s=block_s or 1.0,
        )

    def news(self, job_id: str, cursor: str) -> Events:
        """Wait a moment for news of a job since ``cursor``, at first ``0-0``.

        Raises:
            ResultExpiredError: Redis does not have it.
        """
        return self._client._run(reading.read_events(self._calls.keys, job_id, cursor, NEWS_S))

    def status(self, job_id: str) -> JobStatus:
        """Read how far a job is.

        Raises:
            ResultExpiredError: Redis does not have it.
        """
        return self._client.job(job_id).status()

    def reply(self, job_id: str) -> EmbeddingReply:
        """Read the vectors of a job that is done."""
        return self._client.job(job_id).result(FETCH_S)

    def delete(self, job_id: str) -> None:
        """Forget a job."""
        self._client.job(job_id).delete()

    def _backlog(self) -> Flow[Backlog]:
        keys = self._calls.keys
        model = self._model or ""
        lane, drain = keys.lane(model, self.lane), keys.drain(model, self.lane)
        ask = [("HGET", lane, "tokens"), ("HMGET", drain, "rate", "counted_ms"), ("TIME",)]
        tokens, (rate, counted_ms), (now_s, _) = yield RoundTrip(ask)
        measured = 0.0
        if 0 <= int(now_s) * 1000 + 999 - _number(counted_ms) < RATE_TTL_MS:
            measured = _number(rate)
        return Backlog(tokens=int(_number(tokens)), tokens_per_s=max(measured, self._tokens_per_s))


def _number(value: Any) -> float:
    """Read what a script has counted; what cannot be read counts nothing."""
    try:
        return read_ms(value or b"0")
    except MessageError:
        return 0.0


#: Windows that are under work whatever else waits: one of them, and one behind it.
MIN_WINDOWS: Final = 2

#: Windows under work at most: their texts are in this process, their vectors in Redis.
MAX_WINDOWS: Final = 32

#: Seconds of work that the lane should hold, everybody's counted: so the workers of a large mill never run dry, and
#: several reindexers, who all count the same tokens, share what there is.
HORIZON_S: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the bulk lane."""

    #: Estimated tokens not yet embedded.
    tokens: int
    #: Tokens a second that the lane drains.
    tokens_per_s: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.tokens / self.tokens_per_s if self.tokens_per_s > 0 else float("inf")


def wants_more(n_open: int, backlog: Backlog) -> bool:
    """Return whether another window should be submitted behind those that are open."""
    if n_open < MIN_WINDOWS:
        return True
    return n_open < MAX_WINDOWS and backlog.seconds < HORIZON_S
