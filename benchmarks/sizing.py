"""Memory and speed of a whole mill (server, worker with two children, client) by shape of the model.

    python benchmarks/run.py sizing --precision fp32,int8,bf16 --minutes 1

Weights are random, see standin.py: what is measured does not depend on what a model has learnt. Not among the questions
that run by default: it takes half an hour for all shapes, and needs 1 GB of disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from context import HERE, Run, open_mill, say
from cpu import cpu_s, own_s
from figures import Figure, of_rounds
from memory import interactive
from standin import SHAPES, TEXTS

from embedmill.errors import EmbedError
from embedmill.jobs import discovery
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.transport.sync import RedisTransport
from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus, pss
from embedmill_worker.cli.measure.load import bulk_s

CHILDREN = 2
CORPORA = ("mixed", "short")
#: Texts of one bulk job under load.
JOB_TEXTS = 60
SAMPLE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Proportional set sizes at one moment, MB."""

    #: This process and everything it has started.
    whole: float
    #: The same without mapped files.
    anonymous: float
    server: float
    #: The worker's main process.
    main: float
    #: The larger of the children.
    child: float
    client: float

    @classmethod
    def of(cls, mill: Mill) -> Memory:
        everybody = pss.tree(os.getpid())
        main, *children = pss.tree(mill.worker.pid)
        return cls(
            whole=sum(map(pss.process_mb, everybody)),
            anonymous=sum(pss.process_mb(pid, counted="Pss_Anon") for pid in everybody),
            server=pss.process_mb(mill.server.pid),
            main=pss.process_mb(main),
            child=max(map(pss.process_mb, children), default=0.0),
            client=pss.process_mb(os.getpid()),
        )


def ask(run: Run) -> list[Figure]:
    """Return memory by part, tokens a second of a core, and texts a second beside what the formula says."""
    figures: list[Figure] = []
    for name in run.shapes or SHAPES:
        with tempfile.TemporaryDirectory(prefix="sizing-", dir=run.folder) as place:
            folder = Path(place) / "model"
            subprocess.run([sys.executable, str(HERE / "standin.py"), name, str(folder)], check=True)
            environment = {"EMBEDMILL_MODEL": f"standin={folder}", "EMBEDMILL_DATA_DIR": str(Path(place) / "data")}
            for precision in run.precisions:
                say(f"  sizing, {name}, {precision}")
                try:
                    figures += of_shape(run, name, precision, environment, folder)
                except EmbedError as error:
                    run.skip(f"sizing, {name}, {precision}", str(error))
    return figures


def of_shape(run: Run, name: str, precision: str, environment: dict[str, str], folder: Path) -> list[Figure]:
    """Start a mill for the first time, which exports, quantises and probes the model, and measure it."""
    with ExitStack() as stack:
        with pss.PeakMemory(os.getpid()) as start:
            mill = open_mill(stack, precision, EMBEDMILL_CONCURRENCY=str(CHILDREN), **environment)
        figures = [of_rounds([start.mb], name=f"{name}: first start, highest", **_memory(precision))]
        figures += speed(run, mill, name, precision)
        return figures + memory(mill, name, precision, folder, run.minutes * 60)


def memory(mill: Mill, name: str, precision: str, folder: Path, seconds: float) -> list[Figure]:
    """Load a mill, and give the most that each part ever took."""
    texts = (folder / TEXTS).read_text(encoding="utf-8").splitlines()
    samples = list(under_load(mill, texts, seconds))
    figures = []
    for part in fields(Memory):
        values = [getattr(sample, part.name) for sample in samples]
        title = f"{name}: {part.name}, highest"
        figures.append(Figure(name=title, value=max(values), low=min(values), high=max(values), **_memory(precision)))
    return figures


def _memory(precision: str) -> dict[str, str]:
    return {"question": "sizing", "precision": precision, "unit": "MB"}


def under_load(mill: Mill, texts: Sequence[str], seconds: float) -> Iterator[Memory]:
    """Put mixed load on a mill: interactive texts, and jobs of every corpus and of these texts; give samples."""
    is_over = threading.Event()
    loads = [
        threading.Thread(target=interactive, args=(mill, is_over), daemon=True),
        threading.Thread(target=jobs, args=(mill, texts, is_over), daemon=True),
    ]
    for load in loads:
        load.start()
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield Memory.of(mill)
        is_over.wait(SAMPLE_S)
    is_over.set()
    for load in loads:
        load.join()


def jobs(mill: Mill, texts: Sequence[str], is_over: threading.Event) -> None:
    """Submit job after job."""
    makers = [*(partial(make, JOB_TEXTS) for make in corpus.CORPORA.values()), None]
    for seed in count():
        if is_over.is_set():
            return
        make = makers[seed % len(makers)]
        start = seed // len(makers) * JOB_TEXTS % len(texts)
        job = mill.client.submit(make(seed=seed) if make else texts[start : start + JOB_TEXTS])
        job.result(600)
        job.delete()


def speed(run: Run, mill: Mill, name: str, precision: str) -> list[Figure]:
    """Return texts a second, and what the formula in docs/sizing.md is made of.

    A core's speed is counted in CPU seconds of the children, so that whoever else uses the machine matters little.
    """
    main, *children = pss.tree(mill.worker.pid)
    max_tokens = card(mill).max_tokens
    what = {"question": "sizing", "precision": precision}
    figures = [of_rounds([card(mill).tokens_per_s], name=f"{name}: one core, by its card", unit="tokens/s", **what)]
    for texts_name in CORPORA:
        texts = corpus.CORPORA[texts_name](max(20, run.texts // 5 * (3 if texts_name == "short" else 1)))
        job = mill.client.submit(texts)
        tokens = float(np.minimum(job.result(600).token_counts, max_tokens).sum())
        job.delete()
        rates, speeds, shares = [], [], []
        for _ in range(run.rounds):
            before = sum(map(cpu_s, children)), cpu_s(main) + cpu_s(mill.server.pid) + own_s()
            rates.append(len(texts) / bulk_s(mill.client, texts))
            in_children = sum(map(cpu_s, children)) - before[0]
            elsewhere = cpu_s(main) + cpu_s(mill.server.pid) + own_s() - before[1]
            speeds.append(tokens / in_children)
            shares.append(in_children / (in_children + elsewhere))
        what["corpus"] = texts_name
        figures += [
            of_rounds([tokens / len(texts)], name=f"{name}: tokens a text", unit="tokens", **what),
            of_rounds(speeds, name=f"{name}: one core", unit="tokens/s", **what),
            of_rounds(shares, name=f"{name}: children's share of the CPU time", unit="×", **what),
            of_rounds(rates, name=f"{name}: {CHILDREN} children", unit="texts/s", **what),
        ]
    return figures


def card(mill: Mill) -> ModelCard:
    """Return what the worker says of its model."""
    link = RedisTransport(mill.settings)
    try:
        (found,) = link.run(discovery.look_around(Keyspace(mill.settings.namespace)), timeout_s=30.0).cards.values()
    finally:
        link.close()
    return found
