"""A Flask application that embeds through the queue: quick questions at once, long lists as jobs.

pip install embedmill flask
export EMBEDMILL_REDIS_URL=redis://127.0.0.1:6379/0
flask --app examples/flask_app.py run

curl -i http://127.0.0.1:5000/jobs --json '{"texts": ["Selamat pagi", "good morning"]}'    # 202 and Location
curl http://127.0.0.1:5000/jobs/ID
"""

import atexit
from typing import Any

from flask import Flask, Response, jsonify, request, url_for

from embedmill import (
    EmbeddingClient,
    EmbedError,
    JobCancelledError,
    QueueError,
    QueueFullError,
    RequestError,
    ResultExpiredError,
    ResultTimeoutError,
    TextsRejectedError,
)

#: The first one that fits counts; everything else is a 500.
STATUSES: list[tuple[type[EmbedError], int]] = [
    (QueueFullError, 429),
    (QueueError, 503),
    (RequestError, 400),
    (TextsRejectedError, 422),
    (ResultExpiredError, 404),
    (JobCancelledError, 410),
    (ResultTimeoutError, 504),
]


def create_app() -> Flask:
    app = Flask(__name__)
    # Connects on first use, and threads and forked workers may share it: one for the whole process.
    client = EmbeddingClient()
    atexit.register(client.close)

    @app.post("/vector")
    def embed_at_once() -> Any:
        text = request.get_json().get("text")
        if not text:
            return {"detail": "give a text"}, 400
        (vector,) = client.embed([text], input_type="query", truncate=False, timeout_s=10)
        return {"vector": vector.tolist()}

    @app.post("/jobs")
    def submit() -> Any:
        texts = request.get_json().get("texts")
        if not texts or not isinstance(texts, list):
            return {"detail": "give a list of texts"}, 400
        job = client.submit(texts)
        return {"id": job.id}, 202, {"location": url_for("poll", job_id=job.id)}

    @app.get("/jobs/<job_id>")
    def poll(job_id: str) -> Any:
        job = client.job(job_id)
        status = job.status()
        found: dict[str, Any] = {
            "id": job_id,
            "state": status.state,
            "done": status.texts_done,
            "texts": status.n_texts,
        }
        if status.state in ("queued", "running"):
            return found, {"retry-after": "1"}
        reply = job.result()
        rejected = {one.index: one.reason for one in reply.rejected}
        found["vectors"] = [None if i in rejected else row.tolist() for i, row in enumerate(reply.vectors)]
        found["rejected"] = rejected
        return found

    @app.delete("/jobs/<job_id>")
    def cancel(job_id: str) -> Any:
        client.job(job_id).cancel()
        return "", 204

    app.register_error_handler(EmbedError, explain)
    return app


def explain(error: EmbedError) -> Response:
    # What a QueueError says is for the log: it names the queue's address.
    response = jsonify(detail=type(error).__name__ if isinstance(error, QueueError) else str(error))
    response.status_code = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, QueueFullError):
        response.headers["retry-after"] = str(round((error.retry_after_s or 1) + 0.5))
    return response
