"""A small model in a folder that is real and goes wrong on some words: a row of NaN, and a tokenizer that panics."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

#: The word whose vector is NaN, and one on which the tokenizer panics; no text of the probe holds them. Another word
#: that ends in «a» is two tokens here.
NAN_WORD = "lynx"
PANIC_WORD = "a" * 40 + "!"

WORDS = ("[PAD]", "[UNK]", "the", "river", "a", NAN_WORD)
DIMENSION = 16

#: A regular expression that takes exponential time on some texts: the library gives up by a panic.
PANICS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


def write_odd_model(folder: Path) -> Path:
    """Writes the model; gives its folder."""
    folder.mkdir()
    onnx.save(_graph(), folder / "model.onnx")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    values = json.loads(made.to_str())
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [values["pre_tokenizer"], PANICS]}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    return folder


def _graph() -> onnx.ModelProto:
    table = np.random.default_rng(7).normal(size=(len(WORDS), DIMENSION)).astype(np.float32)
    table[WORDS.index(NAN_WORD)] = np.nan
    taken = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids",)]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])],
            "odd",
            taken,
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", DIMENSION])],
            [numpy_helper.from_array(table, "words")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
