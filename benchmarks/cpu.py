"""Where the CPU seconds of bulk work go: by process, and within the children by what they were in.

    python benchmarks/run.py cpu

Processes are counted by the kernel (user and system time in /proc/PID/stat). Within children it is py-spy's samples,
200 a second of those on a CPU, sorted by the innermost function of ours on the stack. Not among the questions that
run by default: py-spy needs the right to trace processes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from context import Run, open_mills, say
from figures import Figure

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus, pss
from embedmill_worker.cli.measure.load import bulk_s

CORPORA = ("mixed", "short")
SAMPLES_PER_S = 200

#: Part → where its frames come from; the innermost frame that matches counts.
PARTS = {
    "graph": ("session.py", "openvino_session.py"),
    "pooling and normalization": ("pooling.py",),
    "tokenizer": ("tokenization.py",),
    "planning and padding": ("batching.py",),
    "rest of the engine": ("engine/", "/engine"),
    "codec": ("codec.py", "chunks.py", "vectors.py"),
    "Redis": ("embedmill/transport/", "scripts.py", "reading.py", "claims.py", "redis/"),
    "rest of the task": ("processor.py", "node.py", "celery_app.py"),
}
REST = "Celery and Python"


def ask(run: Run) -> list[Figure]:
    """Return each part's share of all CPU seconds of a bulk job, per cent."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        for precision, mill in open_mills(stack, run).items():
            for name in CORPORA:
                texts = corpus.CORPORA[name](run.texts * (1 if name == "mixed" else 3))
                seconds, parts = measure(run, mill, texts)
                total = sum(parts.values())
                say(f"  cpu, {precision}, {name}: {seconds:.2f} s, {total:.2f} CPU seconds")
                what = {"question": "cpu", "corpus": name, "precision": precision, "unit": "%"}
                for part, spent in parts.items():
                    share = 100 * spent / total
                    figures.append(Figure(name=f"CPU time, {part}", value=share, low=share, high=share, **what))
                idle = 100 * (1 - total / (seconds * run.cores))
                figures.append(Figure(name="cores' time that nobody used", value=idle, low=idle, high=idle, **what))
    return figures


def measure(run: Run, mill: Mill, texts: list[str]) -> tuple[float, dict[str, float]]:
    """Run a bulk job twice, once for the clocks and once under py-spy; gives its seconds and CPU seconds by part."""
    main, *children = pss.tree(mill.worker.pid)
    groups = {"server": [mill.server.pid], "worker's main process": [main], "children": children}
    bulk_s(mill.client, texts[: len(texts) // 4])
    before = {name: sum(map(cpu_s, pids)) for name, pids in groups.items()}
    own = own_s()
    began_s = time.perf_counter()
    bulk_s(mill.client, texts)
    seconds = time.perf_counter() - began_s
    spent = {name: sum(map(cpu_s, pids)) - before[name] for name, pids in groups.items()}
    spent["client"] = own_s() - own
    in_children = spent.pop("children")
    sampled = profile(run, children, lambda: bulk_s(mill.client, texts)) if run.peers_python else {"all": 1}
    count = sum(sampled.values()) or 1
    return seconds, {
        **{f"children: {part}": in_children * n / count for part, n in sampled.items()},
        **dict(sorted(spent.items())),
    }


def profile(run: Run, pids: list[int], work: Callable[[], object]) -> dict[str, int]:
    """Sample processes while something runs; gives samples by part."""
    assert run.peers_python is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(pid) for pid in pids]
        options = ["--rate", str(SAMPLES_PER_S), "--format", "raw", "--nonblocking", "--duration", "600"]
        spies = [
            subprocess.Popen(
                [
                    str(run.peers_python.parent / "py-spy"),
                    "record",
                    "--pid",
                    file.name,
                    "--output",
                    str(file),
                    *options,
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for file in files
        ]
        time.sleep(1.0)
        work()
        for spy in spies:
            spy.send_signal(2)  # as Ctrl-C, at which it writes what it has
            spy.wait(60)
        counts: Counter[str] = Counter()
        for file in files:
            for line in file.read_text().splitlines():
                stack, _, samples = line.rpartition(" ")
                counts[part_of(stack)] += int(samples)
    order = [*PARTS, REST]
    return dict(sorted(counts.items(), key=lambda item: order.index(item[0])))


def part_of(stack: str) -> str:
    """Return the part that a stack belongs to: frames as "function (file:line)", the outermost first."""
    for frame in reversed(stack.split(";")):
        for part, places in PARTS.items():
            if any(place in frame for place in places):
                return part
    return REST


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, children that ended not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
