"""A job, and the event of its end, as the routes and webhooks show them. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from embedmill_worker.gateway.jobs.entries import CANCELLED, COMPLETED, SeenJob
from embedmill_worker.gateway.jobs.ids import external_id


def job_object(seen: SeenJob) -> dict[str, Any]:
    """Return a job as the routes and webhooks show it. It holds no text, no URL and no secret."""
    entry = seen.entry
    job_id = external_id(entry.job_id)
    path = f"/v1/jobs/{job_id}"
    shown = {
        "id": job_id,
        "object": "job",
        "status": seen.status,
        "model": entry.model,
        "lane": entry.lane,
        "created_at": entry.created_ms // 1000,
        "expires_at": None if seen.expires_at_s is None else round(seen.expires_at_s),
        "texts": {"total": entry.n_texts, "done": seen.n_done, "failed": entry.n_failed},
        "links": {"self": path, "result": f"{path}/result", "events": f"{path}/events"},
    }
    if entry.url:
        shown["webhook"] = {"status": entry.delivery or "pending", "attempts": entry.attempts}
    return shown


def body_of(seen: SeenJob) -> str:
    """Return the event that reports a job's end, in the form of Standard Webhooks. It is the same at each attempt."""
    names = {COMPLETED: "job.completed", CANCELLED: "job.cancelled"}
    ended_s = (seen.entry.ended_ms or seen.entry.created_ms) / 1000
    data = job_object(seen)
    data.pop("webhook", None)
    event = {
        "type": names.get(seen.status, "job.failed"),
        "timestamp": datetime.fromtimestamp(ended_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }
    return orjson.dumps(event).decode()
