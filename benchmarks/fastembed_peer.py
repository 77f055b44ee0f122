"""fastembed on the same graph: batches by count in arrival order. Imports nothing of embedmill.

python benchmarks/fastembed_peer.py FOLDER BATCH_SIZE PARALLEL < texts.json      (PARALLEL 0: threads instead)
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def main() -> None:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder, batch_size, parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    texts = json.load(sys.stdin)
    TextEmbedding.add_custom_model(
        model="bench/minilm",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="bench/minilm"),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding("bench/minilm", specific_model_path=folder, threads=None if not parallel else 1)
    list(model.embed(texts[:16], batch_size=batch_size))
    start = time.perf_counter()
    count = len(list(model.embed(texts, batch_size=batch_size, parallel=parallel or None)))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "texts": count}))


if __name__ == "__main__":
    main()
