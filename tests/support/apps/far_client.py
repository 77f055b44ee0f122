"""A program on another host that needs vectors, and asks until it has them: of the queue, or of a gateway beside it.

python far_client.py URL NAMESPACE TEXTS.json VECTORS.npy
python far_client.py GATEWAY_URL "" TEXTS.json VECTORS.npy
"""

import base64
import json
import sys
import time
from pathlib import Path

import httpx
import numpy as np

from embedmill import EmbeddingClient
from embedmill.errors import QueueError, ResultExpiredError, ResultTimeoutError

#: Seconds after which it gives up, and between two tries.
PATIENCE_S, RETRY_S = 300.0, 0.2

#: Texts of one request to a gateway.
REQUEST_TEXTS = 4


def of_queue(url: str, namespace: str, job_id: str, texts: list[str]) -> np.ndarray:
    deadline = time.monotonic() + PATIENCE_S
    with EmbeddingClient(url, "all-MiniLM-L6-v2", namespace=namespace) as client:
        while True:
            try:
                return client.submit(texts, job_id=job_id, ttl_s=3600).result(PATIENCE_S).vectors
            except ResultTimeoutError:
                raise
            except (QueueError, ResultExpiredError) as error:
                sys.stderr.write(f"again after {type(error).__name__}\n")
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)


def of_gateway(url: str, texts: list[str]) -> np.ndarray:
    rows = []
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        for start in range(0, len(texts), REQUEST_TEXTS):
            body = {"input": texts[start : start + REQUEST_TEXTS], "encoding_format": "base64"}
            reply = post(client, body)
            rows += [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in reply["data"]]
    return np.stack(rows)


def post(client: httpx.Client, body: dict) -> dict:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            reply = client.post("/v1/embeddings", json=body)
        except httpx.ConnectError:  # it is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
            continue
        if reply.status_code == 200:
            return reply.json()
        sys.stderr.write(f"again after {reply.status_code}\n")
        if reply.status_code not in (429, 503, 504) or time.monotonic() > deadline:
            raise SystemExit(reply.text)
        time.sleep(RETRY_S)


def main() -> None:
    url, namespace, job_id, source, target = sys.argv[1:]
    texts = json.loads(Path(source).read_text())
    vectors = of_gateway(url, texts) if url.startswith("http") else of_queue(url, namespace, job_id, texts)
    np.save(target, vectors)


if __name__ == "__main__":
    main()
