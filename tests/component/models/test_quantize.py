"""The quantiser, on tiny graphs of our exporter and on one of plain operators, as hub exports are."""

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedmill_worker.models.export import exporter as exporter
from embedmill_worker.models.export.bert import BertConfig
from embedmill_worker.models.formats.onnx_graph import DATA_NAME, GraphFacts
from embedmill_worker.models.quantization.graph_index import array_of, largest_values, random_samples
from embedmill_worker.models.quantization.quantizer import quantize
from embedmill_worker.onnx_runtime import open_graph

HIDDEN, HEADS, LAYERS, INNER, WORDS, POSITIONS = 32, 4, 2, 96, 50, 40
SAMPLES = random_samples(WORDS, max_tokens=POSITIONS)
TEXTS = [[2, 5, 9, 3], [2, 3], [2, *range(10, 40), 3], [2, 7, 3]]
CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "vocab_size": WORDS,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}


def tiny_weights() -> dict[str, np.ndarray]:
    """Weights with an outlier channel, as real encoders have them."""
    rng = np.random.default_rng(7)
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        base = f"encoder.layer.{layer}."
        norms += [f"{base}attention.output.LayerNorm", f"{base}output.LayerNorm"]
        dense = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        dense |= {"attention.output.dense": (HIDDEN, HIDDEN)}
        dense |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for part, shape in dense.items():
            shapes |= {f"{base}{part}.weight": shape, f"{base}{part}.bias": shape[:1]}
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        weights[f"{norm}.weight"] = rng.normal(1, 0.2, HIDDEN).astype(np.float32)
        weights[f"{norm}.weight"][5] = 15
        weights[f"{norm}.bias"] = rng.normal(0, 0.2, HIDDEN).astype(np.float32)
    return weights


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    header, body = {}, b""
    for name, value in tiny_weights().items():
        offsets = [len(body), len(body) + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        body += value.tobytes()
    encoded = json.dumps(header).encode()
    weights = tmp_path / "weights"
    weights.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    graph = tmp_path / "model.onnx"
    with graph.open("wb") as file, graph.with_name(DATA_NAME).open("wb") as data:
        exporter.export((weights,), BertConfig.parse(CONFIG), file, data)
    return graph


def plain(path: Path, *, opset: int, dtype: type = np.float32) -> Path:
    """Word vectors through two dense layers, in operators that every opset has."""
    rng = np.random.default_rng(3)
    shapes = {"words": (WORDS, HIDDEN), "up": (HIDDEN, INNER), "down": (INNER, HIDDEN)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(dtype), n) for n, shape in shapes.items()]
    steps = [
        ("Gather", ["words", "input_ids"], "embedded"),
        ("MatMul", ["embedded", "up"], "inner"),
        ("Add", ["inner", "bias"], "biased"),
        ("Tanh", ["biased"], "active"),
        ("MatMul", ["active", "down"], "last_hidden_state"),
    ]
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in steps]
    bias = numpy_helper.from_array(rng.normal(0, 0.3, INNER).astype(dtype))
    nodes.insert(0, helper.make_node("Constant", [], ["bias"], value=bias))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("last_hidden_state", kind, ["batch", "tokens", HIDDEN])],
        initializer=weights,
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def quantized(source: Path) -> Path:
    folder = source.parent / "int8"
    folder.mkdir(exist_ok=True)
    graph = folder / "model.onnx"
    with graph.open("wb") as file, graph.with_name(DATA_NAME).open("wb") as data:
        quantize(source, file, data)
    return graph


def run(graph: Path, texts: list[list[int]]) -> list[np.ndarray]:
    """Token vectors of a padded batch, padding cut off."""
    session = open_graph(graph)
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})
    return [vectors[: len(text)] for vectors, text in zip(hidden, texts, strict=True)]


def assert_close(source: Path, graph: Path) -> None:
    for got, expected in zip(run(graph, TEXTS), run(source, TEXTS), strict=True):
        got, expected = got.mean(axis=0), expected.mean(axis=0)
        assert got @ expected / np.linalg.norm(got) / np.linalg.norm(expected) > 0.999
        assert np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)


def assert_same_bits_in_any_company(graph: Path) -> None:
    alone = [run(graph, [text])[0] for text in TEXTS]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 3, 2, 1], [1, 3]):
        for index, got in zip(order, run(graph, [TEXTS[i] for i in order]), strict=True):
            assert np.array_equal(got, alone[index])


def products(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph, load_external_data=False).graph.node if "MatMul" in node.op_type]


def test_an_exported_graph_stays_close_to_fp32(exported):
    graph = quantized(exported)
    assert_close(exported, graph)
    # Query, key, value, output, and the feed-forward's two in two slices each.
    assert products(graph) == ["MatMulIntegerToFloat"] * 8 * LAYERS
    assert GraphFacts.read(graph).precision == "int8"


def test_a_text_has_the_same_bits_alone_and_in_any_batch(exported):
    assert_same_bits_in_any_company(quantized(exported))


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_a_graph_of_plain_operators_is_quantised_with_the_same_promise(tmp_path, opset):
    source = plain(tmp_path / "plain.onnx", opset=opset)
    graph = quantized(source)
    assert products(graph) == ["MatMulIntegerToFloat"] * 2
    assert_close(source, graph)
    assert_same_bits_in_any_company(graph)


def test_the_same_graph_gives_the_same_bytes(exported):
    contents = []
    for _ in range(2):
        graph = quantized(exported)
        contents.append((graph.read_bytes(), graph.with_name(DATA_NAME).read_bytes()))
    assert contents[0] == contents[1]


def test_inputs_and_outputs_stay_as_they_are_and_large_weights_stand_beside_the_graph(exported):
    graph = quantized(exported)
    onnx.checker.check_model(str(graph))
    before, after = GraphFacts.read(exported), GraphFacts.read(graph)
    assert (after.inputs, after.outputs, after.external) == (before.inputs, before.outputs, (DATA_NAME,))
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    beside = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    offsets = [int(entry.value) for tensor in beside for entry in tensor.external_data if entry.key == "offset"]
    assert offsets
    assert all(offset % 4096 == 0 for offset in offsets)
    assert {tensor.data_type for tensor in beside} == {TensorProto.FLOAT, TensorProto.INT8}


def test_a_graph_that_is_quantised_already_is_refused(exported):
    with pytest.raises(ValueError, match="is int8; only fp32"):
        quantized(quantized(exported))


def test_a_half_precision_graph_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is fp16; only fp32"):
        quantized(plain(tmp_path / "half.onnx", opset=17, dtype=np.float16))


def test_a_graph_without_dense_layers_is_refused(tmp_path):
    model = onnx.load(plain(tmp_path / "plain.onnx", opset=17))
    del model.graph.node[2:]
    model.graph.node[1].output[0] = "last_hidden_state"
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="no products with constant weights"):
        quantized(tmp_path / "bare.onnx")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="damaged"):
        quantize(tmp_path / "model.onnx", io.BytesIO(), io.BytesIO())


def test_samples_that_the_graph_cannot_take_are_refused_without_their_ids(exported):
    with pytest.raises(ValueError, match="cannot run the graph") as raised:
        quantize(exported, io.BytesIO(), io.BytesIO(), samples=[[2, 987654, 3]])
    assert "987654" not in str(raised.value)


def test_samples_of_the_caller_s_own_decide_the_factors(exported):
    graphs = [io.BytesIO(), io.BytesIO()]
    for graph, samples in zip(graphs, ([], [[2, 5, 3]]), strict=True):
        data = io.BytesIO()
        quantize(exported, graph, data, samples=samples)
        graph.write(data.getvalue())
    assert graphs[0].getvalue() != graphs[1].getvalue()


def test_a_graph_without_a_word_table_is_refused_unless_samples_are_given(tmp_path):
    model = onnx.load(plain(tmp_path / "plain.onnx", opset=17))
    model.graph.node.insert(0, helper.make_node("Abs", ["input_ids"], ["ids"]))
    model.graph.node[2].input[1] = "ids"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ValueError, match="no table of words"):
        quantize(tmp_path / "odd.onnx", io.BytesIO(), io.BytesIO())
    quantize(tmp_path / "odd.onnx", io.BytesIO(), io.BytesIO(), samples=SAMPLES)


def test_calibration_sees_the_largest_value_of_each_channel(tmp_path):
    model = onnx.load(plain(tmp_path / "plain.onnx", opset=17))
    words = numpy_helper.to_array(model.graph.initializer[0])
    seen = largest_values(model, tmp_path, {"embedded"}, [[2, 7, 3], [9]])
    assert np.array_equal(seen["embedded"], np.abs(words[[2, 7, 3, 9]]).max(axis=0))


def test_random_samples_are_the_same_every_time_and_within_their_bounds():
    assert random_samples(WORDS, max_tokens=POSITIONS) == SAMPLES
    assert {len(sample) for sample in SAMPLES} == {8, 16, 32, POSITIONS}
    assert all(min(sample) >= 0 and max(sample) < WORDS for sample in SAMPLES)


def beside(source: Path, place: str) -> Path:
    """The same graph with its weights in a file of their own."""
    graph = source.with_name(f"beside-{source.name}")
    onnx.save(onnx.load(source), graph, save_as_external_data=True, location=place, size_threshold=0)
    return graph


@pytest.mark.parametrize("opset", [12, 17])
def test_weights_beside_the_graph_make_the_same_int8_as_weights_within(tmp_path, opset):
    source = plain(tmp_path / "plain.onnx", opset=opset)
    made = []
    for graph in (source, beside(source, "weights")):
        made.append((io.BytesIO(), io.BytesIO()))
        quantize(graph, *made[-1])
    assert [file.getvalue() for file in made[0]] == [file.getvalue() for file in made[1]]


def test_a_word_table_beside_the_graph_is_never_whole_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.WORDS", 200_000)
    graph = beside(plain(tmp_path / "plain.onnx", opset=17), "weights")
    tracemalloc.start()
    try:
        with (tmp_path / "int8").open("wb") as file, (tmp_path / "int8.data").open("wb") as data:
            quantize(graph, file, data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    table_bytes = 200_000 * HIDDEN * 4
    assert (tmp_path / "int8.data").stat().st_size >= table_bytes
    assert peak_bytes < table_bytes / 4


def test_weights_outside_the_graph_s_folder_are_refused(tmp_path):
    graph = beside(plain(tmp_path / "plain.onnx", opset=17), "weights")
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../weights"
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="lies outside"):
        array_of(model.graph.initializer[0], tmp_path)
    with pytest.raises(ValueError, match="cannot run"):
        quantize(graph, io.BytesIO(), io.BytesIO())
