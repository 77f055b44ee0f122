"""Announcements of workers in Redis: model cards and liveness keys."""

from __future__ import annotations

from collections.abc import Sequence

from embedmill.jobs.discovery import look_around, warn_once
from embedmill.limits import LIVENESS_TTL_S
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.protocol.workers import WorkerInfo
from embedmill.transport.flow import Command, Flow, RoundTrip, evalsha


def other_fingerprints(keys: Keyspace, cards: Sequence[ModelCard]) -> Flow[dict[str, str]]:
    """Return the models that live workers serve under another fingerprint: name → theirs."""
    landscape = yield from look_around(keys)
    ours = {card.name: card.fingerprint for card in cards}
    return {
        model: fingerprint
        for worker in landscape.workers
        for model, fingerprint in worker.models.items()
        if ours.get(model, fingerprint) != fingerprint
    }


def announce_cards(keys: Keyspace, cards: Sequence[ModelCard]) -> Flow[None]:
    """Publish the models' cards; they replace cards of the same names."""
    yield RoundTrip([_announce(keys, cards, replaces=True)])


def beat(keys: Keyspace, info: WorkerInfo, cards: Sequence[ModelCard] = ()) -> Flow[int]:
    """Renew a worker's liveness key, and the cards that Redis has lost; return the number of messages in its queues.

    A key of the wrong type among these does not affect the others.
    """
    ttl_ms = int(LIVENESS_TTL_S * 1000)
    beat_keys = (keys.worker(info.worker_id), keys.workers)
    queues = [keys.queue(model, lane) for model in info.models for lane in LANES] + [keys.embed_queue]
    renew = evalsha("beat", beat_keys, info.to_json(), ttl_ms, info.worker_id)
    yield RoundTrip([renew])
    announce = _announce(keys, cards, replaces=False)
    announced, *waiting = yield RoundTrip([announce, *(("LLEN", queue) for queue in queues)], keeps_errors=True)
    if isinstance(announced, Exception):
        warn_once(
            f"model cards cannot be announced: {keys.models} is not written by embedmill ({type(announced).__name__})"
        )
    return sum(length for length in waiting if isinstance(length, int))


def _announce(keys: Keyspace, cards: Sequence[ModelCard], *, replaces: bool) -> Command:
    parts = [part for card in cards for part in (card.name, card.to_json())]
    return evalsha("announce", (keys.models,), int(replaces), *parts)


def leave(keys: Keyspace, worker_id: str) -> Flow[None]:
    """Remove a worker's liveness key, so that its claims end at once."""
    yield RoundTrip([("DEL", keys.worker(worker_id)), ("ZREM", keys.workers, worker_id)])
