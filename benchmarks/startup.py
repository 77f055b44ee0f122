"""How long a worker takes from its start until it takes work, and a killed child until another one stands ready.

python benchmarks/run.py startup
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

from context import Run, open_mill, say
from figures import Figure, of_rounds

from embedmill.errors import EmbedError
from embedmill.settings import ClientSettings
from embedmill.status import READY, read_status
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.local.worker_process import WorkerProcess
from embedmill_worker.cli.measure import pss
from embedmill_worker.settings import DEFAULT_MODEL

PATIENCE_S = 120.0


def ask(run: Run) -> list[Figure]:
    """Return the seconds of both; times are taken by looking every few milliseconds."""
    figures: list[Figure] = []
    for precision in run.precisions:
        try:
            with ExitStack() as stack:  # makes and probes the model, if that was not done before
                mill = open_mill(stack, precision, EMBEDMILL_CONCURRENCY="1")
                seen, ready = zip(*(replaced_s(mill) for _ in range(2 * run.rounds)), strict=True)
        except EmbedError as error:
            run.skip(f"startup, {precision}", str(error))
            continue
        starts = [start_s(precision) for _ in range(2 * run.rounds)]
        say(f"  startup, {precision}: {min(starts):.2f} s")
        what = {"question": "startup", "precision": precision, "unit": "s"}
        figures.append(of_rounds(starts, name="start to ready", **what))
        figures.append(of_rounds(seen, name="killed child seen by Celery and forked anew", **what))
        figures.append(of_rounds(ready, name="killed child replaced", **what))
    return figures


def start_s(precision: str) -> float:
    """Return the seconds from a worker's start until it says that it takes work."""
    with EmbeddedValkey(persistent=False) as server:
        own = {"EMBEDMILL_REDIS_URL": server.url, "EMBEDMILL_MODEL": DEFAULT_MODEL, "EMBEDMILL_PRECISION": precision}
        settings = ClientSettings(redis_url=server.url, model=DEFAULT_MODEL)
        with WorkerProcess({**os.environ, **own}, log_level="ERROR") as worker:
            began_s = time.perf_counter()
            while not any(w.state == READY for w in read_status(settings).workers):
                if time.perf_counter() - began_s > PATIENCE_S or worker.exit_code is not None:
                    raise EmbedError("the worker did not become ready")
                time.sleep(0.01)
            return time.perf_counter() - began_s


def replaced_s(mill: Mill) -> tuple[float, float]:
    """Kill the only child; gives the seconds until another one exists, and from there until it has embedded a text."""
    (child,) = children(mill)
    began_s = time.perf_counter()
    os.kill(child, signal.SIGKILL)
    while child in (now := children(mill)) or not now:
        if time.perf_counter() - began_s > PATIENCE_S:
            raise EmbedError("the killed child was not replaced")
        time.sleep(0.002)
    forked_s = time.perf_counter()
    mill.client.embed(["ready"])
    return forked_s - began_s, time.perf_counter() - forked_s


def children(mill: Mill) -> list[int]:
    return pss.tree(mill.worker.pid)[1:]
