"""sentence-transformers on the same weights, with torch or with its OpenVINO back end. It sorts by length itself.

    python sentence_transformers_peer.py FOLDER BACKEND THREADS KEPT

BACKEND: torch or openvino. THREADS: of torch; OpenVINO takes all cores by default. KEPT: folder in which the graph that
it exports for OpenVINO is kept. OpenVINO computes in bf16 by itself where the CPU has it. Request option: batch_size
(default its own, 32).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import line_server


def main() -> None:
    folder, backend, threads, kept = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    if backend == "openvino":
        if not (kept / "modules.json").exists():
            SentenceTransformer(folder, backend="openvino", device="cpu").save_pretrained(str(kept))
        folder = str(kept)
    model = SentenceTransformer(folder, backend=backend, device="cpu")
    model.max_seq_length = 256

    def embed(texts, batch_size=32):
        options = {"batch_size": batch_size, "normalize_embeddings": True, "show_progress_bar": False}
        return line_server.timed(lambda: model.encode(texts, **options))

    line_server.serve(embed)


if __name__ == "__main__":
    main()
