"""int8 graphs made of fp32 ones."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from embedmill_worker.models.disk import sha256_of
from embedmill_worker.models.export.built import QUANTIZER, made_graph
from embedmill_worker.models.files import ModelFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A graph that we made, verified."""

    graph: Path
    #: Who made it, of whose graph.
    exporter: str
    #: Of the graph and its weights. They are calibrated on this machine: another kind of CPU may make others.
    sha256: str


def quantized_graph(files: ModelFiles, *, data_dir: Path) -> Quantized:
    """Returns the int8 graph of an fp32 model; makes it if it is not there or damaged.

    Raises:
        ValueError: there is nothing in the graph that could be quantised.
        OSError: a file cannot be read or written.
    """
    exporter = " ".join(filter(None, (QUANTIZER, files.exporter)))
    key = hashlib.sha256(f"{sha256_of(files.graph)} {files.weights_sha256} {QUANTIZER}".encode()).hexdigest()[:32]

    def make(graph: IO[bytes], data: IO[bytes]) -> None:
        from embedmill_worker.models.quantization.quantizer import quantize  # noqa: PLC0415 (imports onnx, half a second, once in a model's life)

        logger.info(
            "making int8 of %s, which takes some seconds, once on this machine",
            files.name,
            extra={"action": "quantize_model"},
        )
        quantize(files.graph, graph, data)

    made, sha256 = made_graph(data_dir / "quantized" / key, make)
    return Quantized(graph=made, exporter=exporter, sha256=sha256)
