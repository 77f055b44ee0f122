"""A fleet as a discrete-event simulation: children, one Redis, its network, and what each step of a chunk takes there.

Pure: no I/O. A child embeds a chunk, commits it and claims the next one; a client submits the chunk, reads and deletes
it meanwhile. Each station serves one request after the other, in the order of their coming.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Chunks of each child that are simulated; the first fifth is not counted.
CHUNKS_A_CHILD = 25
WARM_UP = 0.2

#: How much chunks differ in what they take, to both sides.
SPREAD = 0.15

#: Seconds between two beats of a worker.
BEAT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step takes of Redis for one chunk."""

    server_s: float
    in_bytes: float
    out_bytes: float

    def __add__(self, other: Step) -> Step:
        return Step(
            server_s=self.server_s + other.server_s,
            in_bytes=self.in_bytes + other.in_bytes,
            out_bytes=self.out_bytes + other.out_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is simulated."""

    children: int
    #: Seconds of a child for a chunk: its embedding, and what the worker spends around it.
    embed_s: float
    overhead_s: float
    #: Of the worker, and of the client for the same chunk.
    work: Step
    client: Step
    #: Bits a second of Redis's network, each way, and seconds of a round trip.
    network_bit_s: float
    trip_s: float
    #: Seconds of the server for a beat of each worker.
    beat_s: float = 0.0
    workers: int = 1
    #: Seconds that a chunk takes of a core that all workers and clients share; 0 if each has a core of its own.
    shared_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a fleet makes."""

    chunks_per_s: float
    #: Share of what its children would embed if they waited for nothing.
    efficiency: float
    #: Share of the time that each station is busy.
    busy: Mapping[str, float]

    @property
    def tightest(self) -> str:
        """The station that is busiest."""
        return max(self.busy, key=lambda name: self.busy[name])


class Station:
    """One server, first come, first served."""

    def __init__(self) -> None:
        self.free_at_s = 0.0
        self.busy_s = 0.0

    def serve(self, now_s: float, takes_s: float) -> float:
        """Return when a request that comes now is done."""
        self.free_at_s = max(now_s, self.free_at_s) + takes_s
        self.busy_s += takes_s
        return self.free_at_s


def simulate(fleet: Fleet, *, seed: int = 1) -> Outcome:
    """Run a fleet until each child has done ``CHUNKS_A_CHILD`` chunks on average; the same seed gives the same."""
    rng = random.Random(seed)
    stations = {name: Station() for name in ("Redis's core", "network in", "network out", "shared core")}
    server, wire_in, wire_out, shared = stations.values()
    byte_s = 8 / fleet.network_bit_s
    done = 0

    def child() -> Iterator[tuple[Station | None, float]]:
        nonlocal done
        yield None, rng.uniform(0, fleet.embed_s)
        while True:
            yield shared, fleet.shared_s
            yield None, fleet.overhead_s
            yield None, fleet.embed_s * rng.uniform(1 - SPREAD, 1 + SPREAD)
            yield wire_in, fleet.work.in_bytes * byte_s
            yield server, fleet.work.server_s
            yield wire_out, fleet.work.out_bytes * byte_s
            yield None, fleet.trip_s
            done += 1
            start(client())

    def client() -> Iterator[tuple[Station | None, float]]:
        yield wire_in, fleet.client.in_bytes * byte_s
        yield server, fleet.client.server_s
        yield wire_out, fleet.client.out_bytes * byte_s

    def beats() -> Iterator[tuple[Station | None, float]]:
        yield None, rng.uniform(0, BEAT_S)
        while True:
            yield server, fleet.beat_s
            yield None, BEAT_S

    events: list[tuple[float, int, Iterator[tuple[Station | None, float]]]] = []
    now_s, count = 0.0, 0

    def start(process: Iterator[tuple[Station | None, float]]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (now_s, count, process))

    for _ in range(fleet.children):
        start(child())
    for _ in range(fleet.workers if fleet.beat_s else 0):
        start(beats())
    total = CHUNKS_A_CHILD * fleet.children
    since_s, before, busy_before = 0.0, 0, dict.fromkeys(stations, 0.0)
    while done < total:
        now_s, number, process = heapq.heappop(events)
        if not before and done >= WARM_UP * total:
            since_s, before = now_s, done
            busy_before = {name: station.busy_s for name, station in stations.items()}
        step = next(process, None)
        if step is not None:
            station, takes_s = step
            ends_s = station.serve(now_s, takes_s) if station else now_s + takes_s
            heapq.heappush(events, (ends_s, number, process))
    took_s = now_s - since_s
    chunks_per_s = (done - before) / took_s
    return Outcome(
        chunks_per_s=chunks_per_s,
        efficiency=chunks_per_s * fleet.embed_s / fleet.children,
        busy={name: min(1.0, (station.busy_s - busy_before[name]) / took_s) for name, station in stations.items()},
    )
