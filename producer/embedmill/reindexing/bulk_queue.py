"""The queue operations of a reindexer, through a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from embedmill.errors import MessageError
from embedmill.jobs.discovery import WorkerDirectory, look_around
from embedmill.jobs.reading import read_events
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.codec import read_number
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.records import Events, JobStatus
from embedmill.reindexing.index import Index
from embedmill.reply import EmbeddingReply
from embedmill.transport.flow import Flow, RoundTrip, T

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.protocol.options import InputType
    from embedmill.protocol.vectors import DtypeName

#: Seconds that a job and its vectors stay in Redis: a killed run that resumes within a day finds them.
TTL_S: Final = 86_400.0

#: Seconds of one wait for room in a full queue.
ROOM_S: Final = 5.0

#: Timeout in seconds of calls to Redis that wait for no worker.
CALL_S: Final = 30.0

#: Timeout in seconds of reading the vectors of a job that is done.
FETCH_S: Final = 120.0

#: Seconds of one wait for a job's events.
NEWS_S: Final = 0.5

#: Milliseconds after which a measured drain rate is stale.
RATE_TTL_MS: Final = 30_000

#: Windows in flight even if the backlog is long: one that workers compute, and the next one.
MIN_WINDOWS: Final = 2

#: Most windows in flight: their texts are in memory here, their vectors in Redis.
MAX_WINDOWS: Final = 32

#: Seconds of work that the lane should hold, counting the jobs of all producers: many workers stay busy, and several
#: reindexers share them, because all count the same tokens.
HORIZON_S: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as announced by the workers."""

    model: str
    card: ModelCard
    #: Whether a live worker serves it.
    is_live: bool
    #: Throughput of all live workers together, as they announce it; 0 if there are none.
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The work that waits in the bulk lane."""

    #: Estimated tokens not yet embedded.
    tokens: int
    #: Tokens that the lane drains per second.
    tokens_per_s: float

    @property
    def seconds(self) -> float:
        """Seconds until the lane is drained; infinity if it does not drain."""
        return self.tokens / self.tokens_per_s if self.tokens_per_s > 0 else float("inf")

    def wants_more(self, n_open: int, n_closed: int) -> bool:
        """Return whether another window should be submitted while ``n_open`` are in flight, after ``n_closed``.

        Workers take a lane's jobs in turn, so windows that are submitted at once are done at once: a run that began
        with many would commit none for long. It begins with few, and each one that is done lets one more go.
        """
        most = min(MIN_WINDOWS + n_closed, MAX_WINDOWS)
        return n_open < MIN_WINDOWS or (n_open < most and self.seconds < HORIZON_S)


class BulkQueue:
    """The bulk lane of one model."""

    lane: Final = "bulk"

    def __init__(self, client: EmbeddingClient, model: str | None) -> None:
        self._client = client
        self._keys = Keyspace(client.settings.namespace)
        self._model = model
        self._tokens_per_s = 0.0

    def served(self) -> Served:
        """Find the model and who serves it.

        Raises:
            UnknownModelError: it is not announced, or none is named and workers announce none or several.
            BrokerUnavailableError: Redis did not answer in time.
        """
        snapshot = self._run(look_around(self._keys))
        directory = WorkerDirectory(self._client.settings.model)
        directory.update(snapshot)
        name, card, _ = directory.choose(self._model)
        self._model, self._tokens_per_s = name, directory.tokens_per_s(name)
        is_live = any(name in worker.models for worker in snapshot.workers)
        return Served(model=name, card=card, is_live=is_live, tokens_per_s=self._tokens_per_s)

    def backlog(self) -> Backlog:
        """Read how much waits in the lane, and how fast it drains."""
        return self._run(self._backlog())

    def submit(self, job_id: str, texts: list[str], index: Index, *, dimensions: int | None, waits: bool) -> None:
        """Submit a job. If the queue is full and ``waits`` is True, wait a few seconds for room.

        Raises:
            QueueFullError: the queue is full.
        """
        self._client.submit(
            texts,
            model=index.model,
            input_type=cast("InputType | None", index.input_type),
            dimensions=dimensions,
            dtype=cast("DtypeName", index.dtype),
            truncate=index.truncate,
            lane=self.lane,
            job_id=job_id,
            ttl_s=TTL_S,
            block=waits,
            timeout_s=ROOM_S,
        )

    def news(self, job_id: str, cursor: str) -> Events:
        """Wait half a second for events of a job after ``cursor``, which is ``0-0`` at first.

        Raises:
            ResultExpiredError: Redis does not have it.
        """
        return self._run(read_events(self._keys, job_id, cursor, NEWS_S))

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
        """Delete a job from Redis."""
        self._client.job(job_id).delete()

    def _run(self, flow: Flow[T]) -> T:
        return self._client.transport.run(flow, timeout_s=CALL_S)

    def _backlog(self) -> Flow[Backlog]:
        model = self._model or ""
        lane = self._keys.lane(model, self.lane)
        (tokens, rate, counted_ms), (now_s, _) = yield RoundTrip(
            [("HMGET", lane, "tokens", "rate", "counted_ms"), ("TIME",)]
        )
        measured = 0.0
        if 0 <= int(now_s) * 1000 + 999 - _number(counted_ms) < RATE_TTL_MS:
            measured = _number(rate)
        return Backlog(tokens=int(_number(tokens)), tokens_per_s=max(measured, self._tokens_per_s))


def _number(value: Any) -> float:
    """Read a number that a script has stored; 0 if it is missing or unreadable."""
    try:
        return read_number(value or b"0")
    except MessageError:
        return 0.0
