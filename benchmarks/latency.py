"""Interactive latency of one client that sends one text after the other: idle, and beside saturating bulk work.

python benchmarks/run.py latency
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from itertools import chain

from context import Run, open_mills, say
from figures import Figure

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import Percentiles, latencies_ms, saturating, service_times_ms

#: Turns of idle and busy.
TURNS = 2

#: The design's bound under load: p99 idle and so many p95 service times of a bulk chunk.
SERVICE_TIMES = 1.5


def ask(run: Run) -> list[Figure]:
    """Return the percentiles, and the service time of bulk chunks in the same run."""
    figures: list[Figure] = []
    for precision in run.precisions:
        with ExitStack() as stack:
            mills = open_mills(stack, Run(precisions=(precision,), skipped=run.skipped))
            for mill in mills.values():
                figures += measure(run, mill, precision)
    return figures


def measure(run: Run, mill: Mill, precision: str) -> list[Figure]:
    """Measure one mill."""
    turns: dict[str, list[list[float]]] = {"idle": [], "under load": []}
    service: list[float] = []
    texts = corpus.short(run.requests // TURNS, seed=13)
    latencies_ms(mill.client, texts[:20])
    for turn in range(TURNS):
        for state in turns:
            say(f"  latency, {precision}, {state}, turn {turn + 1}/{TURNS}: {len(texts)} requests")
            with saturating(mill.client) if state != "idle" else nullcontext() as job:
                turns[state].append(latencies_ms(mill.client, texts))
                if job is not None:
                    service += service_times_ms(mill.settings, job)
    chunk_p95 = Percentiles.of(service).p95
    bound = Percentiles.of([*chain(*turns["idle"])]).p99 + SERVICE_TIMES * chunk_p95
    figures = []
    for state, parts in turns.items():
        for rank in ("p50", "p95", "p99"):
            each = [getattr(Percentiles.of(part), rank) for part in parts]
            is_bound = (state, rank) == ("under load", "p99")
            figures.append(
                Figure(
                    question="latency",
                    name=f"interactive {rank}, {state}",
                    precision=precision,
                    value=getattr(Percentiles.of([*chain(*parts)]), rank),
                    low=min(each),
                    high=max(each),
                    unit="ms",
                    bound=bound if is_bound else None,
                )
            )
    chunk = {"question": "latency", "name": "bulk chunk, service time p95", "precision": precision, "unit": "ms"}
    return [*figures, Figure(value=chunk_p95, low=min(service), high=max(service), **chunk)]
