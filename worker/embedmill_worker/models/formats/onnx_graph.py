"""Facts about an ONNX file: its precision, inputs, outputs and external weights."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embedmill_worker.models.disk import keep, read_json

if TYPE_CHECKING:
    import onnx

#: Name of the file with large weights beside each graph that we build.
DATA_NAME = "model.onnx.data"
#: Part of the fingerprint; raise it when quantised graphs may return other vectors.
QUANTIZER = "embedmill-int8/2"

#: Inputs that the engine can fill.
KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
#: Input with the number of the task that vectors are for, in models that have tasks.
TASK_INPUT = "task_id"
#: Usual names of outputs with token vectors, for files that do not state their rank.
_TOKEN_OUTPUTS = frozenset({"last_hidden_state", "token_embeddings", "hidden_states"})
#: Name of the finished vector in sentence-transformers' ONNX exports.
FINISHED_OUTPUT = "sentence_embedding"
#: Operators that quantise activations at run time, which is not batch-invariant.
_DYNAMIC_INT8 = frozenset(
    {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"}
)
_STATIC_INT8 = frozenset({"QLinearMatMul", "QuantizeLinear", "QGemm", "QAttention"})
#: Operators with weights in blocks of a few bits; `bits` defaults to 4.
_BLOCKED = frozenset({"MatMulNBits", "GatherBlockQuantized"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """Facts about an ONNX file, read without its weights."""

    #: "fp32", "fp16", "bf16", "int8" (activations too), "w8", "w4"… (weights only).
    precision: str
    inputs: tuple[str, ...]
    #: Name and rank of each output; rank -1 if the file does not state it.
    outputs: tuple[tuple[str, int], ...]
    #: Files beside the graph that hold its weights, relative to it.
    external: tuple[str, ...]

    @property
    def token_output(self) -> str:
        """First output of (batch, tokens, hidden), to be pooled; empty if none exists."""
        return next((name for name, rank in self.outputs if rank == 3 or (rank < 0 and name in _TOKEN_OUTPUTS)), "")

    @property
    def pooled_output(self) -> str:
        """Output of (batch, dimension), preferably the finished vector; empty if none exists."""
        pooled = [name for name, rank in self.outputs if rank == 2 or (rank < 0 and name == FINISHED_OUTPUT)]
        return FINISHED_OUTPUT if FINISHED_OUTPUT in pooled else next(iter(pooled), "")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse an ONNX file; this takes about a second for 500 MB.

        Raises:
            ValueError: the file is damaged or is not an ONNX model.
        """
        import onnx  # noqa: PLC0415 (half a second, and only for graphs not seen before)
        from google.protobuf.message import DecodeError  # noqa: PLC0415

        try:
            model = onnx.load(path, load_external_data=False)
        except (DecodeError, RecursionError) as error:
            raise ValueError(f"{path.name} is damaged or is not an ONNX model ({error})") from None
        if not model.graph.node:
            raise ValueError(f"{path.name} is damaged or is not an ONNX model (it has no nodes)")
        weights = {tensor.name for tensor in model.graph.initializer}
        return cls(
            precision=_precision(model.graph),
            inputs=tuple(value.name for value in model.graph.input if value.name not in weights),
            outputs=tuple((value.name, _rank(value)) for value in model.graph.output),
            external=tuple(sorted(_external(model))),
        )

    @classmethod
    def cached(cls, path: Path, sha256: str, cache_dir: Path) -> Self:
        """Return the facts as `read` does, cached by the file's digest.

        Raises:
            ValueError: the file is damaged or is not an ONNX model.
        """
        entry = cache_dir / f"{sha256}.json"
        try:
            facts = read_json(entry)
            return cls(
                precision=facts["precision"],
                inputs=tuple(facts["inputs"]),
                outputs=tuple((name, rank) for name, rank in facts["outputs"]),
                external=tuple(facts["external"]),
            )
        except (OSError, KeyError, TypeError, ValueError):
            read = cls.read(path)
        keep(entry, json.dumps(asdict(read)).encode())
        return read


def _rank(value: "onnx.ValueInfoProto") -> int:
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else -1


def _external(model: "onnx.ModelProto") -> set[str]:
    """Return every file that a tensor anywhere in the model names."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    tensors = [*_tensors(model.graph), *(tensor for node in nodes for tensor in _tensors_of(node))]
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


def _tensors(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    """Yield the tensors of a graph, without those of its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _tensors_of(node: "onnx.NodeProto") -> "Iterator[onnx.TensorProto]":
    """Yield the tensors of a node's attributes and of the graphs within it."""
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)
            for inner in graph.node:
                yield from _tensors_of(inner)


def _precision(graph: "onnx.GraphProto") -> str:
    """Return the precision of most of a graph's arithmetic, by its operators or else its weights' dtype."""
    kinds = {node.op_type for node in graph.node}
    if kinds & (_DYNAMIC_INT8 | _STATIC_INT8):
        return "int8"
    if kinds & _BLOCKED:
        bits = {
            attribute.i
            for node in graph.node
            if node.op_type == "MatMulNBits"
            for attribute in node.attribute
            if attribute.name == "bits"
        }
        return f"w{min(bits, default=4)}"
    names = {1: "fp32", 10: "fp16", 16: "bf16", 2: "w8", 3: "w8", 21: "w4", 22: "w4"}
    elements: Counter[str] = Counter()
    for tensor in graph.initializer:
        if tensor.data_type in names:
            elements[names[tensor.data_type]] += math.prod(tensor.dims)
    return elements.most_common(1)[0][0] if elements else "fp32"
