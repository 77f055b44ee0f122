"""Models in the precision that EMBEDMILL_PRECISION asks for, if their files have another."""

from dataclasses import replace
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.built import quantized_graph
from embedmill_worker.models.disk import told
from embedmill_worker.models.files import BackEnd, ModelFiles
from embedmill_worker.models.fingerprint import Model


def in_precision(files: Model, precision: str, *, data_dir: Path) -> Model:
    """Return the model in a precision; build its int8 graph if it does not exist yet.

    Args:
        files: the model as it was found; a table of vectors stays as it is, because precision hardly affects it.
        precision: "fp32", "bf16" or "int8"; empty keeps that of the files.
        data_dir: folder that keeps graphs of other precisions.

    Raises:
        ModelLoadError: the files do not allow the precision; the message gives a hint.
    """
    if not isinstance(files, ModelFiles) or precision in ("", files.precision):
        return files
    if precision == "fp32" or files.precision != "fp32":
        raise ModelLoadError(
            files.name,
            f"EMBEDMILL_PRECISION is {precision}, and {files.graph.name} is {files.precision}; "
            f"name a folder with the fp32 model, or unset EMBEDMILL_PRECISION to serve {files.precision}",
        )
    if precision == "bf16":
        return replace(files, precision=precision, back_end=BackEnd.OPENVINO, reference=files)
    with told(files.name):
        try:
            quantized = quantized_graph(files, data_dir=data_dir)
        except ValueError as error:
            raise ModelLoadError(files.name, f"it cannot be quantized to int8 ({error}); use fp32") from error
    return replace(
        files,
        graph=quantized.graph,
        exporter=quantized.exporter,
        weights_sha256=quantized.weights_sha256,
        precision=precision,
        reference=files,
    )
