"""Load for a queue and its measurement, shared by ``embedmill bench`` and the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from embedmill.client import EmbeddingClient, Job
from embedmill.errors import InvalidRequestError
from embedmill.protocol.chunks import unpack_reply
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Flow, RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill_worker.cli.measure import corpus

#: Seconds that one job may take.
PATIENCE_S: Final = 1_800.0

#: Texts of the job that keeps all cores busy: minutes of work, well below the limits of a job and of the server.
SATURATING_TEXTS: Final = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Percentiles of latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the percentiles of values, interpolated linearly.

        Raises:
            ValueError: ``values`` is empty.
        """
        if not values:
            raise ValueError("percentiles need at least one value")
        p50, p95, p99 = np.percentile(np.asarray(values, dtype=np.float64), (50, 95, 99)).tolist()
        return cls(p50=p50, p95=p95, p99=p99)


def bulk_s(client: EmbeddingClient, texts: Sequence[str]) -> float:
    """Run a bulk job; return the seconds from its submission until all its vectors are here.

    Raises:
        EmbedError: the job failed or took too long.
    """
    began_s = time.perf_counter()
    job = client.submit(texts)
    job.result(PATIENCE_S)
    took_s = time.perf_counter() - began_s
    job.delete()
    return took_s


def latencies_ms(client: EmbeddingClient, texts: Sequence[str]) -> list[float]:
    """Send each text as an interactive request, one after the other; return the milliseconds that each took."""
    taken = []
    for text in texts:
        began_s = time.perf_counter()
        client.embed([text])
        taken.append((time.perf_counter() - began_s) * 1000)
    return taken


@contextmanager
def saturating(client: EmbeddingClient, texts: int = SATURATING_TEXTS) -> Iterator[Job]:
    """Keep all cores busy with a bulk job of mixed texts while a block runs.

    Raises:
        InvalidRequestError: the job ended before the block did, so part of the measurement was not under load.
    """
    job = client.submit(corpus.mixed(texts, seed=12))
    try:
        while not job.status().chunks_done:
            time.sleep(0.05)
        yield job
        if job.status().state.is_over:
            reason = f"the bulk job of {texts:,} texts ended before the requests did; send fewer requests"
            raise InvalidRequestError("requests", reason)
    finally:
        job.delete()


def service_times_ms(settings: ClientSettings, job: Job) -> list[float]:
    """Return the milliseconds that workers took to tokenize and embed each finished chunk of a job."""
    link = RedisTransport(settings)
    try:
        return link.run(_service_times(Keyspace(settings.namespace), job.id), timeout_s=60.0)
    finally:
        link.close()


def _service_times(keys: Keyspace, job_id: str) -> Flow[list[float]]:
    (names,) = yield RoundTrip([("HKEYS", keys.replies(job_id))])
    times = []
    for start in range(0, len(names), 64):
        (packed,) = yield RoundTrip([("HMGET", keys.replies(job_id), *names[start : start + 64])])
        replies = [unpack_reply(data).timings_ms for data in packed if data]
        times += [timings.get("tokenization", 0.0) + timings.get("inference", 0.0) for timings in replies]
    return times
