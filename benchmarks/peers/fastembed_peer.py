"""fastembed on the same graph: batches by count in arrival order.

    python fastembed_peer.py FOLDER THREADS      THREADS: of ONNX Runtime; 0: fastembed's default

Request options: batch_size (default fastembed's own, 256), parallel (processes; default none: the threads above).
fastembed starts its processes anew for every call, which a long corpus pays once: texts are sent ahead of those that
are measured, and the clock starts when the last of them is done.
"""

from __future__ import annotations

import os
import sys
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import line_server

#: Batches for each process that are sent ahead.
AHEAD_BATCHES = 4


def load(folder: str, threads: int | None):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="bench/model",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="bench/model"),
        dim=384,
        model_file="model.onnx",
    )
    return TextEmbedding("bench/model", specific_model_path=folder, threads=threads)


def main() -> None:
    model = load(sys.argv[1], int(sys.argv[2]) or None)

    def embed(texts, batch_size=256, parallel=None):
        if not parallel:
            return line_server.timed(lambda: list(model.embed(texts, batch_size=batch_size)))
        ahead = (texts * AHEAD_BATCHES)[: AHEAD_BATCHES * batch_size * parallel]
        vectors = []
        for vector in model.embed(ahead + texts, batch_size=batch_size, parallel=parallel):
            vectors.append(vector)
            if len(vectors) == len(ahead):
                start = time.perf_counter()
        return vectors[len(ahead) :], time.perf_counter() - start

    line_server.serve(embed)


if __name__ == "__main__":
    main()
