"""One text a request, many in flight from one async client, against one job of the same texts, interleaved in one run.

python benchmarks/coalescing.py [--rounds 3] [--texts 2000] [--in-flight 256] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import corpus
import mill
import numpy as np
import redis

from embedmill import AsyncEmbeddingClient


def one_job(running: mill.Mill, texts: list[str]) -> np.ndarray:
    job = running.client.submit(texts)
    vectors = job.result(600).vectors
    job.delete()
    return vectors


def one_by_one(running: mill.Mill, texts: list[str], in_flight: int) -> np.ndarray:
    async def caller(client: AsyncEmbeddingClient, waiting: list[int], rows: list[np.ndarray]) -> None:
        while waiting:
            i = waiting.pop()
            rows[i] = (await client.embed([texts[i]]))[0]

    async def run() -> np.ndarray:
        rows: list[np.ndarray] = [np.zeros(0)] * len(texts)
        waiting = list(range(len(texts)))[::-1]
        async with AsyncEmbeddingClient(running.client.settings.redis_url) as client:
            await client.embed(["warm"])
            await asyncio.gather(*(caller(client, waiting, rows) for _ in range(in_flight)))
        return np.stack(rows)

    return asyncio.run(run())


def scripts_run(server: redis.Redis) -> int:
    """Give the calls of all scripts so far: two a job (submit, delete) and two a chunk (claim, commit)."""
    return int(server.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repeats; medians are printed")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    corpora = {"short": corpus.short(args.texts), "mixed": corpus.mixed(args.texts)}
    report: dict[str, dict[str, float]] = {}
    with mill.running() as running, redis.Redis.from_url(running.client.settings.redis_url) as server:
        ways: dict[str, Callable[[list[str]], np.ndarray]] = {
            "one job": lambda texts: one_job(running, texts),
            "one by one": lambda texts: one_by_one(running, texts, args.in_flight),
        }
        for name, texts in corpora.items():
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(args.rounds):
                results = []
                for way, run in ways.items():
                    scripts, start = scripts_run(server), time.perf_counter()
                    results.append(run(texts))
                    rates[way].append(len(texts) / (time.perf_counter() - start))
                    per_text = (scripts_run(server) - scripts) / len(texts)
                    print(f"  {name} {way:12} {rates[way][-1]:7.1f} texts/s, {per_text:.3f} scripts a text", flush=True)
                assert np.array_equal(*results), "the same text has other bits"
            report[name] = {way: statistics.median(values) for way, values in rates.items()}
            print(f"{name}: one by one ÷ one job = {report[name]['one by one'] / report[name]['one job']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
