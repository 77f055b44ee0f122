"""Index of an ONNX graph for quantising: which nodes use which values, and how large these become."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from embedmill_worker.arrays import Floats
from embedmill_worker.onnx_runtime import open_graph

#: Lengths of the random samples for calibration, and the number of samples of each length.
_LENGTHS = (8, 16, 32, 64, 128)
_REPEATS = 8
#: Maximum bytes of a graph that is passed on as protobuf.
_MOST_BYTES = 2**31 - 1

_GELUS = frozenset({"Gelu", "FastGelu"})
#: Operators whose output is rows if all their inputs are rows or weights.
_ROW_WISE = _GELUS | {"MatMul", "Gemm", "Add", "LayerNormalization"}


class GraphIndex:
    """Index of a graph by the names of its values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        self._producers: dict[str, NodeProto] = {}
        #: Values that are known to be (rows, channels).
        self.rows: set[str] = set()
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
            for name in node.output:
                self._producers[name] = node
            if self._gives_rows(node):
                self.rows.add(node.output[0])
        for value in graph.output:
            self.consumers[value.name].append(NodeProto())  # stands for the caller, who uses the output

    def is_dense(self, node: NodeProto) -> bool:
        """Return whether a node is a product with constant float32 weights, (inputs, outputs)."""
        if node.op_type != "MatMul" or node.input[0] in self.weights:
            return False
        weight = self.weights.get(node.input[1])
        return weight is not None and len(weight.dims) == 2 and weight.data_type == onnx.TensorProto.FLOAT

    def is_attention(self, node: NodeProto) -> bool:
        """Return whether a node is the exporter's attention: from rows to rows, with the texts' lengths as mask."""
        if node.op_type != "Attention" or len(node.input) != 4 or {a.name for a in node.attribute} != {"num_heads"}:
            return False
        counter, before, behind = (
            self._producers.get(node.input[3]),
            self._producers.get(node.input[0]),
            self._only_consumer(node.output[0]),
        )
        if counter is None or before is None or behind is None or counter.op_type != "EmbedLayerNormalization":
            return False
        is_between = self.unfolds_rows(before) and behind.output[0] in self.rows
        projection = self._only_consumer(behind.output[0])
        return is_between and projection is not None and self.is_dense(projection)

    def unfolds_rows(self, node: NodeProto) -> bool:
        """Return whether a node is a Reshape of rows with a single consumer."""
        is_reshape = node.op_type == "Reshape" and node.input[0] in self.rows
        return is_reshape and len(self.consumers[node.output[0]]) == 1

    def is_feed_forward(self, node: NodeProto) -> bool:
        """Return whether a node is the first of the exporter's two dense layers around a GELU, used by nothing else."""
        if node.op_type != "Gemm" or node.attribute or node.input[0] not in self.rows:
            return False
        gelu = self._only_consumer(node.output[0])
        if gelu is None or gelu.op_type not in _GELUS or len(gelu.input) != 1:
            return False
        last = self._only_consumer(gelu.output[0])
        is_constant = len(node.input) == 3 and {*node.input[1:]} <= self.weights.keys()
        return is_constant and last is not None and self.is_dense(last)

    def _only_consumer(self, name: str) -> NodeProto | None:
        return self.consumers[name][0] if len(self.consumers[name]) == 1 else None

    def _gives_rows(self, node: NodeProto) -> bool:
        if node.op_type == "Reshape":
            shape = self.weights.get(node.input[1])
            return shape is not None and list(shape.dims) == [2]
        if node.op_type not in _ROW_WISE or self.rows.isdisjoint(node.input):
            return False
        others = [name for name in node.input if name not in self.rows]
        return all(name in self.weights and len(self.weights[name].dims) <= 2 for name in others)


def array_of(tensor: TensorProto, folder: Path) -> npt.NDArray[Any]:
    """Return a weight; one in a file beside the graph is mapped, so that it takes no extra memory.

    Args:
        tensor: an initializer.
        folder: folder of the graph.

    Raises:
        ValueError: the weight is in a file outside the folder, or its file is too short.
        OSError: the file cannot be read.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place = (folder / entries["location"]).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ValueError(f"weight {tensor.name} lies outside the folder of its graph; copy it there")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    if not all(tensor.dims):
        return np.empty(tuple(tensor.dims), dtype=dtype)
    return np.memmap(place, dtype=dtype, mode="r", offset=int(entries.get("offset", 0)), shape=tuple(tensor.dims))


def random_samples(vocabulary: int, *, max_tokens: int) -> list[list[int]]:
    """Return texts of random tokens, the same every time; they show a model's outliers as well as prose does.

    Args:
        vocabulary: number of token ids.
        max_tokens: maximum tokens of a text.

    Returns:
        Token ids of 40 texts of 8 to 128 tokens.
    """
    rng = np.random.default_rng(0)
    lengths = [min(length, max_tokens) for length in _LENGTHS] * _REPEATS
    return [rng.integers(0, vocabulary, length).tolist() for length in lengths]


def samples_of(graph: onnx.GraphProto) -> list[list[int]]:
    """Return random samples that fit a graph's table of words, and of positions if the graph is fused.

    Raises:
        ValueError: the graph has no such table.
    """
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type == "EmbedLayerNormalization" and node.input[0] in ids and {*node.input[2:4]} <= rows.keys():
            return random_samples(rows[node.input[2]], max_tokens=rows[node.input[3]])
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in rows:
            return random_samples(rows[node.input[0]], max_tokens=max(_LENGTHS))
    raise ValueError("the graph has no table of words that input_ids select from; pass samples of token ids")


def largest_values(
    model: onnx.ModelProto, folder: Path, names: Iterable[str], samples: Sequence[Sequence[int]]
) -> dict[str, Floats]:
    """Run samples one by one; return the largest absolute value of each channel (last axis) of inner values.

    It takes about 2 s for MiniLM and 40 samples, and three times the memory of the graph, without mapped weights.

    Args:
        model: a text encoder.
        folder: folder of the external weights.
        names: float32 values of the graph, of any shape (…, channels).
        samples: token ids, special tokens included.

    Returns:
        Largest values, (channels,), by name.

    Raises:
        ValueError: the graph is too large, or ONNX Runtime cannot run it.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = sorted(set(names))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    if probe.ByteSize() > _MOST_BYTES:
        raise ValueError(f"the graph has {probe.ByteSize()} bytes, limit {_MOST_BYTES} for calibration")
    try:
        session = open_graph(probe.SerializeToString(), weights_folder=folder)
        inputs = [node.name for node in session.get_inputs()]
        largest: dict[str, Floats] = {}
        for sample in samples:
            ids = np.array([sample], dtype=np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            for name, value in zip(wanted, session.run(wanted, {key: feed[key] for key in inputs}), strict=True):
                seen = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
                largest[name] = np.maximum(largest.get(name, seen), seen)
    except Exception as error:  # onnxruntime's errors have no other common base class; their messages may hold ids
        raise ValueError(f"ONNX Runtime cannot run the graph for calibration ({type(error).__name__})") from None
    return largest
