"""The embedding cache: a bulk job without it, one that fills it, and one that finds everything there.

python benchmarks/run.py cache --texts 2000
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import redis
from context import Run, interleave, open_mill
from figures import Figure, of_rounds, ratios

from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import bulk_s


def ask(run: Run) -> list[Figure]:
    """Return texts a second of each, and what the cache costs and saves."""
    figures: list[Figure] = []
    for name in run.corpora or ("mixed", "short"):
        texts = corpus.CORPORA[name](run.texts)
        with ExitStack() as stack:
            server = stack.enter_context(cache_server())
            plain = open_mill(stack, "fp32")
            cached = open_mill(stack, "fp32", EMBEDMILL_CACHE_URL=server.url)

            def cold(server: EmbeddedValkey = server, texts: list[str] = texts, mill=cached) -> float:
                with redis.Redis.from_url(server.url) as client:
                    client.flushdb()
                return bulk_s(mill.client, texts)

            ways = {
                "no cache": lambda mill=plain, texts=texts: bulk_s(mill.client, texts),
                "empty cache": cold,
                "full cache": lambda mill=cached, texts=texts: bulk_s(mill.client, texts),
            }
            rates = interleave(name, texts, run.rounds, ways)
        what = {"question": "cache", "corpus": name, "precision": "fp32"}
        figures += [of_rounds(rates[way], name=way, unit="texts/s", **what) for way in ways]
        figures += [ratios(rates[way], rates["no cache"], name=f"{way} ÷ no cache", **what) for way in list(ways)[1:]]
    return figures


@contextmanager
def cache_server() -> Iterator[EmbeddedValkey]:
    """Run a server as a cache wants it."""
    with EmbeddedValkey(persistent=False) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "allkeys-lfu")
        yield server
