"""Graphs that we make ourselves: once, whole, and kept in the data folder."""

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

#: Writes a graph and its weights.
Maker = Callable[[IO[bytes], IO[bytes]], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltGraph:
    """A graph that we made, verified."""

    graph: Path
    #: Who made it, and of what that its weights do not tell.
    exporter: str
    #: Of what names its weights in a fingerprint: those that an export was made from, or those of an int8 graph itself,
    #: which are calibrated on this machine: another kind of CPU may make others.
    weights_sha256: str


def exported_graph(weights: Sequence[Path], config: BertConfig, *, data_dir: Path) -> BuiltGraph:
    """Return the graph of a model's safetensors files; make it if it is not there or damaged.

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
    """Return the int8 graph of an fp32 model; make it if it is not there or damaged.

    Raises:
        ValueError: there is nothing in the graph that could be quantised.
        OSError: a file cannot be read or written.
    """

    def make(graph: IO[bytes], data: IO[bytes]) -> None:
        from embedmill_worker.models.quantization.quantizer import quantize  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

        text = "making int8 of %s, which takes some seconds, once on this machine"
        logger.info(text, files.name, extra={"action": "quantize_model"})
        quantize(files.graph, graph, data)

    key = _key(f"{sha256_of(files.graph)} {files.weights_sha256} {QUANTIZER}")
    graph, sha256 = made_graph(data_dir / "quantized" / key, make)
    exporter = " ".join(filter(None, (QUANTIZER, files.exporter)))
    return BuiltGraph(graph=graph, exporter=exporter, weights_sha256=sha256)


def _key(made_of: str) -> str:
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def made_graph(folder: Path, make: Maker) -> tuple[Path, str]:
    """Return the graph of a folder and the sha256 of it all; make it if it is not there or damaged.

    Several processes may ask at once: one makes it, the others wait.

    Raises:
        ValueError: it cannot be made.
        OSError: a file cannot be read; StorageError if it cannot be written.
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
