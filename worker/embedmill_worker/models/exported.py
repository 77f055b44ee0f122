"""Exported graphs, made once and kept in the data folder."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from embedmill_worker.models.bert import BertConfig
from embedmill_worker.models.digest import atomic_file, read_json, sha256_of, write_atomically

#: Part of the fingerprint: to be raised whenever exported graphs may give other vectors.
EXPORTER = "embedmill-bert/1"
#: The file of large weights beside each graph.
DATA_NAME = "model.onnx.data"
#: The graphs' only output, (batch, tokens, hidden).
OUTPUT = "last_hidden_state"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A graph that we made, verified."""

    graph: Path
    #: Who made it, and what it took from `config.json` that the weights do not tell.
    exporter: str
    #: Of the weights that it was made from.
    weights_sha256: str


def exported_graph(weights: Path, config: BertConfig, *, data_dir: Path) -> Exported:
    """Returns the graph of a safetensors file; makes it if it is not there or damaged.

    Several processes may ask at once: one exports, the others wait.

    Raises:
        ValueError: the weights are damaged or do not fit the config.
        OSError: a file cannot be read or written.
    """
    exporter = f"{EXPORTER} layers={config.layers} heads={config.heads} {config.activation} eps={config.epsilon:g}"
    weights_sha256 = sha256_of(weights)
    key = hashlib.sha256(f"{weights_sha256} {exporter}".encode()).hexdigest()[:32]
    folder = data_dir / "exports" / key
    graph, manifest = folder / "model.onnx", folder / "manifest.json"
    if not _is_intact(graph, manifest):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not _is_intact(graph, manifest):
                _export(weights, config, graph, manifest)
    return Exported(graph=graph, exporter=exporter, weights_sha256=weights_sha256)


def _export(weights: Path, config: BertConfig, graph: Path, manifest: Path) -> None:
    from embedmill_worker.models.export import export  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

    logger.info("exporting %s to ONNX", weights, extra={"action": "export_model"})
    manifest.unlink(missing_ok=True)
    with atomic_file(graph) as file, atomic_file(graph.with_name(DATA_NAME)) as data:
        export(weights, config, file, data)
    write_atomically(manifest, json.dumps({"sha256": _digest(graph)}).encode())


def _is_intact(graph: Path, manifest: Path) -> bool:
    try:
        return read_json(manifest).get("sha256") == _digest(graph)
    except (ValueError, OSError):
        return False


def _digest(graph: Path) -> str:
    return sha256_of(graph, graph.with_name(DATA_NAME))
