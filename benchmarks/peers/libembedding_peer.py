"""libembedding-ng on the same graph: a C++ library with an ONNX Runtime of its own (1.20), in arrival order.

    python libembedding_peer.py FOLDER THREADS

Its token limit for a folder is max_position_embeddings of config.json, whatever `max_length` says. It reads weights
beside a graph from the current folder. Request options: batch_size; pool: True takes its TextEmbeddingPool, one
session and thread a core, instead of one session with all threads.
"""

from __future__ import annotations

import os
import sys

import line_server


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    os.chdir(folder)
    from libembedding import TextEmbedding
    from libembedding.pool import TextEmbeddingPool

    model = TextEmbedding(folder, threads=threads, offline=True)
    pools = {}

    def embed(texts, batch_size=256, pool=False):
        if not pool:
            return line_server.timed(lambda: model.embed(texts, batch_size=batch_size))
        if batch_size not in pools:
            pools[batch_size] = TextEmbeddingPool(folder, workers=threads, batch_size=batch_size, offline=True)
        return line_server.timed(lambda: pools[batch_size].embed(texts))

    line_server.serve(embed)


if __name__ == "__main__":
    main()
