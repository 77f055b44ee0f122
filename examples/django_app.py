"""A Django application in one file that embeds through the queue: quick questions at once, long lists as jobs.

    pip install embedmill django
    export EMBEDMILL_REDIS_URL=redis://127.0.0.1:6379/0
    python examples/django_app.py runserver

    curl -i http://127.0.0.1:8000/jobs --json '{"texts": ["Selamat pagi", "good morning"]}'    # 202 and Location
    curl http://127.0.0.1:8000/jobs/ID

In a project of yours, the client stands in a module of its own, the middleware in MIDDLEWARE, the views in views.py.
"""

import json
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, reverse
from django.views.decorators.http import require_http_methods, require_POST

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

#: Connects on first use, and threads and forked workers may share it: one for the whole process.
client = EmbeddingClient()


class EmbedErrors:
    """Middleware: embedmill's errors as responses."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, _request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, json.JSONDecodeError):
            return JsonResponse({"detail": "the body is not JSON"}, status=400)
        if not isinstance(error, EmbedError):
            return None
        status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
        # What a QueueError says is for the log: it names the queue's address.
        detail = type(error).__name__ if isinstance(error, QueueError) else str(error)
        response = JsonResponse({"detail": detail}, status=status)
        if isinstance(error, QueueFullError):
            response["retry-after"] = str(round((error.retry_after_s or 1) + 0.5))
        return response


@require_POST
def embed_at_once(request: HttpRequest) -> HttpResponse:
    text = json.loads(request.body).get("text")
    if not text:
        return JsonResponse({"detail": "give a text"}, status=400)
    (vector,) = client.embed([text], input_type="query", truncate=False, timeout_s=10)
    return JsonResponse({"vector": vector.tolist()})


@require_POST
def submit(request: HttpRequest) -> HttpResponse:
    texts = json.loads(request.body).get("texts")
    if not texts or not isinstance(texts, list):
        return JsonResponse({"detail": "give a list of texts"}, status=400)
    job = client.submit(texts)
    return JsonResponse({"id": job.id}, status=202, headers={"location": reverse(job_of, args=[job.id])})


@require_http_methods(["GET", "DELETE"])
def job_of(request: HttpRequest, job_id: str) -> HttpResponse:
    job = client.job(job_id)
    if request.method == "DELETE":
        job.cancel()
        return HttpResponse(status=204)
    status = job.status()
    found: dict[str, Any] = {"id": job_id, "state": status.state, "done": status.texts_done, "texts": status.n_texts}
    if status.state in ("queued", "running"):
        return JsonResponse(found, headers={"retry-after": "1"})
    reply = job.result()
    rejected = {one.index: one.reason for one in reply.rejected}
    found["vectors"] = [None if i in rejected else row.tolist() for i, row in enumerate(reply.vectors)]
    found["rejected"] = rejected
    return JsonResponse(found)


urlpatterns = [path("vector", embed_at_once), path("jobs", submit), path("jobs/<str:job_id>", job_of)]

if not settings.configured:
    settings.configure(
        SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_hex(32),
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        ROOT_URLCONF=__name__,
        # A module's path in a project; this file is __main__ under runserver.
        MIDDLEWARE=[f"{__name__}.EmbedErrors"],
    )

#: What gunicorn takes: `gunicorn --chdir examples django_app:application`.
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
