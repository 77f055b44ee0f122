"""Every question of the benchmarks, as ratios of one run with interleaved repeats: JSON, a Markdown table, a plot.

make bench            all questions; make bench ARGS="throughput --precision fp32,bf16" selects
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import chart
import figures
import machine
from context import HERE, Run, say
from standin import SHAPES

from embedmill_worker.cli.measure.corpus import CORPORA

QUESTIONS = ("engine", "throughput", "single", "latency", "memory", "scaling", "startup")
#: Asked only by name.
MORE = ("cpu", "redis", "tenants", "sizing", "reindex", "documents", "cache", "gateway", "servers", "fleet")
#: Scripts whose names differ: a module `redis` would hide the package.
SCRIPTS = {"redis": "server"}


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        precisions=tuple(args.precision.split(",")),
        corpora=tuple(args.corpora.split(",")) if args.corpora else (),
        shapes=tuple(args.shapes.split(",")) if args.shapes else (),
        rounds=args.rounds,
        texts=args.texts,
        requests=args.requests,
        minutes=args.minutes,
        peers_python=args.peers.absolute() if args.peers else None,
        folder=args.out,
    )
    if run.peers_python is None:
        run.skip("peers", "no environment was named; `make bench` makes one and names it with --peers")
    facts = machine.facts(run.peers_python)
    found: list[figures.Figure] = []
    began_s = time.monotonic()
    for name in args.questions or QUESTIONS:
        say(f"{name} ({time.monotonic() - began_s:.0f} s in)")
        found += importlib.import_module(SCRIPTS.get(name, name)).ask(run)
        # After every question, so that a run that is stopped leaves what it has found.
        write(args.out, found, facts, run.skipped)
    print(figures.table(found))
    say(f"done in {time.monotonic() - began_s:.0f} s; written to {args.out}")


def write(out: Path, found: list[figures.Figure], facts: dict[str, Any], skipped: dict[str, str]) -> None:
    report = figures.report(found, facts, skipped)
    (out / "bench.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    (out / "bench.md").write_text(figures.table(found) + "\n")
    if any(f.question == "throughput" for f in found):
        caption = f"{facts['cpu']}, {facts['cores']} cores; all-MiniLM-L6-v2, at most 256 tokens"
        if {"avx512_bf16", "amx_bf16"} & set(facts["flags"]):
            caption += "; others in fp32 but for OpenVINO, which computes in bf16 on this CPU"
        (out / "speed.svg").write_text(chart.svg(found, caption))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "questions",
        nargs="*",
        metavar="QUESTION",
        help=f"of {', '.join(QUESTIONS)}; only by name: {', '.join(MORE)}",
    )
    parser.add_argument(
        "--precision", default="fp32,bf16,int8", help="comma-separated; one that the worker refuses is left out"
    )
    parser.add_argument("--corpora", help=f"of the throughput question, of {', '.join(CORPORA)}; default all")
    parser.add_argument("--shapes", help=f"of the sizing question, of {', '.join(SHAPES)}; default all")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repeats; medians are given")
    parser.add_argument("--texts", type=int, default=500, help="texts a round")
    parser.add_argument("--requests", type=int, default=500, help="interactive requests, idle and under load each")
    parser.add_argument("--minutes", type=float, default=1.5, help="of load for the memory and sizing questions")
    parser.add_argument("--peers", type=Path, help="Python of an environment with benchmarks/peers.txt")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for bench.json, bench.md, speed.svg")
    args = parser.parse_args()
    if unknown := set(args.questions) - {*QUESTIONS, *MORE}:
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join((*QUESTIONS, *MORE))}")
    if args.corpora and (unknown := set(args.corpora.split(",")) - set(CORPORA)):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(CORPORA)}")
    if args.shapes and (unknown := set(args.shapes.split(",")) - set(SHAPES)):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(SHAPES)}")
    return args


if __name__ == "__main__":
    main()
