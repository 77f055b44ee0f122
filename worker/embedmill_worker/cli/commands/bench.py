"""``embedmill bench``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say, table

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.settings import ClientSettings

#: Corpora whose speed is measured.
CORPORA: Final = ("short", "mixed")

#: Interactive requests sent before any is measured.
WARM_UPS: Final = 20

_EPILOG = """\
  # this machine, with a server and a worker of its own unless `embedmill up` runs; takes about a minute on two cores
  embedmill bench
  # another precision, as JSON
  embedmill bench --precision bf16 --json
  # the workers that serve a Redis; their memory is not measured, and their other work counts against them
  embedmill bench --redis-url redis://redis.example:6379/0

Speed is the median of the rounds, from submission until all vectors are here; latency is that of one client which
sends one text after the other, first to idle workers, then beside a bulk job that keeps every core busy.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "measure speed, latency and memory on this machine, or of the workers behind a Redis"
    parser = flags.command(commands, "bench", run, help=text, epilog=_EPILOG)
    redis = "measure the workers that serve this Redis; default those of `embedmill up`, else a worker of its own"
    flags.flag(parser, "--redis-url", "EMBEDMILL_REDIS_URL", "URL", redis)
    flags.flag(parser, "--namespace", "EMBEDMILL_NAMESPACE", "NAME", "prefix of every key and queue; default embedmill")
    flags.flag(parser, "--model", "EMBEDMILL_MODEL", "NAME[=FOLDER]", "model; default all-MiniLM-L6-v2")
    flags.precision(parser)
    flags.flag(parser, "--concurrency", "EMBEDMILL_CONCURRENCY", "N", "processes that embed; default one a usable CPU")
    flags.flag(parser, "--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", "where the model is kept")
    number: dict[str, Any] = {"type": flags.number}
    flags.flag(parser, "--texts", "EMBEDMILL_BENCH_TEXTS", "N", "texts a round; default 1000", default="1000", **number)
    flags.flag(parser, "--rounds", "EMBEDMILL_BENCH_ROUNDS", "N", "rounds; default 3", default="3", **number)
    text = "interactive requests, idle and under load each; default 200"
    flags.flag(parser, "--requests", "EMBEDMILL_BENCH_REQUESTS", "N", text, default="200", **number)
    flags.switch(parser, "--json", "EMBEDMILL_JSON", "write JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, and print what was measured."""
    report = _running(args) if args.redis_url or _is_up(args) else _own(args)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def _is_up(args: argparse.Namespace) -> bool:
    """Return whether there is an ``embedmill up`` to measure; its workers cannot be told how to run."""
    from embedmill.settings import find_up

    found = None if args.precision or args.concurrency else find_up(os.environ)
    if found is not None:
        say(
            f"measuring the `embedmill up` of process {found.pid}; with --concurrency N a worker of its own is measured"
        )
    return found is not None


def _running(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the workers behind a Redis."""
    from embedmill.client import EmbeddingClient
    from embedmill.model_spec import first_model

    with EmbeddingClient(args.redis_url, first_model(args.model or ""), namespace=args.namespace) as client:
        return {**_measure(client, client.settings, args), "memory_mb": None}


def _own(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a server and a worker of our own."""
    from embedmill_worker.cli.commands.models import fetch
    from embedmill_worker.cli.local.stack import temporary_stack
    from embedmill_worker.cli.measure.pss import PeakMemory
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    environment.pop("EMBEDMILL_CACHE_URL", None)  # what it finds there it would not have to embed
    settings = WorkerSettings.from_env(environment)
    environment["EMBEDMILL_MODEL"] = str(settings.models[0])
    fetch(settings.models[0], settings.data_dir.absolute())
    say("starting a server and a worker")
    with temporary_stack(environment) as mill, PeakMemory(mill.worker.pid) as memory:
        report = _measure(mill.client, mill.settings, args)
    return {**report, "memory_mb": round(memory.mb, 1)}


def _measure(client: EmbeddingClient, settings: ClientSettings, args: argparse.Namespace) -> dict[str, Any]:
    """Return what can be measured of any mill."""
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
        say(f"{args.requests} interactive requests, {state}")
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
    """Write the report as tables."""
    print(
        f"{report['model']}, fingerprint {report['fingerprint']}, {report['runtime']}, {report['children']} processes\n"
    )
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
        print(f"\nmemory of the worker's processes: {report['memory_mb']:.0f} MB (PSS, highest)")
