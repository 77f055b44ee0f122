"""End to end through the queue, against the raw ONNX Runtime ceiling and against fastembed, interleaved in one run.

make bench            python benchmarks/run.py [--rounds 3] [--texts 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import corpus
import mill

from embedmill_worker.models import ModelFiles, resolve
from embedmill_worker.settings import DEFAULT_MODEL, data_dir

HERE = Path(__file__).parent
#: Padded tokens a run in the ceiling: the best of these is taken.
CEILING_BUDGETS = (384, 512)


def script(name: str, *args: str, corpus: list[str]) -> float:
    """Run a script of this folder on the texts; gives seconds."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *args],
        input=json.dumps(corpus),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["seconds"])


class PeakMemory(threading.Thread):
    """Samples the worker tree's PSS while something runs."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_mb, self._stop_now = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(1.0):
            self.peak_mb = max(self.peak_mb, mill.tree_pss_mb(self.pid))

    def stop(self) -> float:
        self._stop_now.set()
        self.join()
        return self.peak_mb


def end_to_end(running: mill.Mill, corpus: list[str]) -> float:
    start = time.perf_counter()
    job = running.client.submit(corpus)
    reply = job.result(600)
    seconds = time.perf_counter() - start
    assert len(reply.vectors) == len(corpus)
    assert not reply.rejected
    job.delete()
    return seconds


def measure(
    name: str, corpus: list[str], rounds: int, ways: dict[str, Callable[[list[str]], float]]
) -> dict[str, float]:
    """Run every way in turn, several times; gives the medians, texts a second."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds):
        for way, run in ways.items():
            seconds[way].append(run(corpus))
            print(f"  {name} {i + 1}/{rounds}: {way:22} {len(corpus) / seconds[way][-1]:7.1f} texts/s", flush=True)
    return {way: len(corpus) / statistics.median(values) for way, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repeats; medians are printed")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()

    files = resolve(DEFAULT_MODEL, data_dir=data_dir(os.environ))
    raw = (str(files.graph), str(files.tokenizer), str(files.max_tokens))
    corpora = {"mixed": corpus.mixed(args.texts), "short": corpus.short(args.texts)}
    with peer_folder(files) as folder, mill.running() as running:
        ways: dict[str, Callable[[list[str]], float]] = {
            "embedmill": lambda texts: end_to_end(running, texts),
            "ceiling": lambda texts: min(script("ceiling.py", *raw, str(b), corpus=texts) for b in CEILING_BUDGETS),
            "fastembed threads=2": lambda texts: script("fastembed_peer.py", folder, "16", "0", corpus=texts),
            "fastembed parallel=2": lambda texts: script("fastembed_peer.py", folder, "16", "2", corpus=texts),
        }
        memory = PeakMemory(running.worker_pid)
        memory.start()
        report = {name: measure(name, texts, args.rounds, ways) for name, texts in corpora.items()}
        peak_mb = memory.stop()
    print_table(report)
    print(f"\nworker tree, two children, peak during all of it: {peak_mb:.0f} MB PSS")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"texts_per_s": report, "peak_pss_mb": peak_mb}, indent=2))


def peer_folder(files: ModelFiles) -> tempfile.TemporaryDirectory[str]:
    """Give a folder as fastembed wants one: the same graph and tokenizer, the same limit of tokens."""
    source = Path(files.tokenizer).parent
    folder = tempfile.TemporaryDirectory()
    for path in [*source.iterdir(), *Path(files.graph).parent.iterdir()]:
        target = Path(folder.name) / path.name
        if path.is_file() and not target.exists():
            target.symlink_to(path.resolve())
    for name, content in {
        "config.json": {"pad_token_id": 0},
        "tokenizer_config.json": {"model_max_length": files.max_tokens, "pad_token": "[PAD]"},
        "special_tokens_map.json": {
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "unk_token": "[UNK]",
        },
    }.items():
        target = Path(folder.name) / name
        target.unlink(missing_ok=True)
        target.write_text(json.dumps(content))
    return folder


def print_table(report: dict[str, dict[str, float]]) -> None:
    peers = [way for way in next(iter(report.values())) if way != "embedmill"]
    print("\n| texts | embedmill | " + " | ".join(f"÷ {peer}" for peer in peers) + " |")
    print("| --- |" + " ---: |" * (1 + len(peers)))
    for name, rate in report.items():
        ours = rate["embedmill"]
        print(f"| {name} | {ours:.0f} texts/s | " + " | ".join(f"{ours / rate[peer]:.2f}" for peer in peers) + " |")


if __name__ == "__main__":
    main()
