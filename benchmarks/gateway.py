"""The gateway under 64 closed-loop clients of one text each, against a FastAPI application that calls fastembed.

python benchmarks/run.py gateway

The application is at the best of several numbers of workers and threads. Then the gateway alone, offered twice and
three times what it serves: what it answers with 429, and how long the others take.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context import HERE, Run, open_mills, say
from figures import Figure, of_rounds, ratios
from peer import SCRIPTS, PeerError, environment, fastembed_folder

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import Percentiles
from embedmill_worker.settings import DEFAULT_MODEL

CLIENTS = 64
CORPORA = ("mixed", "short")

#: Workers and threads of ONNX Runtime each (0: its default) that the application is tried with.
CHOICES = ((1, 0), (1, 1), (2, 1), (2, 2), (4, 1))

#: Texts by which the choice is made.
TUNING_TEXTS = 200

#: Seconds that a server may take to answer for the first time.
PATIENCE_S = 120.0

#: Times what fits that the gateway is offered, and for how many seconds: more than it lets wait.
OVERLOADS = (2, 3)
OVERLOAD_S = 10

THEIRS = "FastAPI with fastembed"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """How one load went."""

    texts_per_s: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    #: CPU time of the server's processes, for each request.
    cpu_ms: float


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers OpenAI's route."""

    port: int
    pid: int

    def load(self, texts: Sequence[str], *, rate: float = 0.0) -> Loaded:
        """Send the texts, by 64 clients in turn or at a rate."""
        before_s = cpu_s(self.pid)
        command = [sys.executable, str(HERE / "http_load.py"), str(self.port), DEFAULT_MODEL, str(CLIENTS), str(rate)]
        done = subprocess.run(command, input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        percentiles = Percentiles.of(found["latencies_ms"])
        return Loaded(
            texts_per_s=len(found["latencies_ms"]) / found["seconds"],
            p50_ms=percentiles.p50,
            p99_ms=percentiles.p99,
            statuses=found["statuses"],
            cpu_ms=(cpu_s(self.pid) - before_s) * 1000 / len(texts),
        )


def ask(run: Run) -> list[Figure]:
    """Return texts a second and percentiles of the gateway, and their ratios to the application's."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        servers = {p: stack.enter_context(gateway(mill)) for p, mill in open_mills(stack, run).items()}
        if run.peers_python:
            try:
                folder = stack.enter_context(fastembed_folder(run.files))
                servers[THEIRS] = stack.enter_context(application(run, folder, *best_choice(run, folder)))
            except PeerError as error:
                run.skip(THEIRS, str(error))
        for name in CORPORA:
            texts = corpus.CORPORA[name](run.texts)
            figures += measure(name, texts, run.rounds, servers)
        for precision, server in servers.items():
            if precision != THEIRS:
                figures += [figure for times in OVERLOADS for figure in overload(precision, server, run, times)]
    return figures


def measure(name: str, texts: Sequence[str], rounds: int, servers: dict[str, Server]) -> list[Figure]:
    """Load all of them in turn, several times."""
    found: dict[str, list[Loaded]] = {server: [] for server in servers}
    for done in range(rounds):
        for title, server in servers.items():
            found[title].append(one := server.load(texts))
            words = f"{one.texts_per_s:7.1f} texts/s, p50 {one.p50_ms:.0f}, p99 {one.p99_ms:.0f} ms"
            say(f"  gateway, {name} {done + 1}/{rounds}  {title:24} {words}, {one.cpu_ms:.2f} ms of CPU a request")
    figures = []
    for title, loads in found.items():
        who = {"question": "gateway", "corpus": name, "precision": "" if title == THEIRS else title}
        prefix = THEIRS if title == THEIRS else "gateway"
        figures += [
            of_rounds([one.texts_per_s for one in loads], name=f"{prefix}, 64 clients", unit="texts/s", **who),
            of_rounds([one.p50_ms for one in loads], name=f"{prefix}, p50", unit="ms", **who),
            of_rounds([one.p99_ms for one in loads], name=f"{prefix}, p99", unit="ms", **who),
        ]
        if title != THEIRS:
            cpu = [one.cpu_ms for one in loads]
            figures.append(of_rounds(cpu, name="gateway, CPU a request", unit="ms", **who))
            if THEIRS in found:
                theirs = found[THEIRS]
                rates = [one.texts_per_s for one in loads], [one.texts_per_s for one in theirs]
                tails = [one.p99_ms for one in loads], [one.p99_ms for one in theirs]
                figures.append(ratios(*rates, name=f"gateway ÷ {THEIRS}", **who))
                figures.append(ratios(*tails, name=f"gateway's p99 ÷ {THEIRS}'s", **who))
    return figures


def overload(precision: str, server: Server, run: Run, times: int) -> list[Figure]:
    """Offer several times what the gateway serves."""
    texts = corpus.short(run.texts)
    rate = times * server.load(texts).texts_per_s
    texts = (texts * math.ceil(rate * OVERLOAD_S / len(texts)))[: round(rate * OVERLOAD_S)]
    loads = [server.load(texts, rate=rate) for _ in range(run.rounds)]
    found = {
        "p99, offered {} times what fits": ("ms", [one.p99_ms for one in loads]),
        "answered with 429, offered {} times what fits": ("%", [share(one, "429") for one in loads]),
        "connections lost, offered {} times what fits": ("%", [share(one, "0") for one in loads]),
    }
    what = {"question": "gateway", "corpus": "short", "precision": precision}
    return [of_rounds(values, name=name.format(times), unit=unit, **what) for name, (unit, values) in found.items()]


def share(one: Loaded, status: str) -> float:
    """Return the percentage of requests that were answered with a status."""
    return 100 * one.statuses.get(status, 0) / sum(one.statuses.values())


def best_choice(run: Run, folder: str) -> tuple[int, int]:
    """Return the application's best number of workers and threads, on short texts."""
    texts = corpus.short(TUNING_TEXTS, seed=11)
    rates = {}
    for workers, threads in CHOICES:
        with application(run, folder, workers, threads) as server:
            rates[workers, threads] = max(server.load(texts).texts_per_s for _ in range(2))
        say(f"  {THEIRS}, {workers} workers, {threads or 'default'} threads: {rates[workers, threads]:.1f} texts/s")
    return max(rates, key=rates.__getitem__)


@contextmanager
def gateway(mill: Mill) -> Iterator[Server]:
    """Run `embedmill serve` in front of a mill."""
    port = free_port()
    command = [sys.executable, "-m", "embedmill_worker.cli", "serve", "--port", str(port), "--grpc-port", "0"]
    settings = mill.settings
    env = os.environ | {
        "EMBEDMILL_REDIS_URL": settings.redis_url,
        "EMBEDMILL_NAMESPACE": settings.namespace,
        "EMBEDMILL_MODEL": DEFAULT_MODEL,
    }
    with running([*command, "--log-level", "WARNING"], env, port) as server:
        yield server


@contextmanager
def application(run: Run, folder: str, workers: int, threads: int) -> Iterator[Server]:
    """Run the FastAPI application."""
    port = free_port()
    options = ["--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    options += ["--no-access-log", "--timeout-worker-healthcheck", "60"]  # busy handlers are not dead ones
    command = [str(run.peers_python), "-m", "uvicorn", "fastapi_server:app", *options]
    env = environment({"FASTEMBED_FOLDER": folder, "FASTEMBED_THREADS": str(threads)})
    with running(command, env, port, cwd=SCRIPTS) as server:
        yield server


@contextmanager
def running(command: Sequence[str], env: dict[str, str], port: int, cwd: Path | None = None) -> Iterator[Server]:
    """Run a server and wait for its first answer."""
    process = subprocess.Popen(command, env=env, cwd=cwd)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise PeerError(f"{' '.join(command[:4])} … did not answer")
            time.sleep(0.1)
        yield Server(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    """Return whether the server on a port embeds."""
    body = json.dumps({"input": "warm", "model": DEFAULT_MODEL}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status == 200
    except OSError:
        return False


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children, their threads included."""
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = [int(child) for thread in process.glob("task/*/children") for child in thread.read_text().split()]
    return own_s + sum(map(cpu_s, children))
