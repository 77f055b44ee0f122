"""Batch-invariant quantization of an fp32 text encoder to int8, for ONNX Runtime; see docs/decisions/0006."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import NodeProto, helper, version_converter

from embedmill_worker.arrays import Floats
from embedmill_worker.models.export.onnx_writer import FUSED, OnnxWriter
from embedmill_worker.models.formats.onnx_graph import QUANTIZER, GraphFacts
from embedmill_worker.models.quantization.graph_index import GraphIndex, array_of, largest_values, samples_of
from embedmill_worker.models.quantization.int8_linear import gelu_linear, linear, migration

#: First opset whose QuantizeLinear supports rows; older graphs are converted to the second one.
_OLDEST_OPSET, _CONVERTED_OPSET = 13, 17
#: Activation → fused operator that adds a bias first.
_WITH_BIAS = {"Gelu": "BiasGelu", "FastGelu": "FastGelu"}
#: One inner channel in this many, those with the largest values, gets a scale of its own.
_OUTLIERS_ONE_IN = 24


def quantize(source: Path, graph: IO[bytes], data: IO[bytes], *, samples: Sequence[Sequence[int]] = ()) -> None:
    """Write the graph with its dense layers in 8 bits, and its weights to a file beside it.

    The same input gives the same bytes on one kind of CPU. ONNX finds the data file by its name, `DATA_NAME`, in the
    graph's folder. Graphs from `export` gain most; in others, every product with constant weights is quantised.

    Args:
        source: ONNX file in fp32; inputs and outputs stay as they are.
        graph: file to write the graph to.
        data: file to write the weights to.
        samples: token ids for calibration; empty for random ones.

    Raises:
        ValueError: the file is damaged, is not fp32 or has no dense layers to quantise.
        OSError: a file cannot be read or written.
    """
    facts = GraphFacts.read(source)
    if facts.precision != "fp32":
        raise ValueError(f"{source.name} is {facts.precision}; only fp32 can be quantised; use that file")
    # External weights are not loaded, which would take four times their size in memory.
    model = onnx.load(source, load_external_data=False)
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise ValueError(f"{source.name} has branches or loops; only plain encoders can be quantised")
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 1)
    if opset < _OLDEST_OPSET:
        try:
            onnx.load_external_data_for_model(model, str(source.parent))
            model = version_converter.convert_version(model, _CONVERTED_OPSET)
        except RuntimeError:
            reason = f"{source.name} has opset {opset} and cannot be converted to {_CONVERTED_OPSET}"
            raise ValueError(f"{reason}; export it with {_OLDEST_OPSET} or newer") from None
        opset = _CONVERTED_OPSET
    rewriter = _Rewriter(model, source.parent, OnnxWriter(data, opset=opset, prefix="int8."))
    dense = rewriter.dense_inputs()
    if not dense:
        raise ValueError(f"{source.name} has no products with constant weights; it cannot be quantised")
    largest = largest_values(model, source.parent, dense, samples or samples_of(model.graph))
    graph.write(rewriter.rewrite(largest).SerializeToString(deterministic=True))


class _Rewriter:
    """A rewriter that goes through the nodes in order, replaces some and copies the others."""

    def __init__(self, model: onnx.ModelProto, folder: Path, writer: OnnxWriter) -> None:
        self._model, self._folder, self._writer = model, folder, writer
        self._index = GraphIndex(model.graph)
        self._weights, self._consumers = self._index.weights, self._index.consumers
        self._largest: dict[str, Floats] = {}
        self._done: set[str] = set()  # outputs that rewritten nodes already produce
        self._divided: dict[str, Floats] = {}  # values that are already divided by factors
        self._texts: dict[str, NodeProto] = {}  # Reshape of rows before each attention, by output

    def dense_inputs(self) -> set[str]:
        """Return the values that are multiplied with constant weights."""
        kinds = (self._index.is_dense, self._index.is_attention, self._index.is_feed_forward)
        return {node.input[0] for node in self._model.graph.node if any(is_kind(node) for is_kind in kinds)}

    def rewrite(self, largest: dict[str, Floats]) -> onnx.ModelProto:
        """Return the new model, its large weights already written."""
        self._largest = largest
        for node in self._model.graph.node:
            if node.output[0] in self._done:
                continue
            if self._is_before_attention(node):
                self._texts[node.output[0]] = node  # replaced by a Reshape after each product
            elif self._index.is_attention(node):
                self._attention(node)
            elif self._index.is_feed_forward(node):
                self._feed_forward(node)
            elif self._index.is_dense(node):
                self._dense(node)
            else:
                self._copy(node)
        graph = helper.make_graph(
            self._writer.nodes,
            self._model.graph.name,
            self._inputs(),
            list(self._model.graph.output),
            initializer=self._writer.initializers,
        )
        domains = {entry.domain: entry.version for entry in self._model.opset_import} | {FUSED: 1}
        return helper.make_model(
            graph,
            producer_name=QUANTIZER,
            ir_version=max(self._model.ir_version, 8),
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(domains.items())],
        )

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        return [value for value in self._model.graph.input if value.name not in self._weights]

    def _is_before_attention(self, node: NodeProto) -> bool:
        return self._index.unfolds_rows(node) and self._index.is_attention(self._consumers[node.output[0]][0])

    def _copy(self, node: NodeProto) -> None:
        for name in node.input:
            if name in self._weights and name not in self._done:
                weight = self._weight(name)
                self._writer.constant(weight, weight.dtype, name)
                self._done.add(name)
        self._writer.nodes.append(node)

    def _dense(self, node: NodeProto) -> None:
        """Replace all products of one value, which share its quantized integers."""
        writer, value = self._writer, node.input[0]
        nodes = [other for other in self._consumers[value] if self._index.is_dense(other)]
        weights = [self._weight(other.input[1]) for other in nodes]
        outputs = [other.output[0] for other in nodes]
        self._done |= {*outputs}
        is_flat = value in self._index.rows
        rows = value if is_flat else writer.node("Reshape", [value, writer.constant([-1, len(weights[0])], np.int64)])
        factors = self._divided.get(value)
        if factors is None:
            factors = migration(self._largest[value], np.concatenate(weights, axis=1))
            rows = self._divide(rows, factors)
        weights = [factors[:, None] * weight for weight in weights]
        products = linear(writer, rows, weights, outputs if is_flat else ())
        if is_flat:
            return
        for output, product, weight in zip(outputs, products, weights, strict=True):
            writer.node("Reshape", [product, self._shape(value, weight.shape[1])], output=output)

    def _attention(self, node: NodeProto) -> None:
        """Replace attention: query, key and value become separate products; values are scaled for the next product."""
        writer, value = self._writer, node.input[0]
        weight, bias = self._weight(node.input[1]).copy(), self._weight(node.input[2]).copy()
        hidden = weight.shape[1] // 3
        (to_rows,) = self._consumers[node.output[0]]
        (behind,) = self._consumers[to_rows.output[0]]
        before_output = migration(self._largest[behind.input[0]], self._weight(behind.input[1]))
        weight[:, 2 * hidden :] /= before_output
        bias[2 * hidden :] /= before_output
        self._divided[behind.input[0]] = before_output
        factors = migration(self._largest[value], weight)
        parts = np.split(weight * factors[:, None], 3, axis=1)
        rows, shape = self._texts[value].input
        states = [
            writer.node("Reshape", [product, shape]) for product in linear(writer, self._divide(rows, factors), parts)
        ]
        inputs = [*states, writer.constant(bias, np.float32), node.input[3]]
        heads = helper.get_node_attr_value(node, "num_heads")
        writer.node("MultiHeadAttention", inputs, output=node.output[0], domain=FUSED, num_heads=heads)

    def _feed_forward(self, node: NodeProto) -> None:
        """Replace a feed-forward block. Channels with large values are separate, so that the others keep fine steps."""
        (gelu,) = self._consumers[node.output[0]]
        (last,) = self._consumers[gelu.output[0]]
        weight, bias, last_weight = (self._weight(name) for name in (*node.input[1:], last.input[1]))
        inner = self._largest[last.input[0]]
        order = np.argsort(inner, kind="stable")
        cut = len(order) - len(order) // _OUTLIERS_ONE_IN
        slices = [np.sort(part) for part in (order[:cut], order[cut:]) if len(part)]
        factors = migration(self._largest[node.input[0]], weight)
        divided = self._divide(node.input[0], factors)
        states = linear(self._writer, divided, [weight[:, part] * factors[:, None] for part in slices])
        total = ""
        constant = np.zeros(last_weight.shape[1], dtype=np.float32)
        for state, part in zip(states, slices, strict=True):
            biased = [state, self._writer.constant(bias[part], np.float32)]
            active = self._writer.node(_WITH_BIAS[gelu.op_type], biased, domain=FUSED)
            product, added = gelu_linear(self._writer, active, last_weight[part], float(inner[part].max()))
            total = self._writer.node("Add", [total, product]) if total else product
            constant += added
        self._writer.node("Add", [total, self._writer.constant(constant, np.float32)], output=last.output[0])
        self._done |= {node.output[0], gelu.output[0], last.output[0]}

    def _shape(self, value: str, width: int) -> str:
        """Add the shape of a value with its last axis replaced."""
        writer = self._writer
        first, end = writer.constant([0], np.int64), writer.constant([-1], np.int64)
        lead = writer.node("Slice", [writer.node("Shape", [value]), first, end])
        return writer.node("Concat", [lead, writer.constant([width], np.int64)], axis=0)

    def _divide(self, value: str, factors: Floats) -> str:
        return self._writer.node("Mul", [value, self._writer.constant(1 / factors, np.float32)])

    def _weight(self, name: str) -> Floats:
        return array_of(self._weights[name], self._folder)
