"""The client's view of the live workers, by which it chooses a model and sizes chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from embedmill.errors import (
    InvalidRequestError,
    MessageError,
    ProtocolVersionError,
    SettingsError,
    UnknownModelError,
    some,
)
from embedmill.limits import LIVENESS_TTL_S, MAX_CARDS, MAX_WORKERS
from embedmill.model_spec import check_model_name
from embedmill.protocol.cards import UNKNOWN_CARD, ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.records import JobState, JobStatus
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo
from embedmill.transport.flow import Flow, RoundTrip, T, evalsha

log = logging.getLogger(__name__)

#: Seconds after which the cards and workers are read again.
FRESH_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySnapshot:
    """The announced models and the live workers at one moment."""

    cards: dict[str, ModelCard]
    workers: tuple[WorkerInfo, ...]
    #: Child processes by the model that they serve, counted once: each request asks, and there may be many workers.
    _children: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for worker in self.workers:
            for model in set(worker.models):
                self._children[model] = self._children.get(model, 0) + worker.children

    def served(self) -> list[str]:
        """Return the names of announced models that live workers serve, sorted."""
        return sorted(self._children.keys() & self.cards.keys())

    def is_served(self, model: str) -> bool:
        """Return whether a live worker serves a model."""
        return model in self._children

    def children(self, model: str) -> int:
        """Return the number of child processes that serve a model, at least 1."""
        return max(1, self._children.get(model, 0))


def look_around(keys: Keyspace, *, grace_s: float = 0.0) -> Flow[DirectorySnapshot]:
    """Read the model cards and the live workers; the round trip may end ``grace_s`` after the flow's deadline.

    A card or an entry that cannot be read is passed over, so that it hides no other.
    """
    limits = (round(LIVENESS_TTL_S * 1000), MAX_WORKERS)
    look = evalsha("look", (keys.models, keys.workers), keys.worker_prefix, *limits)
    ((packed_cards, _, entries),) = yield RoundTrip([look], grace_s=grace_s)
    cards = readable(ModelCard.from_json, islice(packed_cards, MAX_CARDS), "model card")
    workers = readable(WorkerInfo.from_json, filter(None, entries), "worker entry")
    return DirectorySnapshot(cards={card.name: card for card in cards}, workers=tuple(workers))


def readable(read: Callable[[Any], T], packed: Iterable[Any], what: str) -> list[T]:
    """Return those values that ``read`` accepts, and log each distinct error once."""
    values = []
    for data in packed:
        try:
            values.append(read(data))
        except MessageError as error:
            warn_once(f"a {what} is passed over: {error}")
    return values


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log a warning, unless the same one was logged before."""
    log.warning("%s", message, extra={"action": "unreadable"})


class WorkerDirectory:
    """The latest snapshot of models and workers, and what clients derive from it."""

    def __init__(self, default_model: str | None) -> None:
        self._default_model = default_model
        self._snapshot = DirectorySnapshot(cards={}, workers=())
        self._read_at_s = float("-inf")
        #: Model and lane → tokens that waited there, and when.
        self._waiting: dict[tuple[str, str], tuple[int, float]] = {}

    def is_stale(self) -> bool:
        """Return whether the snapshot should be read again."""
        return time.monotonic() - self._read_at_s > FRESH_S

    def update(self, snapshot: DirectorySnapshot) -> None:
        """Replace the snapshot."""
        self._snapshot = snapshot
        # Without cards or workers, the next call reads again.
        is_whole = snapshot.workers and snapshot.cards
        self._read_at_s = time.monotonic() if is_whole else float("-inf")

    def choose(self, model: str | None) -> tuple[str, ModelCard, int]:
        """Return a model's name, its card and the number of child processes that serve it.

        The card of a model that is not announced is ``UNKNOWN_CARD``.

        Raises:
            UnknownModelError: no model is named and workers serve several, or none is announced.
            InvalidRequestError: no model can have this name.
        """
        cards = self._snapshot.cards
        name = model or self._default_model
        if name is None:
            known = self._snapshot.served() or sorted(cards)  # a card outlives its workers
            if len(known) != 1:
                raise UnknownModelError("", tuple(known))
            name = known[0]
        try:
            check_model_name(name)
        except SettingsError as error:
            raise InvalidRequestError("model", error.reason) from None
        return name, cards.get(name, UNKNOWN_CARD), self._snapshot.children(name)

    def expect(self, model: str | None) -> tuple[ModelCard, int]:
        """Return a model's card and number of child processes, or defaults while the model is not known.

        Raises:
            InvalidRequestError: no model can have this name.
        """
        try:
            _, card, children = self.choose(model)
        except UnknownModelError:
            return UNKNOWN_CARD, 1
        return card, children

    def check_protocol(self, model: str) -> None:
        """Raise ProtocolVersionError if live workers serve the model and none speaks this client's version."""
        spoken = self._spoken(model)
        if spoken and PROTOCOL_VERSION not in spoken:
            raise ProtocolVersionError(model, PROTOCOL_VERSION, spoken)

    def tokens_per_s(self, model: str | None) -> float:
        """Return the expected throughput of a model's live workers, in tokens per second; 0 without workers."""
        name = model or self._default_model or ""
        card = self._snapshot.cards.get(name)
        return card.tokens_per_s * self._snapshot.children(name) if card and self._snapshot.is_served(name) else 0.0

    def note_waiting(self, model: str, lane: str, tokens: int) -> None:
        """Remember how many tokens wait in a lane now."""
        self._waiting[model, lane] = (tokens, time.monotonic())

    def waiting_tokens(self, model: str, lane: str) -> int:
        """Return how many tokens waited in a lane a moment ago; 0 if that is not known."""
        tokens, read_at_s = self._waiting.get((model, lane), (0, float("-inf")))
        return tokens if time.monotonic() - read_at_s <= FRESH_S else 0

    def dimension(self, model: str) -> int:
        """Return a model's dimension; 0 if the model is not announced."""
        card = self._snapshot.cards.get(model)
        return card.dimension if card else 0

    def hint(self, status: JobStatus) -> str:
        """Return a hint why a job may not be done."""
        if status.state is JobState.QUEUED and not self._snapshot.is_served(status.model):
            return f"No worker serves {status.model}; start one with EMBEDMILL_MODEL={status.model}."
        done = f"{status.chunks_done} of {status.chunks} chunks are done."
        spoken = self._spoken(status.model)
        if spoken and PROTOCOL_VERSION not in spoken:
            theirs = some(spoken)
            return f"{done} All live workers of {status.model} speak protocol {theirs}, this client {PROTOCOL_VERSION}."
        return done

    def hint_unsent(self, model: str | None, in_flight: int) -> str:
        """Return a hint why a call was not submitted while ``in_flight`` jobs of this client were."""
        name = model or self._default_model
        if name is not None and not self._snapshot.is_served(name):
            return f"No worker serves {name}; start one with EMBEDMILL_MODEL={name}."
        return f"It waited in this client behind {in_flight} jobs; make fewer calls at a time, or start more workers."

    def _spoken(self, model: str) -> tuple[int, ...]:
        """Return the protocol versions of the model's live workers."""
        return tuple(sorted({worker.protocol for worker in self._snapshot.workers if model in worker.models}))
