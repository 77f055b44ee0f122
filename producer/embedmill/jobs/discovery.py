"""What a client knows of the workers: refreshed now and then, used to choose a model and to size chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """Which models are announced, and who serves them."""

    cards: dict[str, ModelCard]
    workers: tuple[WorkerInfo, ...]

    def children(self, model: str) -> int:
        """Return the number of processes that serve a model, at least 1."""
        return max(1, sum(w.children for w in self.workers if model in w.models))


def look_around(keys: Keyspace, *, grace_s: float = 0.0) -> Flow[DirectorySnapshot]:
    """Read the model cards and the live workers, if need be ``grace_s`` after the flow's deadline.

    What cannot be read is passed over: it must not stop the others.
    """
    limits = (round(LIVENESS_TTL_S * 1000), MAX_WORKERS)
    look = evalsha("look", (keys.models, keys.workers), keys.worker_prefix, *limits)
    ((packed_cards, _, entries),) = yield RoundTrip([look], grace_s=grace_s)
    cards = readable(ModelCard.from_json, islice(packed_cards, MAX_CARDS), "model card")
    workers = readable(WorkerInfo.from_json, filter(None, entries), "worker entry")
    return DirectorySnapshot(cards={card.name: card for card in cards}, workers=tuple(workers))


def readable(read: Callable[[Any], T], packed: Iterable[Any], what: str) -> list[T]:
    """Return what can be read of these; a warning names each kind of trouble once."""
    values = []
    for data in packed:
        try:
            values.append(read(data))
        except MessageError as error:
            warn_once(f"a {what} is passed over: {error}")
    return values


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log a warning; the same one is not repeated at every look."""
    log.warning("%s", message, extra={"action": "unreadable"})


class WorkerDirectory:
    """The latest DirectorySnapshot, and the choices that follow from it."""

    def __init__(self, default_model: str | None) -> None:
        self._default_model = default_model
        self._snapshot = DirectorySnapshot(cards={}, workers=())
        self._read_at_s = float("-inf")

    def is_stale(self) -> bool:
        """Return whether the cards should be read again."""
        return time.monotonic() - self._read_at_s > FRESH_S

    def update(self, snapshot: DirectorySnapshot) -> None:
        """Take what was read."""
        self._snapshot = snapshot
        # Nothing announced yet: look again at the next call.
        is_whole = snapshot.workers and snapshot.cards
        self._read_at_s = time.monotonic() if is_whole else float("-inf")

    def choose(self, model: str | None) -> tuple[str, ModelCard, int]:
        """Return the model's name, its card (or a guess, if none is announced) and the processes that serve it.

        Raises:
            UnknownModelError: none is named and not exactly one is announced.
            InvalidRequestError: no model can have this name.
        """
        cards = self._snapshot.cards
        name = model or self._default_model
        if name is None:
            if len(cards) != 1:
                raise UnknownModelError("", tuple(sorted(cards)))
            name = next(iter(cards))
        try:
            check_model_name(name)
        except SettingsError as error:
            raise InvalidRequestError("model", error.reason) from None
        return name, cards.get(name, UNKNOWN_CARD), self._snapshot.children(name)

    def expect(self, model: str | None) -> tuple[ModelCard, int]:
        """Return card and processes of a model as far as they are known now, to plan by.

        Raises:
            InvalidRequestError: no model can have this name.
        """
        try:
            _, card, children = self.choose(model)
        except UnknownModelError:
            return UNKNOWN_CARD, 1
        return card, children

    def check_protocol(self, model: str) -> None:
        """Raise ProtocolVersionError if workers serve the model and none of them reads what this client writes."""
        spoken = self._spoken(model)
        if spoken and PROTOCOL_VERSION not in spoken:
            raise ProtocolVersionError(model, PROTOCOL_VERSION, spoken)

    def tokens_per_s(self, model: str | None) -> float:
        """Return what the live workers of a model should do; 0: there are none."""
        name = model or self._default_model or ""
        card = self._snapshot.cards.get(name)
        return card.tokens_per_s * self._snapshot.children(name) if card and self._is_served(name) else 0.0

    def dimension(self, model: str) -> int:
        """Return the announced dimension, 0 if there is none."""
        card = self._snapshot.cards.get(model)
        return card.dimension if card else 0

    def hint(self, status: JobStatus) -> str:
        """Return why a job may not be done."""
        if status.state is JobState.QUEUED and not self._is_served(status.model):
            return f"No worker serves {status.model}; start one with EMBEDMILL_MODEL={status.model}."
        done = f"{status.chunks_done} of {status.chunks} chunks are done."
        spoken = self._spoken(status.model)
        if spoken and PROTOCOL_VERSION not in spoken:
            theirs = some(spoken)
            return f"{done} All live workers of {status.model} speak protocol {theirs}, this client {PROTOCOL_VERSION}."
        return done

    def hint_unsent(self, model: str | None, in_flight: int) -> str:
        """Return why a call has not gone out behind so many jobs of this client."""
        name = model or self._default_model
        if name is not None and not self._is_served(name):
            return f"No worker serves {name}; start one with EMBEDMILL_MODEL={name}."
        return f"It waited in this client behind {in_flight} jobs; call less at a time, or start more workers."

    def _spoken(self, model: str) -> tuple[int, ...]:
        """Return the protocol versions of the model's live workers."""
        return tuple(sorted({worker.protocol for worker in self._snapshot.workers if model in worker.models}))

    def _is_served(self, model: str) -> bool:
        return any(model in worker.models for worker in self._snapshot.workers)
