"""``embedmill demo``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.protocol.vectors import Vectors
    from embedmill_worker.engine.probing.passages import Passage

QUESTIONS: Final = (
    "how do I catch an error and still clean up",
    "what happens when two variables share a list",
    "make a class callable like a function",
    "repeat something until a condition is false",
)

#: Passages shown for a question.
SHOWN: Final = 3

#: Seconds for reading vectors that are done.
PATIENCE_S: Final = 600.0

_EPILOG: Final = """\
  # embed the Python language reference and ask it questions
  embedmill demo
  # with one process
  embedmill demo --concurrency 1

Server and worker are thrown away afterwards; the model is kept in FOLDER/models for the next run.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "embed real text on this machine: throw-away server and worker, nothing to configure"
    parser = flags.command(commands, "demo", run, help=text, epilog=_EPILOG)
    flags.flag(parser, "--model", "EMBEDMILL_MODEL", "NAME[=FOLDER]", "model; default all-MiniLM-L6-v2")
    flags.flag(parser, "--concurrency", "EMBEDMILL_CONCURRENCY", "N", "processes that embed; default one a usable CPU")
    flags.flag(parser, "--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", "where the model is kept")


def run(args: argparse.Namespace) -> int:
    """Embed the language reference and answer questions from it."""
    from pydoc_data.topics import topics

    from embedmill_worker.cli.commands.models import fetch
    from embedmill_worker.cli.local.stack import temporary_stack
    from embedmill_worker.engine.probing.passages import passages
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    environment.pop("EMBEDMILL_CACHE_URL", None)  # what it finds there it would not have to embed
    settings = WorkerSettings.from_env(environment)
    environment["EMBEDMILL_MODEL"] = str(settings.models[0])
    say(f"preparing {settings.model_names[0]} (fetched once, into {settings.data_dir})")
    fetch(settings.models[0], settings.data_dir.absolute())
    say("starting a server and a worker")
    with temporary_stack(environment) as mill:
        found = passages(topics)
        vectors = report(mill.client, found)
        answer(mill.client, found, vectors)
    return 0


def report(client: EmbeddingClient, found: Sequence[Passage]) -> Vectors:
    """Embed the passages as a bulk job and say how fast that was."""
    from embedmill.status import read_status

    python = ".".join(map(str, sys.version_info[:2]))
    print(f"{len(found):,} passages of the Python {python} language reference", flush=True)
    began_s = time.monotonic()
    job = client.submit([passage.text for passage in found], input_type="passage")
    with progress("embedding", len(found)) as bar:
        done = 0
        for part in job.iter_results():
            done += len(part.indices)
            bar.update(done)
    took_s = time.monotonic() - began_s
    reply = job.result(PATIENCE_S)
    job.delete()
    children = sum(worker.children for worker in read_status(client.settings).workers)
    tokens = int(reply.token_counts.sum())
    print(
        f"embedded in {took_s:.1f} s: {len(found) / took_s:,.0f} texts/s, {tokens / took_s:,.0f} tokens/s "
        f"with {children} process{'es' if children > 1 else ''}"
    )
    rows, dimension = reply.vectors.shape
    print(f"vectors: {reply.vectors.dtype} ({rows}, {dimension}), model {reply.model}, fingerprint {reply.fingerprint}")
    return reply.vectors


def answer(client: EmbeddingClient, found: Sequence[Passage], vectors: Vectors) -> None:
    """Print the passages nearest to each question."""
    import numpy as np

    questions = client.embed(QUESTIONS, input_type="query")
    cosines = questions @ vectors.T  # (questions, passages); rows have length 1
    for question, row in zip(QUESTIONS, cosines, strict=True):
        print(f"\n{question}?")
        for i in np.argsort(-row)[:SHOWN]:
            print(f"  {row[i]:.3f}  {found[i].title}")
            print(f"         {_first_line(found[i].body)}")


def _first_line(body: str, width: int = 100) -> str:
    line = body.split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1].rsplit(" ", 1)[0] + " …"
