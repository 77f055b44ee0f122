"""A corpus from JSONL into Parquet files, against the engine alone: rate, memory, later runs, latency.

python benchmarks/run.py reindex --texts 20000
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from context import Run, open_mill, say
from engine import PinnedEngines
from figures import Figure, of_rounds, ratios
from latency import SERVICE_TIMES

from embedmill.status import read_status
from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import Percentiles, latencies_ms, saturating, service_times_ms

#: Seconds between two looks at memory. Ten looks a second took more than one per cent of the two cores.
SAMPLE_S = 0.5

#: Share of the corpus that is changed before the third run.
CHANGED = 0.01


@dataclass(frozen=True, kw_only=True)
class Took:
    """One run of the command."""

    report: dict[str, Any]
    seconds: float
    #: Resident, of the reindexer.
    client_mb: float
    #: Of Redis.
    redis_mb: float


def ask(run: Run) -> list[Figure]:
    """Return the rate against the engine's, the highest memory, the rates of later runs, interactive latency."""
    texts = corpus.short(run.texts)
    first: list[Took] = []
    again: list[Took] = []
    limits: dict[str, list[float]] = {"engine": []}
    changed: list[Took] = []
    with ExitStack() as stack:
        mill = open_mill(stack, "fp32", EMBEDMILL_CONCURRENCY=str(run.cores))
        engines = stack.enter_context(PinnedEngines("fp32"))
        if reason := engines.refusal():
            raise RuntimeError(reason)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedmill-reindex-")))
        for n in range(run.rounds):
            source, sink = folder / f"corpus-{n}.jsonl", folder / f"vectors-{n}"
            write(source, texts)
            limits["engine"].append(len(texts) / engines.seconds(texts))
            first.append(reindex(mill, source, sink))
            again.append(reindex(mill, source, sink))
            write(source, edited(texts))
            changed.append(reindex(mill, source, sink))
            rate = len(texts) / first[-1].seconds
            shown = ", ".join(f"{name} {rates[-1]:.1f}" for name, rates in limits.items())
            say(f"  reindex {n + 1}/{run.rounds}: {rate:.1f} texts/s, {shown}")
        beside = interactive(run, mill, folder)
    return figures_of(len(texts), first, again, changed, limits) + beside


def interactive(run: Run, mill: Mill, folder: Path) -> list[Figure]:
    """Return the latency of one-text requests, idle and while a reindexer runs, against the design's bound."""
    requests = corpus.short(run.requests // 2, seed=13)
    latencies_ms(mill.client, requests[:20])
    idle = latencies_ms(mill.client, requests)
    with saturating(mill.client) as job:
        latencies_ms(mill.client, requests[:50])
        service = service_times_ms(mill.settings, job)
    source = folder / "beside.jsonl"
    write(source, corpus.short(60_000))
    command = [sys.executable, "-m", "embedmill_worker.cli", "reindex", str(source), "--to", str(folder / "beside")]
    environment = {**os.environ, **_where(mill)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(lane.lane == "bulk" and lane.chunks for lane in read_status(mill.settings).lanes):
            time.sleep(SAMPLE_S)
        busy = latencies_ms(mill.client, requests)
        if process.poll() is not None:
            raise RuntimeError("the reindexer was done before the requests were; give it more texts")
    finally:
        process.terminate()
        process.wait()
    chunk_p95 = Percentiles.of(service).p95
    bound = Percentiles.of(idle).p99 + SERVICE_TIMES * chunk_p95
    what = {"question": "reindex", "corpus": "short", "precision": "fp32", "unit": "ms"}
    figures = []
    for state, values in (("idle", idle), ("beside reindex", busy)):
        p99 = Percentiles.of(values).p99
        limit = bound if values is busy else None
        figures.append(
            Figure(name=f"interactive p99, {state}", value=p99, low=min(values), high=max(values), bound=limit, **what)
        )
    return figures


def figures_of(
    count: int,
    first: Sequence[Took],
    again: Sequence[Took],
    changed: Sequence[Took],
    limits: Mapping[str, Sequence[float]],
) -> list[Figure]:
    """Turn the runs into figures; the start of the command is counted."""
    what = {"question": "reindex", "corpus": "short", "precision": "fp32"}
    rates = [count / took.seconds for took in first]
    return [
        of_rounds(rates, name="reindex", unit="texts/s", **what),
        *(ratios(rates, limit, name=f"reindex ÷ {name}", **what) for name, limit in limits.items()),
        of_rounds([took.client_mb for took in first], name="reindex, client's memory", unit="MB", **what),
        of_rounds([took.redis_mb for took in first], name="reindex, Redis's memory", unit="MB", **what),
        of_rounds(
            [count / took.report["elapsed_s"] for took in again], name="reindex, unchanged", unit="texts/s", **what
        ),
        of_rounds(
            [100 * took.report["updated"] / count for took in changed], name="reindex, 1 % changed", unit="%", **what
        ),
    ]


def reindex(mill: Mill, source: Path, sink: Path) -> Took:
    """Run the command and watch its memory and that of Redis."""
    command = [sys.executable, "-m", "embedmill_worker.cli", "reindex", str(source), "--to", str(sink), "--json"]
    environment = {**os.environ, **_where(mill)}
    began_s = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    highest = [0.0, 0.0]
    watcher = threading.Thread(target=watch, args=(process, mill.settings.redis_url, highest))
    watcher.start()
    out, _ = process.communicate()
    seconds = time.monotonic() - began_s
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"reindex ended with {process.returncode}")
    report = json.loads(out.splitlines()[-1])
    return Took(report=report, seconds=seconds, client_mb=highest[0], redis_mb=highest[1])


def watch(process: subprocess.Popen[str], redis_url: str, highest: list[float]) -> None:
    """Note the highest memory of both in MB, until the process ends."""
    seen = psutil.Process(process.pid)
    with redis.Redis.from_url(redis_url) as server:
        while process.poll() is None:
            try:
                highest[0] = max(highest[0], seen.memory_info().rss / 1e6)
            except psutil.Error:  # it has ended
                return
            highest[1] = max(highest[1], server.info("memory")["used_memory"] / 1e6)
            time.sleep(SAMPLE_S)


def write(path: Path, texts: Sequence[str]) -> None:
    """Write a corpus."""
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))


def edited(texts: Sequence[str]) -> list[str]:
    """Change every hundredth text."""
    step = round(1 / CHANGED)
    return [f"{text} again" if i % step == 0 else text for i, text in enumerate(texts)]


def _where(mill: Mill) -> Mapping[str, str]:
    return {"EMBEDMILL_REDIS_URL": mill.settings.redis_url, "EMBEDMILL_NAMESPACE": mill.settings.namespace}
