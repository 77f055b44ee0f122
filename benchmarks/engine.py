"""The engine alone, one pinned process a core, against the ceiling: what tokenizing, planning and pooling cost.

python benchmarks/run.py engine
"""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Self

from context import Run, ceiling_s, interleave
from figures import Figure, of_rounds, ratios

from embedmill_worker.cli.measure import corpus
from embedmill_worker.settings import DEFAULT_MODEL

CORPORA = ("mixed", "short")


class PinnedEngines:
    """An engine on every core, in processes of their own; a context manager."""

    def __init__(self, precision: str) -> None:
        context = mp.get_context("spawn")
        self._pipes: list[Connection] = []
        self._theirs: list[Connection] = []
        self._processes = []
        for core in sorted(os.sched_getaffinity(0)):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            self._theirs.append(theirs)
            self._processes.append(context.Process(target=serve, args=(core, precision, theirs), daemon=True))

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for pipe in self._theirs:
            pipe.close()  # so that the end of a process is the end of its pipe
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def refusal(self) -> str:
        """Wait until all are loaded; gives why they are not, if so."""
        try:
            return max(pipe.recv() for pipe in self._pipes)
        except EOFError:
            return "its process ended"

    def seconds(self, texts: Sequence[str]) -> float:
        """Return the seconds of the slowest, each with its share of the texts."""
        shares = [texts[i :: len(self._pipes)] for i in range(len(self._pipes))]
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send(share)
        return max(pipe.recv() for pipe in self._pipes)


def serve(core: int, precision: str, pipe: Connection) -> None:
    """Load an engine on one core and embed what comes."""
    os.sched_setaffinity(0, {core})
    from embedmill.errors import EmbedError
    from embedmill_worker.engine.engines import Engines
    from embedmill_worker.settings import WorkerSettings

    try:
        engines = Engines(
            WorkerSettings.from_env({**os.environ, "EMBEDMILL_MODEL": DEFAULT_MODEL, "EMBEDMILL_PRECISION": precision})
        )
        engine = engines.get(DEFAULT_MODEL)
        engine.embed(corpus.mixed(20))
    except EmbedError as error:
        pipe.send(str(error))
        return
    pipe.send("")
    while True:
        texts = pipe.recv()
        began_s = time.perf_counter()
        engine.embed(texts)
        pipe.send(time.perf_counter() - began_s)


def ask(run: Run) -> list[Figure]:
    """Return the engine's texts a second and their ratio to the ceiling's."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        engines = {}
        for precision in run.precisions:
            pinned = stack.enter_context(PinnedEngines(precision))
            if reason := pinned.refusal():
                run.skip(f"engine, {precision}", reason)
            else:
                engines[precision] = pinned
        for name in CORPORA:
            texts = corpus.CORPORA[name](run.texts)
            ways: dict[str, Callable[[], float]] = {p: partial(e.seconds, texts) for p, e in engines.items()}
            ways["ceiling"] = partial(ceiling_s, run, texts)
            rates = interleave(f"engine, {name}", texts, run.rounds, ways)
            for precision in engines:
                what = {"question": "engine", "corpus": name, "precision": precision}
                figures.append(of_rounds(rates[precision], name="engine", unit="texts/s", **what))
                figures.append(ratios(rates[precision], rates["ceiling"], name="engine ÷ ceiling", **what))
    return figures
