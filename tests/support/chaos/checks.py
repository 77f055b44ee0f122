"""What must be true of Redis and of the workers once everything is done."""

import time

import psutil
import redis

from embedmill.protocol.keys import LANES, Keyspace

#: Seconds for the last traces to go: a deletion that Redis forgot in a crash, a second ring of a chunk.
SETTLING_S = 60.0

#: What a lane counts of work that is not done.
COUNTERS = ("chunks", "texts", "tokens", "bytes", "open")


def leftovers(server: redis.Redis, namespace: str, model: str) -> list[str]:
    """What is left that must not be; empty once all is well, which is waited for."""
    deadline = time.monotonic() + SETTLING_S
    while (found := _look(server, Keyspace(namespace), model)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _look(server: redis.Redis, keys: Keyspace, model: str) -> list[str]:
    found = []
    for lane in LANES:
        counts = server.hmget(keys.lane(model, lane), COUNTERS)
        found += [
            f"{lane}: {n} is {count.decode()}" for n, count in zip(COUNTERS, counts, strict=True) if int(count or 0)
        ]
        if n_active := server.zcard(keys.active(model, lane)):
            found.append(f"{lane}: {n_active} jobs active")
        if n_doorbells := server.llen(keys.queue(model, lane)):
            found.append(f"{lane}: {n_doorbells} doorbells")
        if waiting := [name for name, n in server.zrange(keys.tenants(model, lane), 0, -1, withscores=True) if n]:
            found.append(f"{lane}: {len(waiting)} tenants with tokens")
    if n_held := server.hlen(keys.held):
        found.append(f"{n_held} entries of what is held")
    if n_unacked := server.hlen(keys.unacked):
        found.append(f"{n_unacked} deliveries not acknowledged")
    if n_letters := server.xlen(keys.dead):
        found.append(f"{n_letters} dead letters")
    return found + _everlasting(server, keys, model)


def _everlasting(server: redis.Redis, keys: Keyspace, model: str) -> list[str]:
    """Keys without a time to live, but those that keys.py says are permanent."""
    permanent = {keys.models, keys.lanes, keys.workers}
    permanent |= {name(model, lane) for lane in LANES for name in (keys.lane, keys.turns, keys.tenants)}
    return [
        f"{key} has no time to live"
        for key in (raw.decode() for raw in server.scan_iter(f"{keys.namespace}*", count=1_000))
        if key not in permanent and server.ttl(key) == -1
    ]


def unexpected_ends(mill, expected: set[int]) -> list[str]:
    """Workers that ended though no fault ended them."""
    return [
        f"worker {w.pid} ended with {w.process.returncode}:\n{w.log[-3000:]}"
        for w in mill.workers
        if w.process.poll() is not None and w.pid not in expected
    ]


def zombies(mill) -> list[str]:
    """Children of live workers that have died and are not replaced, though the pool had time to see it."""
    deadline = time.monotonic() + SETTLING_S
    while (found := _zombies(mill)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _zombies(mill) -> list[str]:
    return [
        f"child {child.pid} of worker {worker.pid} is a zombie:\n{worker.log[-3000:]}"
        for worker in mill.workers
        if worker.process.poll() is None
        for child in psutil.Process(worker.pid).children()
        if child.status() == psutil.STATUS_ZOMBIE
    ]
