"""Tiny models that are real: ONNX files and tokenizers of a few words, made on the spot."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from embedmill_worker.models import ModelFiles, Pooling

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "river", "and", "to", "hold", "power", "in", "query:", "loud")
DIMENSION = 8
MAX_TOKENS = 16

#: What each kind of graph does after looking the words up: nodes from "looked_up" to "output".
KINDS = {
    "exact": [helper.make_node("MatMul", ["looked_up", "square"], ["output"])],
    # The quantisation's scale is that of the loudest token of the whole batch.
    "variant": [
        helper.make_node("DynamicQuantizeLinear", ["looked_up"], ["quantized", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["output"]),
    ],
    "close": [
        helper.make_node("ReduceMax", ["looked_up"], ["loudest"], keepdims=0),
        helper.make_node("Mul", ["loudest", "tiny"], ["noise"]),
        helper.make_node("Add", ["looked_up", "noise"], ["output"]),
    ],
    "pooled": [helper.make_node("ReduceMean", ["looked_up"], ["output"], axes=[1], keepdims=0)],
    "not finite": [helper.make_node("Log", ["looked_up"], ["output"])],
}


def graph(kind: str, inputs: tuple[str, ...]) -> bytes:
    rng = np.random.default_rng(5)
    loudness = np.geomspace(0.1, 20, len(WORDS))[:, None]
    weights = {
        "words": (rng.normal(0, 1, (len(WORDS), DIMENSION)) * loudness).astype(np.float32),
        "square": rng.normal(0, 1, (DIMENSION, DIMENSION)).astype(np.float32),
        "tiny": np.float32(1e-6),
    }
    ints, shape = TensorProto.INT64, ["batch", "tokens"]
    rank = 2 if kind == "pooled" else 3
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["words", "input_ids"], ["looked_up"]), *KINDS[kind]],
            kind,
            [helper.make_tensor_value_info(name, ints, shape) for name in inputs],
            [
                helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * rank),
                helper.make_tensor_value_info("looked_up", TensorProto.FLOAT, [None] * 3),
            ],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return model.SerializeToString()


def tokenizer(*, special: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    # As in files found in the wild; neither may have an effect.
    made.enable_truncation(5)
    made.enable_padding(length=9)
    return made


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Makes a model of one of ``KINDS``."""

    def make(
        kind: str = "exact",
        *,
        pooling: Pooling = Pooling.MEAN,
        normalize: bool = True,
        special: bool = True,
        max_tokens: int = MAX_TOKENS,
        inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
        output: str = "",
    ) -> ModelFiles:
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        content = graph(kind, inputs)
        (folder / "model.onnx").write_bytes(content)
        tokenizer(special=special).save(str(folder / "tokenizer.json"))
        return ModelFiles(
            name="tiny",
            graph=folder / "model.onnx",
            tokenizer=folder / "tokenizer.json",
            output=output,
            pooling=pooling,
            normalize=normalize,
            max_tokens=max_tokens,
            prompts={"query": "query: "},
            weights_sha256=hashlib.sha256(content).hexdigest(),
            tokenizer_sha256="0" * 64,
        )

    return make
