"""The status of a queue: its live workers and what waits in its lanes."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from embedmill.errors import BrokerUnavailableError, MessageError
from embedmill.jobs.discovery import look_around, readable
from embedmill.limits import MAX_LANES, MAX_STATUS_TENANTS, MAX_STATUS_WORKERS
from embedmill.protocol.codec import read_count, read_ms, read_name, read_number
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.protocol.workers import WorkerInfo
from embedmill.settings import ClientSettings, is_tenant
from embedmill.transport.flow import Command, Flow, RoundTrip
from embedmill.transport.sync import RedisTransport

#: State of a worker that takes work.
READY: Final = "ready"

#: State of a ready worker whose model card Redis has lost; clients see its model once the worker sends the card again.
UNANNOUNCED: Final = "unannounced"

#: Seconds after which a measured rate is past: no reconciler runs, and so no worker. As in ``submit.lua``.
RATE_LIFE_S: Final = 30.0

#: Seconds between two readings while waiting for a worker.
POLL_S: Final = 0.1

#: Seconds that one reading waits for Redis.
LOOK_S: Final = 5.0

#: A lane's numbers that are shown.
_NUMBERS: Final = ("chunks", "texts", "tokens", "drained", "rate", "counted_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One live worker and one of its models."""

    #: Celery's node name.
    name: str
    model: str
    fingerprint: str
    #: ``ready``, ``stalled``, ``stopping`` or ``unannounced``.
    state: str
    pid: int
    #: Number of child processes, which embed.
    children: int

    @property
    def is_ready(self) -> bool:
        """Whether it takes work."""
        return self.state == READY


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStatus:
    """Work of one tenant in a lane that is not done."""

    #: "": of nobody in particular.
    tenant: str
    #: Estimated tokens.
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """Work that is not done in one lane of one model; work that has begun counts too."""

    model: str
    lane: str
    #: Name of the lane's Celery queue.
    queue: str
    chunks: int
    texts: int
    #: Estimated tokens.
    tokens: int
    #: Seconds since the oldest unfinished job was submitted; 0 without unfinished jobs.
    oldest_age_s: float
    #: Tokens embedded since the lane came into use; the difference of two readings is the work between them.
    tokens_done: int = 0
    #: Tokens a second while the lane last had work, as the reconciler measured it; 0: not measured lately.
    tokens_per_s: float = 0.0
    #: Tenants with work, those with the most first, at most ``MAX_STATUS_TENANTS``.
    tenants: tuple[TenantStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """Live workers and lanes at one moment, sorted by name."""

    workers: tuple[WorkerStatus, ...]
    lanes: tuple[LaneStatus, ...]

    def serves(self, model: str | None) -> bool:
        """Return whether a worker takes work for the model; None: for any model."""
        return any(w.is_ready and model in (None, w.model) for w in self.workers)


def read(keys: Keyspace) -> Flow[QueueStatus]:
    """Read the live workers and the lanes; a lane that no worker serves is left out if it is empty."""
    snapshot = yield from look_around(keys)
    used, now = yield RoundTrip([("SMEMBERS", keys.lanes), ("TIME",)])
    served = {(model, lane) for worker in snapshot.workers for model in worker.models for lane in LANES}
    known = {_split(name) for name in readable(read_name, islice(used, MAX_LANES), "lane")}
    pairs = sorted(served | known)[:MAX_LANES]
    commands: list[Command] = []
    for model, lane in pairs:
        commands.append(("HMGET", keys.lane(model, lane), *_NUMBERS))
        commands.append(("ZRANGE", keys.active(model, lane), 0, 0, "WITHSCORES"))
        commands.append(("ZREVRANGE", keys.tenants(model, lane), 0, MAX_STATUS_TENANTS - 1, "WITHSCORES"))
    replies = (yield RoundTrip(commands, keeps_errors=True)) if commands else []
    now_s = int(now[0]) + int(now[1]) / 1e6
    workers = islice((w for info in snapshot.workers for w in _of_worker(info, snapshot.cards)), MAX_STATUS_WORKERS)
    return QueueStatus(
        workers=tuple(sorted(workers, key=lambda w: w.name)),
        lanes=tuple(
            _of_lane(keys, pair, (numbers, oldest, tenants), now_s)
            for pair, numbers, oldest, tenants in zip(pairs, *(replies[i::3] for i in range(3)), strict=True)
            if pair in served or _holds(numbers, oldest)
        ),
    )


def read_status(settings: ClientSettings | None = None, *, timeout_s: float = LOOK_S) -> QueueStatus:
    """Return which workers serve which models, and what waits in each lane.

    Args:
        settings: where the queue is, for example ``client.settings``; None: what the environment says.
        timeout_s: seconds for the whole call.

    Raises:
        BrokerUnavailableError: Redis did not answer in time.
        SettingsError: a setting has a value that cannot work.
    """
    settings = settings or ClientSettings.from_env()
    link = RedisTransport(settings)
    try:
        return link.run(read(Keyspace(settings.namespace)), timeout_s=timeout_s, outage_s=0.0)
    finally:
        link.close()


def wait_for_worker(settings: ClientSettings | None = None, *, timeout_s: float = 60.0) -> bool:
    """Wait until a worker serves the model of the settings, or any model if they name none.

    A Redis that cannot be reached is tried again until ``timeout_s``.

    Args:
        settings: where the queue is, for example ``client.settings``; None: what the environment says.
        timeout_s: seconds to wait.

    Returns:
        Whether a worker serves the model; False after ``timeout_s``.

    Raises:
        SettingsError: a setting has a value that cannot work.
    """
    settings = settings or ClientSettings.from_env()
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            if read_status(settings, timeout_s=max(POLL_S, min(LOOK_S, left_s))).serves(settings.model):
                return True
        except BrokerUnavailableError:
            pass
        if time.monotonic() + POLL_S >= deadline_s:
            return False
        time.sleep(POLL_S)


def _split(member: str) -> tuple[str, str]:
    model, _, lane = member.rpartition(" ")
    return model, lane


def _of_worker(info: WorkerInfo, cards: Container[str]) -> list[WorkerStatus]:
    return [
        WorkerStatus(
            name=info.name,
            model=model,
            fingerprint=fingerprint,
            state=UNANNOUNCED if info.state == READY and model not in cards else info.state,
            pid=info.pid,
            children=info.children,
        )
        for model, fingerprint in sorted(info.models.items())
    ]


def _of_lane(keys: Keyspace, pair: tuple[str, str], replies: tuple[Any, Any, Any], now_s: float) -> LaneStatus:
    model, lane = pair
    numbers, oldest, owners = replies
    values = numbers if isinstance(numbers, list) else [None] * len(_NUMBERS)
    chunks, texts, tokens, drained = map(_count, values[:4])
    age_s = _age_s(oldest[1], now_s) if isinstance(oldest, list) and len(oldest) == 2 else 0.0
    return LaneStatus(
        model=model,
        lane=lane,
        queue=keys.queue(model, lane),
        chunks=chunks,
        texts=texts,
        tokens=tokens,
        oldest_age_s=round(age_s, 3),
        tokens_done=drained,
        tokens_per_s=_rate(values[4], values[5], now_s),
        tenants=tuple(_tenants(owners)) if isinstance(owners, list) else (),
    )


def _tenants(owners: Sequence[Any]) -> Iterator[TenantStatus]:
    for name, score in zip(owners[::2], owners[1::2], strict=True):
        try:
            tenant, tokens = read_name(name), int(read_number(score))
        except MessageError:
            continue
        if tokens > 0 and (tenant == "" or is_tenant(tenant)):
            yield TenantStatus(tenant=tenant, tokens=tokens)


def _holds(numbers: Any, oldest: Any) -> bool:
    """Return whether a lane holds work, or cannot be read."""
    return not isinstance(numbers, list) or oldest != [] or any(map(_count, numbers[:3]))


def _count(value: Any) -> int:
    """Return a counter's value; 0 if it is negative or cannot be read, which the reconciler corrects."""
    try:
        return read_count(value or b"0", 1 << 53)
    except MessageError:
        return 0


def _age_s(submitted_ms: Any, now_s: float) -> float:
    try:
        return max(0.0, now_s - read_ms(submitted_ms) / 1000)
    except MessageError:
        return 0.0


def _rate(rate: Any, measured_ms: Any, now_s: float) -> float:
    """Return the measured rate; 0 if there is none, if it is past or if it cannot be read."""
    try:
        is_fresh = rate is not None and 0 <= now_s - read_ms(measured_ms or b"0") / 1000 < RATE_LIFE_S
        return read_number(rate, "a rate") if is_fresh else 0.0
    except MessageError:
        return 0.0
