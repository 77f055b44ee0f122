"""BERT-family safetensors to a fused ONNX graph, without torch.

Attention takes the number of real tokens of each row (right padding), which gives the same bits to a
text alone and in any padded batch; see docs/decisions/0004.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embedmill_worker.models.bert import ACTIVATIONS, BertConfig
from embedmill_worker.models.exported import EXPORTER, OUTPUT
from embedmill_worker.models.made import DATA_NAME
from embedmill_worker.models.relative import attention_bias
from embedmill_worker.models.safetensors import SafetensorsFiles

#: Old enough for ONNX Runtime 1.17, new enough for every operator used here.
_OPSET = 17
_IR_VERSION = 8
_FUSED = "com.microsoft"
#: Weights from this size on stand in the data file, where ONNX Runtime maps them: MiniLM's session then starts in
#: 60 ms instead of 200, and its embedding table is shared by every process that has it open.
_DATA_FROM_BYTES = 1024
#: Weights begin on a page of their own, as mapping wants it.
_PAGE_BYTES = 4096

#: Weight (inputs, outputs) and bias (outputs,).
_Linear = tuple[NDArray[np.float32], NDArray[np.float32]]


def export(weights: Sequence[Path], config: BertConfig, graph: BinaryIO, data: BinaryIO) -> None:
    """Writes an encoder as an ONNX file and its weights beside it; the same input gives the same bytes.

    The data file is found by its name, `DATA_NAME`, in the graph's folder.

    Inputs `input_ids`, `attention_mask` and, with several token types, `token_type_ids` are int64
    (batch, tokens); output `last_hidden_state` is float32 (batch, tokens, hidden). Masks must be
    right-padded. Weights stored as fp16 or bf16 are upcast. Takes little more memory than the largest tensor.

    Raises:
        ValueError: the file is damaged or does not fit the config.
        OSError: a file cannot be read or written.
    """
    writer = _GraphWriter(SafetensorsFiles(weights), config, data)
    hidden = writer.embeddings()
    for layer in range(config.layers):
        hidden = writer.layer(layer, hidden)
    graph.write(writer.model().SerializeToString(deterministic=True))


class _GraphWriter:
    """Writes weights as they come, so that no more than one is in memory; names of values are strings, as in ONNX."""

    def __init__(self, tensors: SafetensorsFiles, config: BertConfig, data: BinaryIO) -> None:
        self._tensors = tensors
        self._config = config
        # Classification and masked-LM checkpoints hold the encoder under the model's name.
        prefixes = ("", "bert.", "roberta.", "distilbert.", "mpnet.", "model.")
        found = [prefix for prefix in prefixes if f"{prefix}embeddings.word_embeddings.weight" in tensors]
        if not found:
            raise ValueError("tensor embeddings.word_embeddings.weight is missing; this is no BERT-family checkpoint")
        self._prefix = found[0]
        if f"{found[0]}{config.names.layer.format(config.layers)}{config.names.output}.weight" in tensors:
            raise ValueError(f"the weights have more layers than config.json says ({config.layers})")
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._data = data
        #: What is added to the attention scores of every layer, (1, heads, tokens, tokens); empty for none.
        self._bias = ""

    def embeddings(self) -> str:
        """Adds the embedding layer; returns its output, (batch, tokens, hidden)."""
        config, name = self._config, "embeddings."
        words = self._read(f"{name}word_embeddings.weight", config.vocabulary, config.hidden)
        positions = self._read(f"{name}position_embeddings.weight", config.position_rows, config.hidden)
        positions = positions[config.first_position :]
        ids = self._node("Cast", ["input_ids"], "ids", to=TensorProto.INT32)
        mask = self._node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
        type_ids, type_table = "", ""
        if config.token_types:
            types = self._read(f"{name}token_type_embeddings.weight", config.token_types, config.hidden)
            if config.has_token_types:
                type_ids = self._node("Cast", ["token_type_ids"], "type_ids", to=TensorProto.INT32)
                type_table = self._weight("types", types)
            else:
                positions = positions + types[0]
        inputs = [ids, type_ids, self._weight("words", words), self._weight("positions", positions), type_table]
        scale, shift = self._layer_norm(f"{name}LayerNorm", "embeddings")
        # The second output counts each row's real tokens.
        self._nodes.append(
            helper.make_node(
                "EmbedLayerNormalization",
                [*inputs, scale, shift, mask],
                ["embedded", "token_counts"],
                name="embedded",
                domain=_FUSED,
                epsilon=config.epsilon,
            )
        )
        if config.relative_buckets:
            self._bias = self._relative_bias()
        return "embedded"

    def layer(self, index: int, hidden: str) -> str:
        """Adds one encoder layer on top of a value; returns its output, (batch, tokens, hidden)."""
        config, names, name = self._config, self._config.names, f"layer{index}."
        source = names.layer.format(index)
        parts = [
            self._linear(f"{source}{part}", config.hidden, config.hidden)
            for part in (names.query, names.key, names.value)
        ]
        weight = self._weight(f"{name}qkv.weight", np.concatenate([weight for weight, _ in parts], axis=1))
        bias = self._weight(f"{name}qkv.bias", np.concatenate([bias for _, bias in parts]))
        inputs = [hidden, weight, bias, "token_counts", *(["", self._bias] if self._bias else [])]
        attended = self._node("Attention", inputs, f"{name}attended", _FUSED, num_heads=config.heads)
        dense = self._linear(f"{source}{names.attention_output}", config.hidden, config.hidden)
        hidden = self._projected(dense, f"{source}{names.attention_norm}", f"{name}attention", attended, hidden)
        weight, bias = (
            self._weight(f"{name}inner.{kind}", value)
            for kind, value in zip(
                ("weight", "bias"),
                self._linear(f"{source}{names.inner}", config.hidden, config.intermediate),
                strict=True,
            )
        )
        inner = self._node("MatMul", [hidden, weight], f"{name}inner")
        inner = self._node(ACTIVATIONS[config.activation], [inner, bias], f"{name}active", _FUSED)
        dense = self._linear(f"{source}{names.output}", config.intermediate, config.hidden)
        output = OUTPUT if index == config.layers - 1 else f"{name}output"
        return self._projected(dense, f"{source}{names.output_norm}", output, inner, hidden)

    def model(self) -> onnx.ModelProto:
        """Gives everything but the large weights."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._config.has_token_types else [])]
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", "tokens", self._config.hidden])],
            initializer=self._initializers,
        )
        return helper.make_model(
            graph,
            producer_name=EXPORTER,
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
        )

    def _relative_bias(self) -> str:
        """Adds the bias of attention scores, cut to the tokens of a run."""
        config = self._config
        table = self._read("encoder.relative_attention_bias.weight", config.relative_buckets, config.heads)
        bias = self._weight("relative_bias", attention_bias(table, config.max_tokens))
        # (batch, tokens) to (tokens, tokens): how far to cut the last two axes.
        shape = self._node("Shape", ["input_ids"], "tokens", start=1)
        ends = self._node("Concat", [shape, shape], "square", axis=0)
        starts, axes = self._ints("square_starts", [0, 0]), self._ints("square_axes", [2, 3])
        return self._node("Slice", [bias, starts, ends, axes], "square_bias")

    def _ints(self, name: str, values: list[int]) -> str:
        self._initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def _projected(self, dense: _Linear, norm: str, output: str, value: str, residual: str) -> str:
        """Dense, plus residual, layer-normalised; the bias is added inside the fused node."""
        weight, bias = dense
        projected = self._node("MatMul", [value, self._weight(f"{output}.weight", weight)], f"{output}.dense")
        scale, shift = self._layer_norm(norm, output)
        inputs = [projected, residual, scale, shift, self._weight(f"{output}.bias", bias)]
        return self._node("SkipLayerNormalization", inputs, output, _FUSED, epsilon=self._config.epsilon)

    def _linear(self, source: str, inputs: int, outputs: int) -> _Linear:
        return self._read(f"{source}.weight", outputs, inputs).T, self._read(f"{source}.bias", outputs)

    def _layer_norm(self, source: str, name: str) -> tuple[str, str]:
        scale, shift = (self._read(f"{source}.{kind}", self._config.hidden) for kind in ("weight", "bias"))
        return self._weight(f"{name}.scale", scale), self._weight(f"{name}.shift", shift)

    def _read(self, name: str, *shape: int) -> NDArray[np.float32]:
        return self._tensors.read(self._prefix + name, shape)

    def _weight(self, name: str, value: NDArray[np.float32]) -> str:
        """Adds a weight, in the data file unless it is small."""
        raw = np.ascontiguousarray(value, dtype="<f4")
        tensor = TensorProto(name=name, dims=raw.shape, data_type=TensorProto.FLOAT)
        if raw.nbytes < _DATA_FROM_BYTES:
            tensor.raw_data = raw.tobytes()
        else:
            self._data.write(bytes(-self._data.tell() % _PAGE_BYTES))
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", DATA_NAME), ("offset", self._data.tell()), ("length", raw.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            self._data.write(raw.reshape(-1).view(np.uint8).data)
        self._initializers.append(tensor)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output
