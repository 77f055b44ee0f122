"""What Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families

from embedmill.status import LaneStatus, QueueStatus, WorkerStatus
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.refusals import Kind


def read(metrics, status=None):
    page = metrics.page(status).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def lane(model="m", **changes):
    values = {"model": model, "lane": "bulk", "queue": "q", "chunks": 1, "texts": 2, "tokens": 3, "oldest_age_s": 4.0}
    return LaneStatus(**values | changes)


def worker(model="m", **changes):
    values = {"name": "w", "model": model, "fingerprint": "f", "state": "ready", "pid": 1, "children": 2}
    return WorkerStatus(**values | changes)


def test_requests_and_texts_are_counted():
    metrics = Metrics()
    metrics.answered("/embed", 200, 0.02)
    metrics.answered("/embed", 429, 0.02)
    metrics.refused("/embed", Kind.OVERLOADED)
    metrics.embedded("m", "bulk", 3, 40)
    found = read(metrics)
    assert found["embedmill_requests_total", "/embed", "200"] == 1
    assert found["embedmill_request_seconds_count", "/embed"] == 2
    assert found["embedmill_request_seconds_bucket", "0.025", "/embed"] == 2
    assert found["embedmill_refused_total", "overloaded", "/embed"] == 1
    assert (found["embedmill_texts_total", "bulk", "m"], found["embedmill_tokens_total", "bulk", "m"]) == (3, 40)


def test_the_queue_is_as_it_is_now():
    metrics = Metrics()
    status = QueueStatus(workers=(worker(), worker(name="x"), worker(state="stopping")), lanes=(lane(), lane("n")))
    found = read(metrics, status)
    assert found["embedmill_queue_up",] == 1
    assert (found["embedmill_workers", "m"], found["embedmill_worker_processes", "m"]) == (2, 4)
    assert found["embedmill_queued_texts", "bulk", "m"] == 2
    assert found["embedmill_oldest_job_seconds", "bulk", "n"] == 4
    later = read(metrics, QueueStatus(workers=(worker(),), lanes=(lane(texts=7),)))
    assert later["embedmill_workers", "m"] == 1
    assert later["embedmill_queued_texts", "bulk", "m"] == 7
    assert ("embedmill_queued_texts", "bulk", "n") not in later
    away = read(metrics)
    assert away["embedmill_queue_up",] == 0
    assert not [name for name, *_ in away if name.startswith(("embedmill_queued", "embedmill_worker"))]
