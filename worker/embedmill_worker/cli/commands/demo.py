"""The command ``embedmill demo``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say
from embedmill_worker.settings import DEFAULT_MODEL

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

#: Number of passages shown for each question.
SHOWN: Final = 3

#: Seconds to wait for vectors that are computed.
PATIENCE_S: Final = 600.0

_EPILOG: Final = """\
  # embed the Python language reference and search it
  embedmill demo
  # the same with one child process
  embedmill demo --concurrency 1

The server and the worker are temporary; the model stays in FOLDER/models for the next run.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "embed and search the Python language reference on this machine, with nothing to configure"
    parser = flags.command(commands, "demo", run, help=text, epilog=_EPILOG)
    worker = parser.add_argument_group("worker")
    text = f"model to embed with (default: {DEFAULT_MODEL})"
    flags.flag(worker, "--model", "EMBEDMILL_MODEL", "NAME[=FOLDER]", text)
    flags.concurrency(worker)
    flags.data_dir(worker)


def run(args: argparse.Namespace) -> int:
    """Embed the language reference and answer questions from it."""
    from pydoc_data.topics import topics

    from embedmill_worker.cli.commands.models import fetch
    from embedmill_worker.cli.local.stack import temporary_stack
    from embedmill_worker.engine.probing.passages import passages
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    environment.pop("EMBEDMILL_CACHE_URL", None)  # texts found in the cache would not be embedded
    settings = WorkerSettings.from_env(environment)
    environment["EMBEDMILL_MODEL"] = str(settings.models[0])
    say(f"preparing the model {settings.model_names[0]}; it is fetched once and kept in {settings.data_dir}")
    fetch(settings.models[0], settings.data_dir.absolute())
    say("starting a temporary server and worker")
    with temporary_stack(environment) as stack:
        found = passages(topics)
        vectors = report(stack.client, found)
        answer(stack.client, found, vectors)
    return 0


def report(client: EmbeddingClient, found: Sequence[Passage]) -> Vectors:
    """Embed the passages as a bulk job, print how fast that was, and return the vectors."""
    from embedmill.status import read_status

    python = ".".join(map(str, sys.version_info[:2]))
    print(f"embedding {len(found):,} passages of the Python {python} language reference", flush=True)
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
        f"with {children} child process{'' if children == 1 else 'es'}"
    )
    rows, dimension = reply.vectors.shape
    print(f"vectors: {reply.vectors.dtype} ({rows}, {dimension}), model {reply.model}, fingerprint {reply.fingerprint}")
    return reply.vectors


def answer(client: EmbeddingClient, found: Sequence[Passage], vectors: Vectors) -> None:
    """Print the passages that are nearest to each question."""
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
