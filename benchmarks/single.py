"""One text a request, many in flight, against one job of them all and the hand-written worker with one text a task.

python benchmarks/run.py single
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from context import Run, interleave, open_mills
from figures import Figure, of_rounds, ratios
from peer import PeerError, fastembed_folder, handwritten

from embedmill import AsyncEmbeddingClient
from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import bulk_s

IN_FLIGHT = 256
CORPORA = ("mixed", "short")
THEIRS = "one text a request, hand-written worker"


def ask(run: Run) -> list[Figure]:
    """Return texts a second of one client, and ours divided by the hand-written one's."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        mills = open_mills(stack, run)
        peer = None
        if run.peers_python:
            try:
                folder = stack.enter_context(fastembed_folder(run.files))
                peer = stack.enter_context(handwritten(run, folder))
            except PeerError as error:
                run.skip(THEIRS, str(error))
        for name in CORPORA:
            texts = corpus.CORPORA[name](run.texts)
            ways: dict[str, Callable[[], float]] = {p: partial(seconds, mill, texts) for p, mill in mills.items()}
            jobs = {f"{p}, one job": partial(bulk_s, mill.client, texts) for p, mill in mills.items()}
            ways |= jobs
            if peer is not None:
                ways[THEIRS] = partial(peer.seconds, texts, texts_per_task=1, in_flight=IN_FLIGHT)
            rates = interleave(f"single, {name}", texts, run.rounds, ways)
            what = {"question": "single", "corpus": name}
            for precision in mills:
                ours = rates[precision]
                figures.append(of_rounds(ours, name="one text a request", precision=precision, unit="texts/s", **what))
                title = "one text a request ÷ one job of them all"
                figures.append(ratios(ours, rates[f"{precision}, one job"], name=title, precision=precision, **what))
                if peer is not None:
                    title = "one text a request ÷ hand-written worker"
                    figures.append(ratios(ours, rates[THEIRS], name=title, precision=precision, **what))
            if peer is not None:
                figures.append(of_rounds(rates[THEIRS], name=THEIRS, unit="texts/s", **what))
    return figures


def seconds(mill: Mill, texts: Sequence[str]) -> float:
    """Return the seconds of one asyncio client that sends text by text, ``IN_FLIGHT`` at a time."""
    return asyncio.run(_seconds(mill, texts))


async def _seconds(mill: Mill, texts: Sequence[str]) -> float:
    settings = mill.settings
    async with AsyncEmbeddingClient(settings.redis_url, settings.model, namespace=settings.namespace) as client:
        await asyncio.gather(*(client.embed(["warm"]) for _ in range(16)))
        waiting = iter(texts)

        async def sender() -> None:
            for text in waiting:
                await client.embed([text])

        began_s = time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - began_s
