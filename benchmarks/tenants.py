"""Two tenants on one fleet: how long small jobs of the one take beside ten thousand of the other, and alone.

    python benchmarks/run.py tenants

Workers are stand-ins of this process: each claims, sleeps as long as its chunk's tokens take, and commits. So what is
measured is the order, whatever else this machine does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from context import Run, say
from figures import Figure

from embedmill import EmbeddingClient
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import ChunkReply, pack_reply, unpack_chunk
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.vectors import Dtype
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Command, Flow, RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.cli.measure.load import Percentiles
from embedmill_worker.jobs import announcements, claims
from embedmill_worker.jobs.reconciler import Reconciler

#: Children of the whole fleet, jobs of the large tenant, of the small one, and texts of each.
CHILDREN = 4
MANY, FEW, TEXTS = 10_000, 10, 20

#: Seconds that a chunk of ``TEXTS`` texts takes a child.
CHUNK_S = 0.1

MODEL = "standin"
CARD = ModelCard(
    name=MODEL, fingerprint="f", dimension=8, max_tokens=64, chars_per_token=4.0, tokens_per_s=TEXTS * 10 / CHUNK_S
)


def ask(run: Run) -> list[Figure]:
    """Return the 95th percentile of the small tenant's jobs, beside the large one and alone with half of the fleet."""
    alone = measure(CHILDREN // 2, 0)
    beside = measure(CHILDREN, MANY)
    say(f"  tenants: p95 {alone:.3f} s alone with half of the fleet, {beside:.3f} s beside {MANY} jobs")
    what = {"question": "tenants", "low": 0.0, "high": 0.0}
    return [
        Figure(name="small tenant's job p95, alone with half of the fleet", unit="s", value=alone, **what),
        Figure(name=f"small tenant's job p95, beside {MANY} jobs", unit="s", value=beside, **what),
        Figure(name="beside ÷ alone", unit="×", value=beside / alone, bound=1.5, **what),
    ]


def measure(children: int, many: int) -> float:
    """Return the small tenant's 95th percentile in seconds."""
    with EmbeddedValkey(persistent=False) as server:
        settings = ClientSettings(redis_url=server.url, model=MODEL, namespace="tenants")
        link, keys = RedisTransport(settings), Keyspace(settings.namespace)
        link.run(announcements.announce_cards(keys, [CARD]), timeout_s=10)
        link.run(beat(keys, children), timeout_s=10)
        with (
            EmbeddingClient(server.url, MODEL, namespace=settings.namespace, **tenant("many")) as large,
            EmbeddingClient(server.url, MODEL, namespace=settings.namespace, **tenant("few")) as small,
        ):
            texts = ["a text of some words"] * TEXTS
            for _ in range(many):
                large.submit(texts)
            with fleet(settings, children):
                large.submit(texts)  # as whoever has so many goes on
                time.sleep(2 * CHUNK_S)
                taken = []
                for _ in range(FEW):
                    began_s = time.monotonic()
                    small.submit(texts).result(600)
                    taken.append(time.monotonic() - began_s)
        link.close()
    return Percentiles.of(taken).p95


def tenant(name: str) -> dict[str, str]:
    """Return the client's argument; none for a version that knows no tenants."""
    return {"tenant": name} if hasattr(ClientSettings, "tenant") else {}


@contextmanager
def fleet(settings: ClientSettings, children: int) -> Iterator[None]:
    """Run stand-ins for a worker's children, and its reconciler."""
    stopped = threading.Event()
    threads = [threading.Thread(target=serve, args=(settings, stopped), daemon=True) for _ in range(children)]
    threads.append(threading.Thread(target=sweep, args=(settings, children, stopped), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(30)


def beat(keys: Keyspace, children: int) -> Flow[int]:
    """Announce a worker of so many children."""
    told = {"worker_id": "w", "name": "w", "pid": 1, "host": "h", "state": "ready", "models": {MODEL: "f"}}
    return announcements.beat(keys, WorkerInfo(**told, children=children, protocol=PROTOCOL_VERSION))


def sweep(settings: ClientSettings, children: int, stopped: threading.Event) -> None:
    """Beat and sweep as a worker does."""
    link, keys = RedisTransport(settings), Keyspace(settings.namespace)
    reconciler = Reconciler(keys, "w")
    while not stopped.wait(1.0):
        link.run(beat(keys, children), timeout_s=60)
        link.run(reconciler.sweep(), timeout_s=60)
    link.close()


def serve(settings: ClientSettings, stopped: threading.Event) -> None:
    """Answer doorbells of the bulk lane."""
    link, keys = RedisTransport(settings), Keyspace(settings.namespace)
    while not stopped.is_set():
        popped = link.run(one(("BRPOP", keys.queue(MODEL, "bulk"), 1)), timeout_s=10)
        if popped is None:
            continue
        token = popped[1].split(b'"id": "', 1)[1].split(b'"', 1)[0].decode()
        bell = claims.Bell(model=MODEL, lane="bulk", token=token)
        claimant = claims.Claimant(bell=bell, worker_id="w", fingerprint="f")
        claim = link.run(claims.claim(keys, claimant), timeout_s=10)
        while isinstance(claim, claims.Work):
            time.sleep(CHUNK_S)
            both = claims.commit_and_claim(keys, claim.ref, reply_to(claim), (), claimant)
            _, claim = link.run(both, timeout_s=10)
    link.close()


def one(command: Command) -> Flow[Any]:
    """Return the reply to a command that waits."""
    (reply,) = yield RoundTrip([command], block_s=2.0)
    return reply


def reply_to(claim: claims.Work) -> bytes:
    """Return zeros for each text."""
    chunk = unpack_chunk(claim.texts)
    n = len(chunk.texts)
    return pack_reply(
        ChunkReply(
            indices=chunk.indices,
            vectors=np.zeros((n, 8), np.float32).tobytes(),
            dtype=Dtype.FLOAT32,
            dimension=8,
            token_counts=np.ones(n, np.uint32),
            truncated=np.zeros(n, np.bool_),
            rejected=(),
            fingerprint="f",
            runtime="standin",
            timings_ms={},
        )
    )
