"""The same answer by several frameworks: what a request costs before anything of ours is called.

    uvicorn asgi_apps:bare

Each reads the body, yields once to the event loop, and answers with a vector of 384 numbers as JSON. Imports nothing of
embedmill.
"""

from __future__ import annotations

import asyncio
import json

import fastapi
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

PATH = "/v1/embeddings"
ANSWER = json.dumps({"data": [{"index": 0, "embedding": [round(n / 7, 9) for n in range(384)]}]}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def bare(scope, receive, send):
    """ASGI without a framework."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


async def rsgi(scope, protocol):
    """granian's own interface."""
    if scope.proto == "http":
        await protocol()
        await asyncio.sleep(0)
        protocol.response_bytes(200, [("content-type", "application/json")], ANSWER)


async def _answer(request: fastapi.Request) -> Response:
    await request.body()
    await asyncio.sleep(0)
    return Response(ANSWER, media_type="application/json")


starlette = Starlette(routes=[*(Route(f"/{n}", _answer) for n in range(8)), Route(PATH, _answer, methods=["POST"])])

fast = fastapi.FastAPI()
fast.post(PATH)(_answer)
