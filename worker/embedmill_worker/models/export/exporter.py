"""Export of BERT-family safetensors to a fused ONNX graph, without torch.

All but attention is computed on rows, (batch * tokens, hidden). Attention takes the number of real tokens of each text
(right padding), which makes it batch-invariant; see docs/decisions/0004.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import TensorProto, helper

from embedmill_worker.arrays import Floats
from embedmill_worker.models.export.bert import ACTIVATIONS, EXPORTER, OUTPUT, BertConfig
from embedmill_worker.models.export.onnx_writer import FUSED, OnnxWriter
from embedmill_worker.models.formats.safetensors import SafetensorsFiles

#: Opset that is old enough for ONNX Runtime 1.17 and new enough for every operator used here.
_OPSET = 17
_IR_VERSION = 8
#: Distance of two tokens beyond which all pairs share a bucket of relative attention bias.
_MAX_DISTANCE = 128

#: Weight (inputs, outputs) and bias (outputs,).
_Linear = tuple[Floats, Floats]


def export(weights: Sequence[Path], config: BertConfig, graph: IO[bytes], data: IO[bytes]) -> None:
    """Write an encoder as an ONNX file, and its weights to a file beside it; the same input gives the same bytes.

    ONNX finds the data file by its name, `DATA_NAME`, in the graph's folder.

    Inputs `input_ids`, `attention_mask` and, with several token types, `token_type_ids` are int64
    (batch, tokens); output `last_hidden_state` is float32 (batch, tokens, hidden). Masks must be
    right-padded. Weights stored as fp16 or bf16 are upcast. It takes little more memory than the largest tensor.

    Raises:
        ValueError: the file is damaged or does not fit the config.
        OSError: a file cannot be read or written.
    """
    writer = _GraphWriter(SafetensorsFiles(weights), config, data)
    hidden = writer.embeddings()
    for layer in range(config.layers):
        hidden = writer.layer(layer, hidden)
    graph.write(writer.model(hidden).SerializeToString(deterministic=True))


class _GraphWriter:
    """A writer that writes one weight at a time, to save memory; values are named by strings, as in ONNX."""

    def __init__(self, tensors: SafetensorsFiles, config: BertConfig, data: IO[bytes]) -> None:
        self._tensors = tensors
        self._config = config
        # Classification and masked-LM checkpoints hold the encoder under the model's name.
        prefixes = ("", "bert.", "roberta.", "distilbert.", "mpnet.", "model.")
        found = [prefix for prefix in prefixes if f"{prefix}embeddings.word_embeddings.weight" in tensors]
        if not found:
            raise ValueError(
                "tensor embeddings.word_embeddings.weight is missing; this is not a BERT-family checkpoint"
            )
        self._prefix = found[0]
        if f"{found[0]}{config.names.layer.format(config.layers)}{config.names.output}.weight" in tensors:
            raise ValueError(f"the weights have more layers than config.json says ({config.layers})")
        self._writer = OnnxWriter(data, opset=_OPSET)
        #: Value added to the attention scores of every layer, (1, heads, tokens, tokens); empty for none.
        self._bias = ""
        #: Value that holds the shape (batch, tokens, hidden).
        self._texts_shape = ""

    def embeddings(self) -> str:
        """Add the embedding layer; return its output, (rows, hidden)."""
        config, name, node = self._config, "embeddings.", self._writer.node
        words = self._read(f"{name}word_embeddings.weight", config.vocabulary, config.hidden)
        positions = self._read(f"{name}position_embeddings.weight", config.position_rows, config.hidden)
        positions = positions[config.first_position :]
        ids = node("Cast", ["input_ids"], output="ids", to=TensorProto.INT32)
        mask = node("Cast", ["attention_mask"], output="mask", to=TensorProto.INT32)
        type_ids, type_table = "", ""
        if config.token_types:
            types = self._read(f"{name}token_type_embeddings.weight", config.token_types, config.hidden)
            if config.has_token_types:
                type_ids = node("Cast", ["token_type_ids"], output="type_ids", to=TensorProto.INT32)
                type_table = self._weight("types", types)
            else:
                positions = positions + types[0]
        inputs = [ids, type_ids, self._weight("words", words), self._weight("positions", positions), type_table]
        scale, shift = self._layer_norm(f"{name}LayerNorm", "embeddings")
        # The second output counts each text's real tokens.
        self._writer.nodes.append(
            helper.make_node(
                "EmbedLayerNormalization",
                [*inputs, scale, shift, mask],
                ["embedded", "token_counts"],
                name="embedded",
                domain=FUSED,
                epsilon=config.epsilon,
            )
        )
        shape = [node("Shape", ["input_ids"]), self._writer.constant([config.hidden], np.int64)]
        self._texts_shape = node("Concat", shape, output="texts_shape", axis=0)
        if config.relative_buckets:
            self._bias = self._relative_bias()
        return self._rows("embedded")

    def layer(self, index: int, hidden: str) -> str:
        """Add one encoder layer on top of a value; both are (rows, hidden)."""
        config, names, name, node = self._config, self._config.names, f"layer{index}.", self._writer.node
        source = names.layer.format(index)
        attended = self._attention(source, name, hidden)
        dense = self._linear(f"{source}{names.attention_output}", config.hidden, config.hidden)
        hidden = self._projected(dense, f"{source}{names.attention_norm}", f"{name}attention", attended, hidden)
        weight, bias = self._linear(f"{source}{names.inner}", config.hidden, config.intermediate)
        inputs = [hidden, self._weight(f"{name}inner.weight", weight), self._weight(f"{name}inner.bias", bias)]
        # Gemm, because ONNX Runtime would fuse MatMul, Add and the activation to one slower node.
        inner = node(ACTIVATIONS[config.activation], [node("Gemm", inputs)], domain=FUSED)
        dense = self._linear(f"{source}{names.output}", config.intermediate, config.hidden)
        return self._projected(dense, f"{source}{names.output_norm}", f"{name}output", inner, hidden)

    def model(self, hidden: str) -> onnx.ModelProto:
        """Return the model without the large weights; its output is a value, (rows, hidden), reshaped by text."""
        self._writer.node("Reshape", [hidden, self._texts_shape], output=OUTPUT)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._config.has_token_types else [])]
        graph = helper.make_graph(
            self._writer.nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", "tokens", self._config.hidden])],
            initializer=self._writer.initializers,
        )
        return helper.make_model(
            graph,
            producer_name=EXPORTER,
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(FUSED, 1)],
        )

    def _relative_bias(self) -> str:
        """Add the bias of attention scores, cut to the tokens of a run."""
        config, node, constant = self._config, self._writer.node, self._writer.constant
        table = self._read("encoder.relative_attention_bias.weight", config.relative_buckets, config.heads)
        bias = self._weight("relative_bias", attention_bias(table, config.max_tokens))
        # The last two axes are cut to (tokens, tokens).
        shape = node("Shape", ["input_ids"], start=1)
        ends = node("Concat", [shape, shape], axis=0)
        return node("Slice", [bias, constant([0, 0], np.int64), ends, constant([2, 3], np.int64)])

    def _attention(self, source: str, name: str, hidden: str) -> str:
        """Add attention among the tokens of each text, from and to (rows, hidden)."""
        config, names = self._config, self._config.names
        parts = [
            self._linear(f"{source}{part}", config.hidden, config.hidden)
            for part in (names.query, names.key, names.value)
        ]
        weight = self._weight(f"{name}qkv.weight", np.concatenate([weight for weight, _ in parts], axis=1))
        bias = self._weight(f"{name}qkv.bias", np.concatenate([bias for _, bias in parts]))
        texts = self._writer.node("Reshape", [hidden, self._texts_shape])
        inputs = [texts, weight, bias, "token_counts", *(["", self._bias] if self._bias else [])]
        return self._rows(self._writer.node("Attention", inputs, domain=FUSED, num_heads=config.heads))

    def _projected(self, dense: _Linear, norm: str, name: str, value: str, residual: str) -> str:
        """Add a dense layer, a residual and a layer norm. ONNX Runtime fuses the first two nodes to one Gemm."""
        node, (weight, bias) = self._writer.node, dense
        projected = node("MatMul", [value, self._weight(f"{name}.weight", weight)])
        projected = node("Add", [projected, self._weight(f"{name}.bias", bias)])
        inputs = [node("Add", [projected, residual]), *self._layer_norm(norm, name)]
        return node("LayerNormalization", inputs, output=name, axis=-1, epsilon=self._config.epsilon)

    def _rows(self, value: str) -> str:
        return self._writer.node("Reshape", [value, self._writer.constant([-1, self._config.hidden], np.int64)])

    def _linear(self, source: str, inputs: int, outputs: int) -> _Linear:
        return self._read(f"{source}.weight", outputs, inputs).T, self._read(f"{source}.bias", outputs)

    def _layer_norm(self, source: str, name: str) -> tuple[str, str]:
        scale, shift = (self._read(f"{source}.{kind}", self._config.hidden) for kind in ("weight", "bias"))
        return self._weight(f"{name}.scale", scale), self._weight(f"{name}.shift", shift)

    def _read(self, name: str, *shape: int) -> Floats:
        return self._tensors.read(self._prefix + name, shape)

    def _weight(self, name: str, value: Floats) -> str:
        return self._writer.constant(value, np.float32, name)


def attention_bias(table: Floats, tokens: int) -> Floats:
    """Return the bias of all pairs of positions, (1, heads, tokens, tokens), from a table (buckets, heads).

    Half of the buckets are for keys behind the query; half of each half are single distances, and the others
    grow logarithmically (Raffel et al. 2020, bidirectional).
    """
    half = table.shape[0] // 2
    positions = np.arange(tokens)
    distance = positions[None, :] - positions[:, None]  # from a query (row) to a key (column)
    single = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(single)
    steps = np.log(far) / np.float32(np.log(_MAX_DISTANCE / single)) * np.float32(half - single)
    buckets = np.where(
        np.abs(distance) < single, np.abs(distance), np.minimum(single + steps.astype(np.int64), half - 1)
    )
    buckets = buckets + half * (distance > 0)
    return np.ascontiguousarray(table[buckets].transpose(2, 0, 1)[None])
