"""Who uses what in an ONNX graph, and the patterns that quantising looks for."""

from collections import defaultdict

import onnx
from onnx import NodeProto

_GELUS = frozenset({"BiasGelu", "FastGelu"})


class GraphIndex:
    """A graph, looked up by the names of its values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        self._producers: dict[str, NodeProto] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
            for name in node.output:
                self._producers[name] = node
        for value in graph.output:
            self.consumers[value.name].append(NodeProto())  # whoever runs the graph uses it, too

    def is_dense(self, node: NodeProto) -> bool:
        """Tells a product with constant float32 weights, (inputs, outputs)."""
        if node.op_type != "MatMul" or node.input[0] in self.weights:
            return False
        weight = self.weights.get(node.input[1])
        return weight is not None and len(weight.dims) == 2 and weight.data_type == onnx.TensorProto.FLOAT

    def is_attention(self, node: NodeProto) -> bool:
        """Tells the exporter's attention: behind its embedding layer, with the lengths of rows as mask, no more."""
        if node.op_type != "Attention" or len(node.input) != 4 or {a.name for a in node.attribute} != {"num_heads"}:
            return False
        counter, behind = self._producers.get(node.input[3]), self.consumers[node.output[0]]
        is_counted = counter is not None and counter.op_type == "EmbedLayerNormalization"
        return is_counted and len(behind) == 1 and self.is_dense(behind[0])

    def is_feed_forward(self, node: NodeProto) -> bool:
        """Tells the first of two dense layers around a fused GELU, and nothing else uses what is between."""
        if not self.is_dense(node):
            return False
        after = self.consumers[node.output[0]]
        if len(after) != 1 or after[0].op_type not in _GELUS or len(after[0].input) != 2:
            return False
        last = self.consumers[after[0].output[0]]
        return len(last) == 1 and self.is_dense(last[0]) and last[0].input[0] == after[0].output[0]
