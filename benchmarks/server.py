"""What a chunk costs the server: commands, CPU, bytes in and out, by kind of load.

    python benchmarks/run.py redis

All is read from the server's own counters, submission, waiting and deletion included; what workers ask while nothing
is to be done is taken off. Commands inside of scripts count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import redis
from context import Run, open_mills, say
from figures import Figure, of_rounds

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus

#: Seconds of the idle server that are measured.
IDLE_S = 5.0

UNITS = {"commands": "/chunk", "CPU": "µs/chunk", "bytes in": "B/chunk", "bytes out": "B/chunk"}

Counters = dict[str, float]


def ask(run: Run) -> list[Figure]:
    """Return what one chunk costs, for each kind of load."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        for precision, mill in open_mills(stack, run).items():
            server = stack.enter_context(redis.Redis.from_url(mill.server.url))
            idle = at_rest(server)
            costs: dict[str, list[Counters]] = {kind: [] for kind in LOADS}
            for _ in range(run.rounds):
                for kind, load in LOADS.items():
                    costs[kind].append(cost(server, idle, partial(load, mill, run)))
                    say(f"  redis, {kind}: " + ", ".join(f"{n:.0f} {what}" for what, n in costs[kind][-1].items()))
            for kind, rounds in costs.items():
                for what, unit in UNITS.items():
                    name = f"{what} of the server, {kind}"
                    values = [one[what] for one in rounds]
                    figures.append(of_rounds(values, question="redis", name=name, precision=precision, unit=unit))
    return figures


def cost(server: redis.Redis, idle: Counters, load: Callable[[], int]) -> Counters:
    """Run a load that gives its number of chunks; return the counters of one chunk."""
    began_s, before = time.monotonic(), counters(server)
    chunks = load()
    after, took_s = counters(server), time.monotonic() - began_s
    return {what: max(0.0, after[what] - before[what] - idle[what] * took_s) / chunks for what in UNITS}


def at_rest(server: redis.Redis) -> Counters:
    """Return what the idle server counts in a second."""
    before = counters(server)
    time.sleep(IDLE_S)
    after = counters(server)
    return {what: (after[what] - before[what]) / IDLE_S for what in UNITS}


def counters(server: redis.Redis) -> Counters:
    """Read the server's counters."""
    stats: dict[str, Any] = server.info("commandstats")
    calls = sum(one["calls"] for name, one in stats.items() if name.startswith("cmdstat_"))
    cpu, net = server.info("cpu"), server.info("stats")
    return {
        "commands": calls,
        "CPU": (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6,
        "bytes in": net["total_net_input_bytes"],
        "bytes out": net["total_net_output_bytes"],
    }


def bulk(mill: Mill, texts: list[str]) -> int:
    """Run one bulk job; return its chunks."""
    job = mill.client.submit(texts)
    job.result(600.0)
    chunks = job.status().chunks
    job.delete()
    return chunks


def small_jobs(mill: Mill, texts: list[str]) -> int:
    """Run jobs of ten texts that all wait at once; return their chunks."""
    jobs = [mill.client.submit(texts[start : start + 10]) for start in range(0, len(texts), 10)]
    for job in jobs:
        job.result(600.0)
    chunks = sum(job.status().chunks for job in jobs)
    for job in jobs:
        job.delete()
    return chunks


def single(mill: Mill, texts: list[str]) -> int:
    """Embed one text a request, one after the other."""
    for text in texts:
        mill.client.embed([text])
    return len(texts)


#: Kind of load → a function that runs it and gives its chunks.
LOADS: dict[str, Callable[[Mill, Run], int]] = {
    "bulk, short": lambda mill, run: bulk(mill, corpus.short(run.texts * 8)),
    "bulk, mixed": lambda mill, run: bulk(mill, corpus.mixed(run.texts)),
    "jobs of ten texts": lambda mill, run: small_jobs(mill, corpus.short(run.texts * 2)),
    "one text a request": lambda mill, run: single(mill, corpus.short(run.requests)),
}
