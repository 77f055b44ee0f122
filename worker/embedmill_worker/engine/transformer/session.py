"""Sessions that run a graph: the interface of back ends, and ONNX Runtime, whose types stay inside this file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from embedmill.errors import ModelLoadError
from embedmill.safe.native import guarded, raise_if_memory
from embedmill_worker import onnx_runtime
from embedmill_worker.arrays import Floats, Ints
from embedmill_worker.cpu import instruction_set
from embedmill_worker.models.formats.onnx_graph import KNOWN_INPUTS, TASK_INPUT

#: Types of inputs that are not int64, by ONNX Runtime's name for them.
_INTEGERS: Final = {"tensor(int32)": np.int32}

#: Maximum characters of a back end's message in an error.
_REASON_CHARS: Final = 300


class Session(Protocol):
    """A loaded graph that runs on one thread; a fork inherits it."""

    @property
    def runtime(self) -> str:
        """Back end's version and CPU's instruction set, which determine rounding."""
        ...

    @property
    def token_step(self) -> int:
        """Number whose multiple a run's padded tokens should be."""
        ...

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run one batch.

        Args:
            input_ids: (batch, tokens), padded on the right.
            attention_mask: (batch, tokens), 1 for tokens and 0 for padding.

        Returns:
            (batch, tokens, dimension) or (batch, dimension), as the graph returns it.

        Raises:
            InferenceError: the graph failed; the message holds nothing of the input.
            MemoryError: there is not enough memory.
        """
        ...


class OnnxSession:
    """A graph in ONNX Runtime."""

    #: ONNX Runtime keeps nothing per shape, so runs need no common step.
    token_step = 1

    def __init__(self, graph: Path, *, output: str, model: str) -> None:
        """Load the graph.

        Args:
            graph: path of the ONNX file, so that weights beside it are mapped, not copied.
            output: name of the output to use; empty for the first.
            model: name of the model, for errors.

        Raises:
            ModelLoadError: the graph cannot be loaded, or has unexpected inputs or outputs.
        """
        self._model = model
        try:
            self._session: Any = onnx_runtime.open_graph(graph)
        except Exception as error:  # onnxruntime's errors have no other common base class
            raise_if_memory(error)
            raise ModelLoadError(
                model, f"{graph} is not a graph that ONNX Runtime can load ({first_line(error)})"
            ) from None
        nodes = self._session.get_inputs()
        self._inputs = input_names(model, [node.name for node in nodes], also={TASK_INPUT})
        self._narrow = {node.name: _INTEGERS[node.type] for node in nodes if node.type in _INTEGERS}
        self._task_id: int | None = None
        self._outputs = [pick_output(model, output, [node.name for node in self._session.get_outputs()])]

    @property
    def runtime(self) -> str:
        """See ``runtime``."""
        return runtime()

    def run(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Run one batch; see ``Session``."""
        arrays = feed(self._inputs - {TASK_INPUT}, input_ids, attention_mask)
        if TASK_INPUT in self._inputs:
            arrays[TASK_INPUT] = np.array(self._task_id, dtype=np.int64)
        narrowed = {name: array.astype(self._narrow.get(name, np.int64), copy=False) for name, array in arrays.items()}
        with guarded(self._model, f"ONNX Runtime failed on {input_ids.shape[0]} × {input_ids.shape[1]} tokens"):
            (output,) = self._session.run(self._outputs, narrowed)
        return np.asarray(output, dtype=np.float32)

    def with_task(self, task_id: int) -> OnnxSession:
        """Return the same loaded graph with a value for its input ``task_id``."""
        other = copy.copy(self)
        other._task_id = task_id
        return other


def runtime() -> str:
    """Return what determines rounding: ONNX Runtime's version and the CPU's instruction set."""
    return f"onnxruntime {onnx_runtime.library().__version__} {instruction_set()}"


def first_line(error: Exception) -> str:
    """Return the beginning of a back end's error message."""
    return str(error).strip().splitlines()[0][:_REASON_CHARS] if str(error).strip() else type(error).__name__


def input_names(model: str, names: Iterable[str], also: Set[str] = frozenset()) -> frozenset[str]:
    """Return the names of a graph's inputs.

    Raises:
        ModelLoadError: ``input_ids`` is missing, or an input is neither filled by ``feed`` nor in ``also``.
    """
    found = frozenset(names)
    if not {"input_ids"} <= found <= KNOWN_INPUTS | also:
        raise ModelLoadError(model, f"its graph takes {', '.join(sorted(found))}; only text encoders can be served")
    return found


def pick_output(model: str, wanted: str, names: Sequence[str]) -> str:
    """Return the wanted output of a graph, or the first if none is wanted.

    Raises:
        ModelLoadError: the graph lacks the wanted output.
    """
    if wanted and wanted not in names:
        raise ModelLoadError(model, f"its graph has the outputs {', '.join(names)}, not {wanted}")
    return wanted or names[0]


def feed(inputs: frozenset[str], input_ids: Ints, attention_mask: Ints) -> dict[str, Ints]:
    """Return the arrays for a graph with these inputs, by name."""
    known: dict[str, Callable[[], Ints]] = {
        "input_ids": lambda: input_ids,
        "attention_mask": lambda: attention_mask,
        "token_type_ids": lambda: np.zeros_like(input_ids),
        "position_ids": lambda: np.tile(np.arange(input_ids.shape[1], dtype=np.int64), (len(input_ids), 1)),
    }
    return {name: known[name]() for name in inputs}
