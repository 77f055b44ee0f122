"""Graphs that we build ourselves, once and atomically, and keep in the data folder."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from embedmill_worker.models.disk import atomic_file, locked_folder, read_json, sha256_of, storing, write_atomically
from embedmill_worker.models.export.bert import EXPORTER, BertConfig
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.formats.onnx_graph import DATA_NAME, QUANTIZER

#: Function that writes a graph and its weights.
Maker = Callable[[IO[bytes], IO[bytes]], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltGraph:
    """A graph that we built, verified."""

    graph: Path
    #: Exporter or quantizer that built it, and its input apart from the weights.
    exporter: str
    #: sha256 that stands for its weights in a fingerprint: of the weights that were exported, or of an int8 graph
    #: itself, because it is calibrated on this machine and other kinds of CPU may build others.
    weights_sha256: str


def exported_graph(weights: Sequence[Path], config: BertConfig, *, data_dir: Path) -> BuiltGraph:
    """Return the graph of a model's safetensors files; build it if it is missing or damaged.

    Raises:
        ValueError: the weights are damaged or do not fit the config.
        OSError: a file cannot be read or written.
    """
    exporter = f"{EXPORTER} layers={config.layers} heads={config.heads} {config.activation} eps={config.epsilon:g}"
    if config.first_position:
        exporter += f" first={config.first_position}"
    weights_sha256 = sha256_of(*weights)

    def make(graph: IO[bytes], data: IO[bytes]) -> None:
        from embedmill_worker.models.export.exporter import export  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

        logger.info("exporting %s to ONNX", weights[0].parent, extra={"action": "export_model"})
        export(weights, config, graph, data)

    graph, _ = made_graph(data_dir / "exports" / _key(f"{weights_sha256} {exporter}"), make)
    return BuiltGraph(graph=graph, exporter=exporter, weights_sha256=weights_sha256)


def quantized_graph(files: ModelFiles, *, data_dir: Path) -> BuiltGraph:
    """Return the int8 graph of an fp32 model; build it if it is missing or damaged.

    Raises:
        ValueError: the graph has nothing to quantise.
        OSError: a file cannot be read or written.
    """

    def make(graph: IO[bytes], data: IO[bytes]) -> None:
        from embedmill_worker.models.quantization.quantizer import quantize  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

        text = "quantizing %s to int8; this takes some seconds, once per machine"
        logger.info(text, files.name, extra={"action": "quantize_model"})
        quantize(files.graph, graph, data)

    key = _key(f"{sha256_of(files.graph)} {files.weights_sha256} {QUANTIZER}")
    graph, sha256 = made_graph(data_dir / "quantized" / key, make)
    exporter = " ".join(filter(None, (QUANTIZER, files.exporter)))
    return BuiltGraph(graph=graph, exporter=exporter, weights_sha256=sha256)


def _key(made_of: str) -> str:
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def made_graph(folder: Path, make: Maker) -> tuple[Path, str]:
    """Return the graph in a folder, and the sha256 of graph and weights; build it if it is missing or damaged.

    If several processes ask at once, one builds it and the others wait.

    Raises:
        ValueError: the graph cannot be built.
        OSError: a file cannot be read; a StorageError if it cannot be written.
    """
    graph, manifest = folder / "model.onnx", folder / "manifest.json"
    if not _is_intact(graph, manifest):
        with locked_folder(folder):
            if not _is_intact(graph, manifest):
                with storing(manifest):
                    manifest.unlink(missing_ok=True)
                with atomic_file(graph) as file, atomic_file(graph.with_name(DATA_NAME)) as data:
                    make(file, data)
                write_atomically(manifest, json.dumps({"sha256": _digest(graph)}).encode())
    return graph, _digest(graph)


def _is_intact(graph: Path, manifest: Path) -> bool:
    try:
        return read_json(manifest).get("sha256") == _digest(graph)
    except (ValueError, OSError):
        return False


def _digest(graph: Path) -> str:
    return sha256_of(graph, graph.with_name(DATA_NAME))
