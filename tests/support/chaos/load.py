"""Producers that keep work in flight in both lanes, as a web app and a reindexer do, and check every vector."""

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from embedmill import AsyncEmbeddingClient, EmbeddingClient
from embedmill.errors import QueueError, ResultExpiredError, ResultTimeoutError

#: Seconds after which a job that is not complete fails the run: far beyond what any fault here may cost, and what a
#: machine that is busy with other things makes of it.
JOB_PATIENCE_S = 900.0

#: Seconds between two tries of a producer whose Redis is away.
RETRY_S = 0.2


@dataclass
class Tally:
    """What producers sent and what came back, shared by their threads."""

    counts: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, **counts: int) -> None:
        """Adds to the counts."""
        with self.lock:
            self.counts.update(counts)

    def fail(self, what: str) -> None:
        """Something that must not happen has happened."""
        with self.lock:
            self.failures.append(what)


@dataclass
class Pool:
    """Texts, and what an undisturbed run made of them."""

    texts: list[str]
    #: float32 (n, dimension).
    vectors: np.ndarray

    def sample(self, rng: random.Random, count: int) -> np.ndarray:
        """Positions of some of them, repeats included."""
        return np.array([rng.randrange(len(self.texts)) for _ in range(count)])

    def of(self, positions: np.ndarray) -> list[str]:
        """The texts there."""
        return [self.texts[i] for i in positions]

    def differing(self, positions: np.ndarray, vectors: np.ndarray) -> int:
        """How many rows are not the undisturbed ones, to the bit."""
        want = np.ascontiguousarray(self.vectors[positions]).view(np.uint32)
        return int((np.ascontiguousarray(vectors).view(np.uint32) != want).any(axis=1).sum())


class Producers:
    """Threads that submit until they are told to stop; each finishes what it has begun."""

    def __init__(self, url: str, namespace: str, model: str, pool: Pool, seed: int, bulk_texts: int) -> None:
        self.tally = Tally()
        self._url, self._namespace, self._model, self._pool = url, namespace, model, pool
        self._bulk_texts = bulk_texts
        self._stopping = threading.Event()
        work = (self._bulk, self._bulk, self._interactive, self._asyncio)
        self._threads = [
            threading.Thread(target=self._guarded, args=(target, random.Random(f"{seed}-{n}")))
            for n, target in enumerate(work)
        ]

    def start(self) -> None:
        """Sends the first jobs."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begins no more, waits for what is under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * JOB_PATIENCE_S)
            if thread.is_alive():
                self.tally.fail("a producer hangs")

    def _guarded(self, target, rng: random.Random) -> None:
        try:
            target(rng)
        except BaseException as error:
            self.tally.fail(f"{target.__name__}: {type(error).__name__}: {error}")

    def _bulk(self, rng: random.Random) -> None:
        with EmbeddingClient(self._url, self._model, namespace=self._namespace) as client:
            while not self._stopping.is_set():
                positions = self._pool.sample(rng, rng.randint(self._bulk_texts // 2, self._bulk_texts))
                reply = self._until_done(client, f"bulk-{rng.getrandbits(64):x}", self._pool.of(positions))
                self._check("bulk", positions, reply.vectors, reply.rejected)

    def _until_done(self, client: EmbeddingClient, job_id: str, texts: list[str]):
        """What a producer does that holds its texts: whatever Redis says, the same job again, under the same id."""
        deadline = time.monotonic() + JOB_PATIENCE_S
        while True:
            try:
                job = client.submit(texts, job_id=job_id, ttl_s=600)
                reply = job.result(max(1.0, deadline - time.monotonic()))
                job.delete()
                return reply
            except ResultTimeoutError:
                raise
            except (QueueError, ResultExpiredError) as error:
                self.tally.note(**{f"again after {type(error).__name__}": 1})
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def _interactive(self, rng: random.Random) -> None:
        with EmbeddingClient(self._url, self._model, namespace=self._namespace) as client:
            while not self._stopping.is_set():
                positions = self._pool.sample(rng, rng.randint(1, 5))
                try:
                    vectors = client.embed(self._pool.of(positions), timeout_s=JOB_PATIENCE_S)
                except QueueError as error:
                    self.tally.note(**{f"again after {type(error).__name__}": 1})
                    time.sleep(RETRY_S)
                    continue
                self._check("interactive", positions, vectors, ())
                time.sleep(rng.uniform(0, 0.05))

    def _asyncio(self, rng: random.Random) -> None:
        asyncio.run(self._many_at_once(rng))

    async def _many_at_once(self, rng: random.Random) -> None:
        async with AsyncEmbeddingClient(self._url, self._model, namespace=self._namespace) as client:

            async def one() -> None:
                while not self._stopping.is_set():
                    positions = self._pool.sample(rng, rng.randint(1, 3))
                    try:
                        vectors = await client.embed(self._pool.of(positions), timeout_s=JOB_PATIENCE_S)
                    except QueueError as error:
                        self.tally.note(**{f"again after {type(error).__name__}": 1})
                        await asyncio.sleep(RETRY_S)
                        continue
                    self._check("asyncio", positions, vectors, ())
                    await asyncio.sleep(rng.uniform(0, 0.3))

            await asyncio.gather(*(one() for _ in range(8)))

    def _check(self, kind: str, positions: np.ndarray, vectors: np.ndarray, rejected) -> None:
        if rejected:
            self.tally.fail(f"{kind}: {len(rejected)} texts rejected, the first as {rejected[0].reason}")
        elif wrong := self._pool.differing(positions, vectors):
            self.tally.fail(f"{kind}: {wrong} of {len(positions)} rows differ from the undisturbed run")
        self.tally.note(**{f"{kind} jobs": 1, f"{kind} texts": len(positions)})
