"""The command line, as a new user runs it."""

from embedmill import EmbeddingClient


def test_smoke(mill):
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        print(client.embed(["a", "b"]).shape, mill.worker.children)
