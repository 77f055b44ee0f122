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
import threading
import time
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import mill
import corpus as texts

from embedmill_worker.models import resolve
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
    assert len(reply.vectors) == len(corpus) and not reply.rejected
    job.delete()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repeats; medians are printed")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()

    files = resolve(DEFAULT_MODEL, data_dir=data_dir(os.environ))
    graph, tokenizer, limit = str(files.graph), str(files.tokenizer), str(files.max_tokens)
    corpora = {"mixed": texts.mixed(args.texts), "short": texts.short(args.texts)}
    report: dict[str, dict[str, float]] = {}
    with peer_folder(files) as folder, mill.running() as running:
        memory = PeakMemory(running.worker_pid)
        memory.start()
        for name, corpus in corpora.items():
            seconds: dict[str, list[float]] = {}
            for i in range(args.rounds):

                def note(what: str, value: float) -> None:
                    seconds.setdefault(what, []).append(value)
                    print(f"  {name} round {i + 1}: {what:28} {len(corpus) / value:8.1f} texts/s", flush=True)

                note("embedmill", end_to_end(running, corpus))
                note(
                    "ceiling",
                    min(script("ceiling.py", graph, tokenizer, limit, str(b), corpus=corpus) for b in CEILING_BUDGETS),
                )
                note("embedmill", end_to_end(running, corpus))
                note("fastembed, threads", script("fastembed_peer.py", folder, "16", "0", corpus=corpus))
                note("fastembed, parallel=2", script("fastembed_peer.py", folder, "16", "2", corpus=corpus))
            report[name] = {what: len(corpus) / statistics.median(values) for what, values in seconds.items()}
        peak_mb = memory.stop()
    print_table(report)
    print(f"\nworker tree, two children, peak during all of it: {peak_mb:.0f} MB PSS")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"texts_per_s": report, "peak_pss_mb": peak_mb}, indent=2))


def peer_folder(files: object) -> object:
    """Give a folder as fastembed wants one: the same graph and tokenizer, the same limit of tokens."""
    import tempfile

    source = Path(files.tokenizer).parent  # type: ignore[attr-defined]
    folder = tempfile.TemporaryDirectory()
    for path in [*source.iterdir(), *Path(files.graph).parent.iterdir()]:  # type: ignore[attr-defined]
        target = Path(folder.name) / path.name
        if path.is_file() and not target.exists():
            target.symlink_to(path.resolve())
    for name, content in {
        "config.json": {"pad_token_id": 0},
        "tokenizer_config.json": {"model_max_length": files.max_tokens, "pad_token": "[PAD]"},  # type: ignore[attr-defined]
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
    print(
        "\n| texts | "
        + " | ".join(["embedmill", "÷ ceiling", "÷ fastembed (16, threads)", "÷ fastembed (16, parallel=2)"])
        + " |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rate in report.items():
        ours = rate["embedmill"]
        row = [f"{ours:.0f} texts/s"] + [
            f"{ours / rate[k]:.2f}" for k in ("ceiling", "fastembed, threads", "fastembed, parallel=2")
        ]
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
