"""A FastAPI application that calls fastembed in its handlers, as many are written.

    FASTEMBED_FOLDER=… FASTEMBED_THREADS=N uvicorn fastapi_server:app --workers N

One text a request, answered with its vector as a list of numbers. Imports nothing of embedmill.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastembed_peer import load
from pydantic import BaseModel

app = FastAPI()
model = load(os.environ["FASTEMBED_FOLDER"], int(os.environ["FASTEMBED_THREADS"]) or None)


class Request(BaseModel):
    input: str


@app.post("/v1/embeddings")
def embed(request: Request):
    (vector,) = model.embed([request.input])
    return {"data": [{"index": 0, "embedding": vector.tolist()}]}
