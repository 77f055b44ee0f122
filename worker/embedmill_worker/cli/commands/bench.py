"""The command ``embedmill bench``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say, table
from embedmill_worker.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.settings import ClientSettings

#: Names of the corpora whose speed is measured.
CORPORA: Final = ("short", "mixed")

#: Number of texts, and of interactive requests, that are sent before anything is measured.
WARM_UPS: Final = 20

_EPILOG = """\
  # measure a running `embedmill up`, else a temporary server and worker; takes about a minute on two cores
  embedmill bench
  # measure another precision, and print JSON
  embedmill bench --precision bf16 --json
  # measure the workers of a Redis: without their memory, and slower if they have other work to do
  embedmill bench --redis-url redis://redis.example:6379/0

Speed is the median of the rounds, each from the submission of a job until all its vectors are here. Latency is that of
one client that sends one text after the other, first to idle workers, then beside a bulk job that keeps all cores busy.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "measure speed, latency and memory on this machine, or of the workers of a Redis"
    parser = flags.command(commands, "bench", run, help=text, epilog=_EPILOG)
    queue = parser.add_argument_group("queue")
    flags.redis_url(queue, "that of a running `embedmill up`, else a temporary server and worker")
    flags.namespace(queue)
    worker = parser.add_argument_group("worker")
    text = f"model to measure (default: {DEFAULT_MODEL}, or the only one that workers announce)"
    flags.flag(worker, "--model", "EMBEDMILL_MODEL", "NAME[=FOLDER]", text)
    flags.precision(worker)
    flags.concurrency(worker)
    flags.data_dir(worker)
    load = parser.add_argument_group("load")
    number: dict[str, Any] = {"type": flags.number}
    text = "texts in each round (default: 1000)"
    flags.flag(load, "--texts", "EMBEDMILL_BENCH_TEXTS", "N", text, default="1000", **number)
    text = "rounds, whose median speed is shown (default: 3)"
    flags.flag(load, "--rounds", "EMBEDMILL_BENCH_ROUNDS", "N", text, default="3", **number)
    text = "interactive requests to idle workers, and as many to busy ones (default: 200)"
    flags.flag(load, "--requests", "EMBEDMILL_BENCH_REQUESTS", "N", text, default="200", **number)
    flags.json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print a report."""
    report = _running(args) if args.redis_url or _is_up(args) else _own(args)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def _is_up(args: argparse.Namespace) -> bool:
    """Return whether to measure a running ``embedmill up``, whose precision and concurrency cannot be changed."""
    from embedmill.settings import find_up

    found = None if args.precision or args.concurrency else find_up(os.environ)
    if found is not None:
        say(
            f"measuring the worker of `embedmill up` (process {found.pid}); "
            "give --concurrency N to measure a temporary worker instead"
        )
    return found is not None


def _running(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the workers of a Redis."""
    from embedmill.client import EmbeddingClient
    from embedmill.model_spec import first_model

    with EmbeddingClient(args.redis_url, first_model(args.model or ""), namespace=args.namespace) as client:
        return {**_measure(client, client.settings, args), "memory_mb": None}


def _own(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a temporary server and worker."""
    from embedmill_worker.cli.commands.models import fetch
    from embedmill_worker.cli.local.stack import temporary_stack
    from embedmill_worker.cli.measure.pss import PeakMemory
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    environment.pop("EMBEDMILL_CACHE_URL", None)  # texts found in the cache would not be embedded
    settings = WorkerSettings.from_env(environment)
    environment["EMBEDMILL_MODEL"] = str(settings.models[0])
    fetch(settings.models[0], settings.data_dir.absolute())
    say("starting a temporary server and worker")
    with temporary_stack(environment) as stack, PeakMemory(stack.worker.pid) as memory:
        report = _measure(stack.client, stack.settings, args)
    return {**report, "memory_mb": round(memory.mb, 1)}


def _measure(client: EmbeddingClient, settings: ClientSettings, args: argparse.Namespace) -> dict[str, Any]:
    """Return what can be measured of any queue and its workers."""
    from dataclasses import asdict
    from statistics import median

    from embedmill.status import read_status
    from embedmill_worker.cli.measure import corpus
    from embedmill_worker.cli.measure.load import Percentiles, bulk_s, latencies_ms, saturating

    speed = {}
    warm_up = client.submit(corpus.short(WARM_UPS))
    reply = warm_up.result(60.0)
    warm_up.delete()
    for name in CORPORA:
        texts = corpus.CORPORA[name](args.texts)
        with progress(f"{name} texts", args.rounds, unit="rounds") as bar:
            rates = []
            for done in range(args.rounds):
                rates.append(len(texts) / bulk_s(client, texts))
                bar.update(done + 1)
        speed[name] = {"median": round(median(rates), 1), "min": round(min(rates), 1), "max": round(max(rates), 1)}
    latency = {}
    requests = corpus.short(args.requests, seed=13)
    latencies_ms(client, requests[:WARM_UPS])
    for state, load in (("idle", nullcontext()), ("busy", saturating(client))):
        say(f"sending {args.requests:,} interactive requests to {state} workers")
        with load:
            percentiles = Percentiles.of(latencies_ms(client, requests))
        latency[state] = {name: round(value, 2) for name, value in asdict(percentiles).items()}
    workers = [w for w in read_status(settings).workers if w.model == reply.model]
    return {
        "model": reply.model,
        "fingerprint": reply.fingerprint,
        "runtime": reply.runtime,
        "children": sum(w.children for w in workers),
        "texts": args.texts,
        "texts_per_s": speed,
        "requests": args.requests,
        "latency_ms": latency,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    children = f"{report['children']} child process{'' if report['children'] == 1 else 'es'}"
    print(f"model {report['model']}, fingerprint {report['fingerprint']}, {report['runtime']}, {children}\n")
    speeds: Sequence[Sequence[Any]] = [
        (name, row["median"], row["min"], row["max"]) for name, row in report["texts_per_s"].items()
    ]
    table(("texts/s", "median", "lowest", "highest"), speeds)
    print()
    table(
        ("latency, ms", "p50", "p95", "p99"),
        [(state, row["p50"], row["p95"], row["p99"]) for state, row in report["latency_ms"].items()],
    )
    if report["memory_mb"] is not None:
        print(f"\npeak memory of the worker and its child processes: {report['memory_mb']:,.0f} MB (PSS)")
