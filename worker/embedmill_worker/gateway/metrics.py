"""What Prometheus reads: requests by route, and what waits by lane."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from embedmill.status import QueueStatus

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one process. Labels hold routes, statuses, models and lanes: nothing that callers can invent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("embedmill_requests", "Answered requests", ("route", "status"), registry=self.registry)
        self._seconds = Histogram(
            "embedmill_request_seconds", "Time to the answer", ("route",), buckets=BUCKETS_S, registry=self.registry
        )
        self._refused = Counter("embedmill_refused", "Refused requests", ("route", "reason"), registry=self.registry)
        self._texts = Counter("embedmill_texts", "Texts embedded", ("model", "lane"), registry=self.registry)
        self._tokens = Counter("embedmill_tokens", "Tokens embedded", ("model", "lane"), registry=self.registry)
        lane = ("model", "lane")
        self._queued_texts = Gauge("embedmill_queued_texts", "Texts not yet embedded", lane, registry=self.registry)
        self._queued_tokens = Gauge("embedmill_queued_tokens", "Their tokens, estimated", lane, registry=self.registry)
        self._oldest_s = Gauge(
            "embedmill_oldest_job_seconds", "Age of the oldest unfinished job", lane, registry=self.registry
        )
        self._workers = Gauge("embedmill_workers", "Workers that take work", ("model",), registry=self.registry)
        self._children = Gauge("embedmill_worker_processes", "Processes that embed", ("model",), registry=self.registry)
        self._is_up = Gauge("embedmill_queue_up", "Whether Redis answers", registry=self.registry)
        # Finding a series by its labels takes longer than counting.
        self._count = cache(self._requests.labels)
        self._observe = cache(self._seconds.labels)

    def answered(self, route: str, status: int, took_s: float) -> None:
        """Count a request."""
        self._count(route, str(status)).inc()
        self._observe(route).observe(took_s)

    def refused(self, route: str, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(route, str(reason)).inc()

    def embedded(self, model: str, lane: str, texts: int, tokens: int) -> None:
        """Count texts."""
        self._texts.labels(model, lane).inc(texts)
        self._tokens.labels(model, lane).inc(tokens)

    def page(self, status: QueueStatus | None) -> bytes:
        """Return the text format; ``status`` None: Redis does not answer."""
        self._is_up.set(status is not None)
        lane_gauges = (self._queued_texts, self._queued_tokens, self._oldest_s)
        for gauge in (*lane_gauges, self._workers, self._children):
            gauge.clear()
        for lane in status.lanes if status else ():
            for gauge, value in zip(lane_gauges, (lane.texts, lane.tokens, lane.oldest_age_s), strict=True):
                gauge.labels(lane.model, lane.lane).set(value)
        for worker in status.workers if status else ():
            if worker.is_ready:
                self._workers.labels(worker.model).inc()
                self._children.labels(worker.model).inc(worker.children)
        return generate_latest(self.registry)
