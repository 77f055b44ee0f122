"""ONNX Runtime behind a contract of one method."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from embedmill.errors import InferenceError, ModelLoadError


class Session(Protocol):
    """What runs a graph."""

    def run(self, ids: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Give the graph's output for a batch, padded on the right, and the texts' lengths (batch,)."""
        ...


def disable_telemetry() -> None:
    """Keep onnxruntime from reporting to its maker: 1.29 and newer do so by default, from the first import on."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class OnnxSession:
    """One graph in ONNX Runtime: one thread, so that a fork inherits all of it."""

    def __init__(self, graph: Path, *, model: str) -> None:
        """Load the graph.

        Raises:
            ModelLoadError: it cannot be loaded.
        """
        disable_telemetry()
        import onnxruntime as ort  # after the switch above, which acts at import

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Patterns are kept for every shape seen: with many lengths they only grow (measured 16 against 21 MB a child).
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common root but Exception
            reason = str(error).splitlines()[0][:300]
            raise ModelLoadError(model, f"{graph} is not a graph that ONNX Runtime loads ({reason})") from None
        self._model = model
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._output = [self._session.get_outputs()[0].name]
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if "input_ids" not in self._inputs or unknown:
            raise ModelLoadError(
                model, f"its graph wants the inputs {', '.join(self._inputs)}; only text encoders can be served"
            )

    def run(self, ids: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Run one batch.

        Args:
            ids: token ids of each text.

        Returns:
            The first output, float32 (batch, tokens, dimension) or (batch, dimension), and lengths (batch,).

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        tokens, mask = pad(ids, lengths)
        feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        try:
            (output,) = self._session.run(self._output, {name: feed[name] for name in self._inputs})
        except Exception as error:
            if "alloc" in str(error).lower():
                raise MemoryError(f"ONNX Runtime could not allocate memory for {tokens.size} tokens") from None
            raise InferenceError(
                self._model, f"ONNX Runtime failed on {tokens.size} tokens ({type(error).__name__})"
            ) from None
        return np.asarray(output, dtype=np.float32), lengths


def pad(
    ids: Sequence[Sequence[int]], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give ids and mask, int64 (batch, tokens), padded on the right with zeros."""
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    tokens = np.zeros_like(mask)
    tokens[mask.astype(np.bool_)] = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    return tokens, mask


def runtime() -> str:
    """Name what rounds: the version of ONNX Runtime and the widest instruction set of this CPU."""
    from importlib.metadata import version

    return f"onnxruntime {version('onnxruntime')} {instruction_set()}"


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Give the widest instruction set that changes which kernels run, as far as the system tells."""
    try:
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        import platform

        return platform.machine()
    known = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "avx", "asimddp", "asimd")
    return next((name for name in known if f" {name} " in flags + " "), "baseline")
