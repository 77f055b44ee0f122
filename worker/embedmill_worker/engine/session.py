"""What runs a graph: the contract of a back end, and ONNX Runtime behind it. Its types go no further than this file."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker import environment

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Names of CPU flags, the widest first, that change which kernels run and so how they round.
INSTRUCTION_SETS: Final = (
    "amx_tile",
    "avx512_bf16",
    "avx512_vnni",
    "avx512f",
    "avx2",
    "avx",
    "i8mm",
    "asimddp",
    "asimd",
)

#: Characters of ONNX Runtime's own words that an error repeats.
_REASON_CHARS: Final = 300


class Session(Protocol):
    """A graph that is loaded, on one thread; a fork inherits all of it."""

    @property
    def runtime(self) -> str:
        """What rounds: the back end's version and the CPU's instruction set."""
        ...

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run one batch.

        Args:
            input_ids: (batch, tokens), padded on the right.
            attention_mask: (batch, tokens), 1 for tokens and 0 for padding.

        Returns:
            (batch, tokens, dimension) or (batch, dimension), as the graph puts out.

        Raises:
            InferenceError: it failed; the message holds nothing of the input.
            MemoryError: there is not enough.
        """
        ...


class OnnxSession:
    """A graph in ONNX Runtime."""

    def __init__(self, graph: Path, *, output: str, model: str) -> None:
        """Load the graph.

        Args:
            graph: the ONNX file; given by path, so that weights kept beside it are mapped and not copied.
            output: the output that is used; empty for the first.
            model: its name, for errors.

        Raises:
            ModelLoadError: it cannot be loaded, or has other inputs or outputs.
        """
        onnxruntime = _onnxruntime()
        self._model = model
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(graph), _options(onnxruntime), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no other common root
            _raise_if_memory(error)
            reason = str(error).splitlines()[0][:_REASON_CHARS]
            raise ModelLoadError(model, f"{graph} is no graph that ONNX Runtime loads ({reason})") from None
        self._inputs = frozenset(node.name for node in self._session.get_inputs())
        if not {"input_ids"} <= self._inputs <= {"input_ids", "attention_mask", "token_type_ids"}:
            names = ", ".join(sorted(self._inputs))
            raise ModelLoadError(model, f"its graph takes {names}; only text encoders can be served")
        outputs = [node.name for node in self._session.get_outputs()]
        if output and output not in outputs:
            raise ModelLoadError(model, f"its graph puts out {', '.join(outputs)}, not {output}")
        self._outputs = [output or outputs[0]]

    @property
    def runtime(self) -> str:
        """See ``runtime``."""
        return runtime()

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run one batch; see ``Session``."""
        feed = {"input_ids": input_ids}
        if "attention_mask" in self._inputs:
            feed["attention_mask"] = attention_mask
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(input_ids)
        try:
            (output,) = self._session.run(self._outputs, feed)
        except Exception as error:  # as above; its words may hold token ids
            _raise_if_memory(error)
            reason = f"ONNX Runtime failed on {input_ids.shape[0]} × {input_ids.shape[1]} tokens"
            raise InferenceError(self._model, f"{reason} ({type(error).__name__})") from None
        return np.asarray(output, dtype=np.float32)


def runtime() -> str:
    """Give what rounds: version of ONNX Runtime and instruction set of the CPU."""
    return f"onnxruntime {_onnxruntime().__version__} {instruction_set()}"


def _onnxruntime() -> Any:
    environment.prepare()
    return importlib.import_module("onnxruntime")  # it has no types; and the environment comes first


def _options(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Patterns are kept for every shape seen, and with many lengths only grow: 21 MB a child, without them 16.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def _raise_if_memory(error: Exception) -> None:
    """Onnxruntime says that memory is short in words only."""
    words = str(error).lower()
    if isinstance(error, MemoryError) or "bad_alloc" in words or "failed to allocate memory" in words:
        raise MemoryError("ONNX Runtime could not allocate memory") from None


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Give the widest of ``INSTRUCTION_SETS``, or the architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine()
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return next((name for name in INSTRUCTION_SETS if name in flags), platform.machine())
