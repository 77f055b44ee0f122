"""A FastAPI application that embeds through the queue: quick questions at once, long lists as jobs.

pip install embedmill fastapi uvicorn
export EMBEDMILL_REDIS_URL=redis://127.0.0.1:6379/0
uvicorn --app-dir examples fastapi_app:app

curl -i http://127.0.0.1:8000/jobs --json '{"texts": ["Selamat pagi", "good morning"]}'    # 202 and Location
curl http://127.0.0.1:8000/jobs/ID
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from embedmill import (
    AsyncEmbeddingClient,
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


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """One client for the whole process: small calls that come together share jobs."""
    async with AsyncEmbeddingClient() as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


def client_of(request: Request) -> AsyncEmbeddingClient:
    return request.state.client


Client = Annotated[AsyncEmbeddingClient, Depends(client_of)]


class Question(BaseModel):
    text: str = Field(min_length=1)


class Texts(BaseModel):
    texts: list[str] = Field(min_length=1)


@app.post("/vector")
async def embed_at_once(question: Question, client: Client) -> dict[str, Any]:
    (vector,) = await client.embed([question.text], input_type="query", truncate=False, timeout_s=10)
    return {"vector": vector.tolist()}


@app.post("/jobs", status_code=202)
async def submit(body: Texts, client: Client, response: Response) -> dict[str, Any]:
    job = await client.submit(body.texts)
    response.headers["location"] = f"/jobs/{job.id}"
    return {"id": job.id}


@app.get("/jobs/{job_id}")
async def poll(job_id: str, client: Client, response: Response) -> dict[str, Any]:
    job = client.job(job_id)
    status = await job.status()
    found: dict[str, Any] = {"id": job_id, "state": status.state, "done": status.texts_done, "texts": status.n_texts}
    if status.state in ("queued", "running"):
        response.headers["retry-after"] = "1"
        return found
    reply = await job.result()
    rejected = {one.index: one.reason for one in reply.rejected}
    found["vectors"] = [None if i in rejected else row.tolist() for i, row in enumerate(reply.vectors)]
    found["rejected"] = rejected
    return found


@app.delete("/jobs/{job_id}", status_code=204)
async def cancel(job_id: str, client: Client) -> None:
    await client.job(job_id).cancel()


@app.exception_handler(EmbedError)
async def explain(_request: Request, error: EmbedError) -> JSONResponse:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    # What a QueueError says is for the log: it names the queue's address.
    detail = type(error).__name__ if isinstance(error, QueueError) else str(error)
    headers = {}
    if isinstance(error, QueueFullError):
        headers["retry-after"] = str(round((error.retry_after_s or 1) + 0.5))
    return JSONResponse({"detail": detail}, status, headers)
