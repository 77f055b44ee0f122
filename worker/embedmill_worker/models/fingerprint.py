"""One short name for everything that changes a model's vectors."""

import hashlib
import json

from embedmill_worker.models.files import ModelFiles

#: Hexadecimal characters kept: 64 bits, enough to tell the models of one deployment apart.
FINGERPRINT_CHARS = 16


def fingerprint(files: ModelFiles) -> str:
    """Returns 16 hexadecimal characters; equal if and only if two models give the same vectors.

    Names and paths do not count: the same files elsewhere have the same fingerprint.
    """
    parts = {
        "weights": files.weights_sha256,
        "tokenizer": files.tokenizer_sha256,
        "output": files.output,
        "pooling": files.pooling.value,
        "normalize": files.normalize,
        "max_tokens": files.max_tokens,
        "prompts": dict(files.prompts),
        "precision": files.precision,
        "back_end": files.back_end.value,
        "exporter": files.exporter,
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_CHARS]
