"""A stand-in for `/v1/jobs`, `/v1/files` and `/v1/batches` before a gateway that has none of them.

It is for tests of the page alone, and forwards all other requests to the gateway. Jobs are those of the queue; a batch
embeds its lines one after another.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedmill import AsyncEmbeddingClient
from support.gateway import Gateway
from support.servers import free_port

PATIENCE_S = 120.0

_HOP = {"connection", "content-length", "date", "server", "transfer-encoding", "keep-alive"}
_STATES = {"done": "completed"}


class StandIn:
    """The routes, before one gateway."""

    def __init__(self, gateway: Gateway, redis_url: str, namespace: str) -> None:
        self._queue = AsyncEmbeddingClient(redis_url, namespace=namespace)
        self._gateway = httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S)
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            lifespan=self._life,
            routes=[
                Route("/v1/jobs", self._list_jobs),
                Route("/v1/jobs/{id}", self._cancel_job, methods=["DELETE"]),
                Route("/v1/files", self._upload, methods=["POST"]),
                Route("/v1/files/{id}/content", self._content),
                Route("/v1/batches", self._list_batches, methods=["GET"]),
                Route("/v1/batches", self._create_batch, methods=["POST"]),
                Route("/v1/batches/{id}/cancel", self._cancel_batch, methods=["POST"]),
                Route("/{path:path}", self._forward, methods=["GET", "POST"]),
            ],
        )

    @asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncIterator[None]:
        async with self._queue, self._gateway:
            yield

    async def _list_jobs(self, request: Request) -> Response:
        limit = int(request.query_params.get("limit", "20"))
        found = (await self._queue.jobs.list(limit=limit)).jobs
        data = [
            {
                "id": job.job_id,
                "object": "job",
                "status": _STATES.get(job.state, job.state),
                "model": job.model,
                "lane": job.lane,
                "created_at": int(job.submitted_at_s),
                "expires_at": None,
                "texts": {"total": job.n_texts, "done": job.texts_done, "failed": 0},
                "links": {},
            }
            for job in found
        ]
        return JSONResponse(_listed(data, has_more=len(data) == limit))

    async def _cancel_job(self, request: Request) -> Response:
        await self._queue.job(request.path_params["id"]).cancel()
        return JSONResponse({"id": request.path_params["id"], "object": "job", "status": "cancelled"})

    async def _upload(self, request: Request) -> Response:
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part
            for part in BytesParser(policy=HTTP).parsebytes(head + await request.body()).iter_parts()
        }
        file_id = f"file-{len(self._files) + 1:04d}"
        self._files[file_id] = parts["file"].get_payload(decode=True)
        body = {"id": file_id, "object": "file", "filename": parts["file"].get_filename(), "purpose": "batch"}
        return JSONResponse(body | {"bytes": len(self._files[file_id]), "created_at": int(time.time())})

    async def _content(self, request: Request) -> Response:
        return Response(self._files[request.path_params["id"]], media_type="application/jsonl")

    async def _list_batches(self, _request: Request) -> Response:
        return JSONResponse(_listed(list(self._batches.values())[::-1], has_more=False))

    async def _create_batch(self, request: Request) -> Response:
        asked = await request.json()
        batch: dict[str, Any] = {
            "id": f"batch_{len(self._batches) + 1:04d}",
            "object": "batch",
            "status": "validating",
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(time.time()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        } | {name: asked[name] for name in ("input_file_id", "endpoint", "completion_window", "metadata")}
        self._batches[batch["id"]] = batch
        headers = {name: value for name, value in request.headers.items() if name == "authorization"}
        self._tasks[batch["id"]] = asyncio.create_task(self._run(batch, headers))
        return JSONResponse(batch)

    async def _run(self, batch: dict[str, Any], headers: dict[str, str]) -> None:
        lines = self._files[batch["input_file_id"]].splitlines()
        try:
            requests = [json.loads(line) for line in lines]
        except ValueError as error:
            found = {
                "code": "invalid_json_line",
                "message": "This line is not JSON.",
                "line": str(error).count("\n") + 1,
            }
            batch.update(status="failed", errors={"object": "list", "data": [found]})
            return
        batch["status"], counts, output, failed = "in_progress", batch["request_counts"], [], []
        counts["total"] = len(requests)
        for each in requests:
            reply = await self._gateway.post(each["url"], json=each["body"], headers=headers)
            kept = output if reply.is_success else failed
            kept.append(
                {"custom_id": each["custom_id"], "response": {"status_code": reply.status_code, "body": reply.json()}}
            )
            counts["completed" if reply.is_success else "failed"] += 1
        for name, rows in (("output", output), ("error", failed)):
            if rows:
                batch[f"{name}_file_id"] = file_id = f"file-{len(self._files) + 1:04d}"
                self._files[file_id] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        batch["status"] = "completed"

    async def _cancel_batch(self, request: Request) -> Response:
        batch = self._batches[request.path_params["id"]]
        self._tasks[batch["id"]].cancel()
        with suppress(asyncio.CancelledError):
            await self._tasks[batch["id"]]
        batch["status"] = "cancelled"
        return JSONResponse(batch)

    async def _forward(self, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        url = httpx.URL(path=request.url.path, query=request.url.query.encode())
        reply = await self._gateway.request(request.method, url, headers=headers, content=await request.body())
        found = Response(reply.content, status_code=reply.status_code)
        for name, value in reply.headers.items():
            if name not in _HOP:
                found.headers[name] = value
        return found


def _listed(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    ids = [row["id"] for row in data] or [None]
    return {"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


@contextmanager
def stand_in(gateway: Gateway, redis_url: str, namespace: str) -> Iterator[str]:
    """Serve the routes in a thread until the block ends; yields the address."""
    port = free_port()
    made = StandIn(gateway, redis_url, namespace)
    server = uvicorn.Server(
        uvicorn.Config(made.app(), port=port, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while not server.started:
        assert time.monotonic() < deadline_s, "the stand-in does not listen"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
