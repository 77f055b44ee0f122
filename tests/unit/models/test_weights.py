"""Which of a model's files are served."""

import pytest

from embedmill_worker.models.formats.weights import Weights, choose_weights

BERT = {
    "model_type": "bert",
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "hidden_size": 4,
    "intermediate_size": 4,
    "vocab_size": 4,
    "max_position_embeddings": 8,
}
SAFE, PLAIN, NESTED = "model.safetensors", "model.onnx", "onnx/model.onnx"
FP16, INT8, QUANTIZED, Q4 = (f"onnx/model_{kind}.onnx" for kind in ("fp16", "int8", "quantized", "q4"))


def chosen(*names: str, config=BERT, index=None, **options) -> str:
    weights = choose_weights(names, config=config, index=index or {}, **options)
    assert isinstance(weights, Weights)
    assert bool(weights.config) == bool(weights.safetensors) != bool(weights.graph)
    return weights.graph or " ".join(weights.safetensors)


def test_our_export_comes_before_a_graph_and_a_plain_graph_before_others():
    assert chosen(SAFE, PLAIN, NESTED) == SAFE
    assert chosen(PLAIN, NESTED, Q4) == PLAIN
    assert chosen(NESTED, QUANTIZED) == NESTED
    assert chosen("0_Transformer/model.safetensors", PLAIN, transformer="0_Transformer") == (
        "0_Transformer/model.safetensors"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nomic_bert"},
        BERT | {"position_embedding_type": "alibi"},
        BERT | {"auto_map": {"AutoModel": "own.Own"}},
        BERT | {"hidden_act": "own"},
        {},
    ],
)
def test_a_graph_is_taken_where_the_safetensors_cannot_be_exported(config):
    assert chosen(SAFE, NESTED, config=config) == NESTED


def test_code_for_something_else_than_the_model_itself_does_not_matter():
    assert chosen(SAFE, NESTED, config=BERT | {"auto_map": {"AutoModelForMaskedLM": "own.Own"}}) == SAFE


def test_of_other_precisions_the_one_closest_to_what_is_asked_for_is_taken():
    assert chosen(FP16, INT8, Q4) == FP16
    assert chosen(FP16, INT8, Q4, precision="int8") == INT8
    assert chosen(QUANTIZED, Q4) == QUANTIZED
    assert chosen(Q4) == Q4
    assert chosen("model_O3.onnx", "model_O4.onnx", FP16) == "model_O3.onnx"
    assert chosen(FP16, NESTED, precision="int8") == NESTED  # from which int8 is made


@pytest.mark.parametrize(("machine", "taken"), [("x86_64", "avx512_vnni"), ("aarch64", "arm64")])
def test_a_graph_made_for_another_kind_of_cpu_is_the_last_to_be_taken(monkeypatch, machine, taken):
    monkeypatch.setattr("platform.machine", lambda: machine)
    names = [f"onnx/model_qint8_{kind}.onnx" for kind in ("arm64", "avx512_vnni")]
    assert chosen(*names, precision="int8") == f"onnx/model_qint8_{taken}.onnx"


def test_parts_are_those_that_the_index_names():
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": parts[1], "b": parts[0], "c": parts[1]}}
    assert chosen(*parts, "model.safetensors.index.json", index=index) == " ".join(parts)
    for names, stated, named in (
        (parts[:1], index, "names model-00002-of-00002.safetensors, which is not in the folder"),
        (parts, {}, "has no weight_map"),
        (parts, {"weight_map": {"a": "../x.safetensors"}}, "which is not in the folder"),
    ):
        with pytest.raises(ValueError, match=named):
            chosen(*names, "model.safetensors.index.json", index=stated)


@pytest.mark.parametrize(
    ("names", "config", "named"),
    [
        ((), BERT, "neither model.onnx"),
        (("pytorch_model.bin",), BERT, "pickle"),
        (("0_Transformer/pytorch_model.bin",), BERT, "pickle"),
        ((SAFE,), {"model_type": "t5"}, "model_type 't5' is not exported"),
        ((SAFE,), BERT | {"auto_map": {"AutoModel": "own.Own"}}, "names code that comes with the model"),
        ((SAFE, "adapter_config.json"), BERT, "an adapter of another model; merge both"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(names, config, named):
    with pytest.raises(ValueError, match=named):
        choose_weights(names, config=config, index={}, transformer="0_Transformer" if "0_" in str(names) else "")
