"""Memory of a worker's process tree (PSS) under mixed load: its peak, and whether it grows.

python benchmarks/run.py memory --minutes 30
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import numpy as np
from context import Run, open_mills, say
from figures import Figure

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus, pss

#: Seconds between two samples.
SAMPLE_S = 2.0

#: Minutes that count as warm-up in a long run; in a short one it is the first third.
WARM_UP_MINUTES = 5.0


def ask(run: Run) -> list[Figure]:
    """Return peak and slope, and write the series of (seconds, MB) beside the report."""
    figures: list[Figure] = []
    for precision in run.precisions:
        with ExitStack() as stack:
            mills = open_mills(stack, Run(precisions=(precision,), skipped=run.skipped))
            for mill in mills.values():
                say(f"  memory, {precision}: {run.minutes:g} minutes")
                points = series(mill, run.minutes * 60)
                write(run, precision, points)
                figures += figures_of(points, precision, run.minutes)
    return figures


def figures_of(points: list[tuple[float, float]], precision: str, minutes: float) -> list[Figure]:
    """Turn (seconds, MB) into figures."""
    what = {"question": "memory", "precision": precision}
    all_mb = [mb for _, mb in points]
    warm_up_s = 60 * min(WARM_UP_MINUTES, minutes / 3)
    grown = slope([(s, mb) for s, mb in points if s >= warm_up_s]) * 600
    label = "memory, slope" if minutes > 2 * WARM_UP_MINUTES else f"memory, slope in {minutes:g} minutes"
    return [
        Figure(name="memory, highest", value=max(all_mb), low=min(all_mb), high=max(all_mb), unit="MB", **what),
        Figure(name=label, value=grown, low=grown, high=grown, unit="MB in 10 minutes", **what),
    ]


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of a line through points by least squares."""
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def series(mill: Mill, seconds: float) -> list[tuple[float, float]]:
    """Put mixed load on a mill: bulk jobs of all corpora, and interactive texts beside them."""
    is_over = threading.Event()
    requests = threading.Thread(target=interactive, args=(mill, is_over), daemon=True)
    bulk = threading.Thread(target=jobs, args=(mill, is_over), daemon=True)
    began_s = time.monotonic()
    requests.start()
    bulk.start()
    points = []
    while (now_s := time.monotonic() - began_s) < seconds:
        points.append((round(now_s, 2), round(pss.tree_mb(mill.worker.pid), 2)))
        is_over.wait(SAMPLE_S)
    is_over.set()
    requests.join()
    bulk.join()
    return points


def interactive(mill: Mill, is_over: threading.Event) -> None:
    texts = corpus.mixed(1000, seed=21)
    for i in range(1 << 30):
        if is_over.wait(0.05):
            return
        mill.client.embed([texts[i % len(texts)]])


def jobs(mill: Mill, is_over: threading.Event) -> None:
    for seed in range(1 << 30):
        make = list(corpus.CORPORA.values())[seed % len(corpus.CORPORA)]
        job = mill.client.submit(make(300, seed=seed))
        job.result(600)
        job.delete()
        if is_over.is_set():
            return


def write(run: Run, precision: str, points: list[tuple[float, float]]) -> None:
    if run.folder is not None:
        lines = ["seconds,mb", *(f"{s},{mb}" for s, mb in points)]
        (run.folder / f"memory-{precision}.csv").write_text("\n".join(lines) + "\n")
