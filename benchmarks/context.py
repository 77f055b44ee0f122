"""What a run of the benchmarks is about, and the systems of ours that it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from embedmill.errors import EmbedError
from embedmill_worker.cli.local.stack import Mill, temporary_stack
from embedmill_worker.models import ModelFiles, resolve
from embedmill_worker.settings import DEFAULT_MODEL, data_dir

HERE = Path(__file__).parent

#: Padded tokens a run in the ceiling: the best of these is taken.
CEILING_BUDGETS = (384, 512)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the benchmarks."""

    precisions: tuple[str, ...] = ("fp32",)
    #: Of the throughput question; empty: all.
    corpora: tuple[str, ...] = ()
    #: Of the sizing question; empty: all.
    shapes: tuple[str, ...] = ()
    #: Interleaved repeats.
    rounds: int = 3
    #: Texts of a round.
    texts: int = 1000
    #: Interactive requests, idle and under load each.
    requests: int = 500
    #: Of the memory question.
    minutes: float = 1.5
    #: Python of the peers' environment; None: peers are left out.
    peers_python: Path | None = None
    #: What was left out, and why.
    skipped: dict[str, str] = field(default_factory=dict)
    #: Where series go; None: nowhere.
    folder: Path | None = None

    @property
    def cores(self) -> int:
        """Cores that everybody gets."""
        return len(os.sched_getaffinity(0))

    @property
    def files(self) -> ModelFiles:
        """The model of every system, fp32."""
        return resolve(DEFAULT_MODEL, data_dir=data_dir(os.environ))

    def skip(self, what: str, why: str) -> None:
        """Leave something out, and say so."""
        last = why.strip().splitlines()[-1]
        self.skipped[what] = last
        say(f"left out: {what}: {last}")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def open_mill(stack: ExitStack, precision: str, **environment: str) -> Mill:
    """Start a mill that lives as long as the stack."""
    own = {**os.environ, "EMBEDMILL_MODEL": DEFAULT_MODEL, "EMBEDMILL_PRECISION": precision, **environment}
    own.pop("EMBEDMILL_REDIS_URL", None)
    if "EMBEDMILL_CACHE_URL" not in environment:
        own.pop("EMBEDMILL_CACHE_URL", None)
    mill = stack.enter_context(temporary_stack(own))
    mill.client.embed(["warm"] * 64, lane="bulk")
    return mill


def open_mills(stack: ExitStack, run: Run) -> dict[str, Mill]:
    """Start a mill for each precision; one that the worker refuses is noted and left out."""
    mills = {}
    for precision in run.precisions:
        try:
            mills[precision] = open_mill(stack, precision)
        except EmbedError as error:
            run.skip(precision, str(error))
    return mills


def ceiling_s(run: Run, texts: Sequence[str]) -> float:
    """Return the seconds of the raw ONNX Runtime ceiling."""
    files = run.files
    raw = (str(files.graph), str(files.tokenizer), str(files.max_tokens))
    return min(_script("ceiling.py", *raw, str(budget), texts=texts) for budget in CEILING_BUDGETS)


def _script(name: str, *arguments: str, texts: Sequence[str]) -> float:
    done = subprocess.run(
        [sys.executable, str(HERE / name), *arguments],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["seconds"])


def interleave(
    title: str, texts: Sequence[str], rounds: int, ways: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
    """Run every way in turn, several times.

    Args:
        title: shown with the progress.
        texts: what each way embeds once a round.
        rounds: how often.
        ways: give the seconds they took.

    Returns:
        Texts a second of each way, one for each round.
    """
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for done in range(rounds):
        for way, seconds in ways.items():
            rates[way].append(len(texts) / seconds())
            say(f"  {title} {done + 1}/{rounds}  {way:40} {rates[way][-1]:8.1f} texts/s")
    return rates
