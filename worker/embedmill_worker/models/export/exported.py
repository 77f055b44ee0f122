"""Graphs exported from safetensors."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from embedmill_worker.models.disk import sha256_of
from embedmill_worker.models.export.bert import EXPORTER, BertConfig
from embedmill_worker.models.export.built import made_graph

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A graph that we made, verified."""

    graph: Path
    #: Who made it, and what it took from `config.json` that the weights do not tell.
    exporter: str
    #: Of the weights that it was made from.
    weights_sha256: str


def exported_graph(weights: Sequence[Path], config: BertConfig, *, data_dir: Path) -> Exported:
    """Returns the graph of a model's safetensors files; makes it if it is not there or damaged.

    Raises:
        ValueError: the weights are damaged or do not fit the config.
        OSError: a file cannot be read or written.
    """
    exporter = f"{EXPORTER} layers={config.layers} heads={config.heads} {config.activation} eps={config.epsilon:g}"
    if config.first_position:
        exporter += f" first={config.first_position}"
    weights_sha256 = sha256_of(*weights)
    key = hashlib.sha256(f"{weights_sha256} {exporter}".encode()).hexdigest()[:32]

    def make(graph: IO[bytes], data: IO[bytes]) -> None:
        from embedmill_worker.models.export.exporter import export  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

        logger.info("exporting %s to ONNX", weights[0].parent, extra={"action": "export_model"})
        export(weights, config, graph, data)

    graph, _ = made_graph(data_dir / "exports" / key, make)
    return Exported(graph=graph, exporter=exporter, weights_sha256=weights_sha256)
