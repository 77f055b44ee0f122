"""``session.Session`` with OpenVINO, for bf16 arithmetic on CPUs that have it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from embedmill.errors import ModelLoadError
from embedmill.safe.native import guarded, raise_if_memory
from embedmill_worker.arrays import Floats, Ints
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine.transformer.session import feed, first_line, input_names, pick_output

#: Precision → capability that the CPU must have, and OpenVINO's hint for the precision. Only bf16 is served this way;
#: fp32 is here so that this module can be tested on every CPU.
PRECISIONS: Final = {"bf16": ("BF16", "bf16"), "fp32": ("FP32", "f32")}


class OpenVinoSession:
    """A graph compiled by OpenVINO, with one stream and thread. A fork inherits it, but must not compile again."""

    #: OpenVINO keeps a megabyte of kernels for every number of tokens that it has run. In steps of 16 these are 30 MB
    #: per child, otherwise 200 MB; padding costs 2 %, which fewer new kernels save.
    token_step = 16

    def __init__(self, graph: Path, *, output: str, precision: str, model: str) -> None:
        """Read and compile the graph.

        Args:
            graph: path of the ONNX file.
            output: name of the output to use; empty for the first.
            precision: one of ``PRECISIONS``.
            model: name of the model, for errors.

        Raises:
            ModelLoadError: OpenVINO is not installed or cannot load the graph, or the CPU lacks the precision.
        """
        openvino = _openvino(model)
        self._model = model
        core = openvino.Core()
        capability, _ = PRECISIONS[precision]
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            needs = f"{precision} needs a CPU with AVX512_BF16 or AMX, and this one has {instruction_set()} at most"
            raise ModelLoadError(model, f"{needs}; use EMBEDMILL_PRECISION=int8 or fp32")
        try:
            read = core.read_model(str(graph))
            self._inputs = input_names(model, [node.get_any_name() for node in read.inputs])
            output = pick_output(model, output, [node.get_any_name() for node in read.outputs])
            compiled = core.compile_model(read, "CPU", _properties(precision))
        except RuntimeError as error:
            raise_if_memory(error)
            raise ModelLoadError(
                model, f"{graph} is not a graph that OpenVINO can load ({first_line(error)})"
            ) from None
        self._output = compiled.output(output)
        self._request = compiled.create_infer_request()
        self.runtime: str = runtime(model)

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run one batch; see ``Session``."""
        arrays = feed(self._inputs, input_ids, attention_mask)
        with guarded(self._model, f"OpenVINO failed on {input_ids.shape[0]} × {input_ids.shape[1]} tokens"):
            outputs = self._request.infer(arrays, share_inputs=True, share_outputs=True)
        # Shared with the request: the next run overwrites it, after it has been pooled.
        return np.asarray(outputs[self._output], dtype=np.float32)


def runtime(model: str) -> str:
    """Return what determines rounding: OpenVINO's version and the CPU's instruction set.

    Raises:
        ModelLoadError: OpenVINO is not installed.
    """
    version = _openvino(model).get_version().split("-", maxsplit=1)[0]
    return f"openvino {version} {instruction_set()}"


def _openvino(model: str) -> Any:
    # Importing OpenVINO sends telemetry and leaves an id in the home folder, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails
    try:
        return importlib.import_module("openvino")
    except ImportError:
        hint = "run: pip install 'embedmill[openvino]', or use EMBEDMILL_PRECISION=fp32 or int8"
        raise ModelLoadError(model, f"bf16 needs OpenVINO, which is not installed; {hint}") from None


def _properties(precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision][1],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        # Otherwise all forked children share the core that their parent was pinned to.
        "ENABLE_CPU_PINNING": "NO",
    }
