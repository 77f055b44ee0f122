"""Fingerprint: a short hash of everything that changes a model's vectors."""

import hashlib
import json

from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.formats import fasttext_file, static
from embedmill_worker.models.formats.fasttext_file import FastTextFile
from embedmill_worker.models.formats.static import StaticTable

#: Hexadecimal characters kept: 64 bits, enough to distinguish the models of one deployment.
FINGERPRINT_CHARS = 16

#: A model on this machine's disk.
Model = ModelFiles | StaticTable | FastTextFile


def fingerprint(model: Model) -> str:
    """Return 16 hexadecimal characters, equal if and only if two models return the same vectors.

    Names and paths are not included: the same files elsewhere have the same fingerprint.
    """
    canonical = json.dumps(_parts(model), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_CHARS]


def _parts(model: Model) -> dict[str, object]:
    match model:
        case ModelFiles():
            return _graph_parts(model)
        case StaticTable():
            return _static_parts(model)
        case FastTextFile():
            return {"weights": model.sha256, "max_tokens": fasttext_file.MAX_TOKENS, "back_end": "numpy"}


def _graph_parts(files: ModelFiles) -> dict[str, object]:
    rare = {
        "pools_prompt": files.pools_prompt,
        "layers": [layer.parts for layer in files.layers],
        "task_ids": dict(files.task_ids),
        "padding": [files.fixed_tokens, files.pad_id],
    }
    usual = {"pools_prompt": True, "layers": [], "task_ids": {}, "padding": [0, 0]}
    return {
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
        **{name: value for name, value in rare.items() if value != usual[name]},
    }


def _static_parts(table: StaticTable) -> dict[str, object]:
    return {
        "weights": table.weights_sha256,
        "tokenizer": table.tokenizer_sha256,
        "normalize": table.normalize,
        "unknown_id": table.unknown_id,
        "max_tokens": static.MAX_TOKENS,
        "back_end": "numpy",
    }
