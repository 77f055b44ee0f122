"""The exporter, against a plain numpy forward pass of the same weights."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.models import Pooling, fingerprint
from embedmill_worker.models.export import exporter as exporter
from embedmill_worker.models.export.bert import BertConfig
from embedmill_worker.models.formats.onnx_graph import DATA_NAME
from embedmill_worker.models.formats.safetensors import SafetensorsFile
from embedmill_worker.models.sources.folder import files_of_folder
from embedmill_worker.onnx_runtime import open_graph

HIDDEN, HEADS, LAYERS, INNER, WORDS, POSITIONS = 16, 4, 2, 24, 50, 40

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
ROBERTA = CONFIG | {"model_type": "xlm-roberta", "type_vocab_size": 1, "pad_token_id": 1}


def tiny_weights(*, types: int = 2, prefix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (types, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        base = f"encoder.layer.{layer}."
        norms += [f"{base}attention.output.LayerNorm", f"{base}output.LayerNorm"]
        linear = dict.fromkeys((f"attention.self.{part}" for part in ("query", "key", "value")), (HIDDEN, HIDDEN))
        linear |= {"attention.output.dense": (HIDDEN, HIDDEN)}
        linear |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for part, shape in linear.items():
            shapes |= {f"{base}{part}.weight": shape, f"{base}{part}.bias": shape[:1]}
    weights = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        weights |= {f"{norm}.weight": rng.normal(1, 0.2, HIDDEN).astype(np.float32)}
        weights |= {f"{norm}.bias": rng.normal(0, 0.2, HIDDEN).astype(np.float32)}
    return {prefix + name: value for name, value in weights.items()}


def save(path: Path, weights: dict[str, np.ndarray], dtype: str = "F32") -> Path:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        if dtype == "BF16":
            raw = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            raw = value.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    return path


def forward(weights: dict[str, np.ndarray], ids: list[int], *, eps=1e-6, activation="gelu", first=0) -> np.ndarray:
    """One text, in float64 and without any fusing: (tokens, hidden)."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        if activation == "gelu":
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def split(x):
        return x.reshape(len(ids), HEADS, -1).transpose(1, 0, 2)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + w["embeddings.position_embeddings.weight"][first : first + len(ids)], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        base = f"encoder.layer.{layer}."
        q, k, v = (split(linear(x, f"{base}attention.self.{part}")) for part in ("query", "key", "value"))
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(HIDDEN // HEADS))
        context = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), HIDDEN)
        attended = linear(context, f"{base}attention.output.dense")
        x = norm(x + attended, f"{base}attention.output.LayerNorm")
        inner = gelu(linear(x, f"{base}intermediate.dense"))
        x = norm(x + linear(inner, f"{base}output.dense"), f"{base}output.LayerNorm")
    return x


def export(weights: Path, config: BertConfig) -> Path:
    graph = weights.parent / "model.onnx"
    with graph.open("wb") as file, (weights.parent / DATA_NAME).open("wb") as data:
        exporter.export((weights,), config, file, data)
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


TEXTS = [[2, 5, 9, 3], [2, 3], [2, *range(10, 40), 3], [2, 7, 3]]


def test_the_graph_computes_what_a_plain_forward_pass_does(tmp_path):
    weights = tiny_weights()
    graph = export(save(tmp_path / "m", weights), BertConfig.parse(CONFIG))
    for text, got in zip(TEXTS, run(graph, TEXTS), strict=True):
        np.testing.assert_allclose(got, forward(weights, text), atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_the_tanh_approximation_of_gelu_is_supported(tmp_path, activation):
    weights = tiny_weights()
    config = BertConfig.parse(CONFIG | {"hidden_act": activation})
    got = run(export(save(tmp_path / "m", weights), config), TEXTS)
    np.testing.assert_allclose(got[2], forward(weights, TEXTS[2], activation="tanh"), atol=1e-5)
    assert np.abs(got[2] - forward(weights, TEXTS[2])).max() > 1e-5


def test_roberta_counts_positions_from_behind_its_padding_id(tmp_path):
    weights = tiny_weights(types=1, prefix="roberta.")
    config = BertConfig.parse(ROBERTA)
    assert config.max_tokens == POSITIONS - 2
    plain = {name.removeprefix("roberta."): value for name, value in weights.items()}
    got = run(export(save(tmp_path / "m", weights), config), TEXTS)
    np.testing.assert_allclose(got[2], forward(plain, TEXTS[2], first=2), atol=1e-5)


def test_a_text_has_the_same_bits_alone_and_in_any_batch(tmp_path):
    graph = export(save(tmp_path / "m", tiny_weights()), BertConfig.parse(CONFIG))
    alone = [run(graph, [text])[0] for text in TEXTS]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 3, 2, 1]):
        for index, got in zip(order, run(graph, [TEXTS[i] for i in order]), strict=True):
            assert np.array_equal(got, alone[index])


def test_the_file_is_an_onnx_model_like_any_other(tmp_path):
    graph = export(save(tmp_path / "m", tiny_weights()), BertConfig.parse(CONFIG))
    onnx.checker.check_model(str(graph))
    model = onnx.load(graph)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    words = next(tensor for tensor in model.graph.initializer if tensor.name == "words")
    assert np.array_equal(onnx.numpy_helper.to_array(words), tiny_weights()["embeddings.word_embeddings.weight"])


def test_weights_begin_on_a_page_and_small_ones_stand_in_the_graph(tmp_path):
    graph = export(save(tmp_path / "m", tiny_weights()), BertConfig.parse(CONFIG))
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    beside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    offsets = [int(entry.value) for tensor in beside for entry in tensor.external_data if entry.key == "offset"]
    assert 0 < len(beside) < len(tensors)
    assert all(offset % 4096 == 0 for offset in offsets)
    assert graph.stat().st_size < graph.with_name(DATA_NAME).stat().st_size


def test_the_same_weights_give_the_same_bytes(tmp_path):
    weights = save(tmp_path / "m", tiny_weights())
    contents = []
    for _ in range(2):
        graph = export(weights, BertConfig.parse(CONFIG))
        contents.append((graph.read_bytes(), graph.with_name(DATA_NAME).read_bytes()))
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [("F16", 1e-3), ("BF16", 1e-2)])
def test_half_precision_weights_are_read_as_the_float32_they_stand_for(tmp_path, dtype, tolerance):
    weights = tiny_weights()
    stored = SafetensorsFile(save(tmp_path / "m", weights, dtype))
    name = "embeddings.word_embeddings.weight"
    read = stored.read(name, (WORDS, HIDDEN))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, weights[name], rtol=tolerance, atol=1e-6)
    # What is read is exactly representable in the stored dtype: nothing else happened to it.
    again = SafetensorsFile(save(tmp_path / "again", {name: read}, dtype)).read(name, (WORDS, HIDDEN))
    assert np.array_equal(again, read)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": None}, "None"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "silu"}, "silu"),
        ({"adapters": {"a": 1}}, "adapters"),
        ({"embedding_size": 8}, "embedding_size"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"num_hidden_layers": 0}, "below 1"),
        ({"hidden_size": "many"}, "many"),
    ],
)
def test_an_architecture_that_is_not_supported_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        BertConfig.parse(CONFIG | change)


def test_a_config_without_a_size_is_refused():
    with pytest.raises(ValueError, match="hidden_size"):
        BertConfig.parse({key: value for key, value in CONFIG.items() if key != "hidden_size"})


@pytest.mark.parametrize("keep", [0, 4, 9, 200, -1])
def test_truncated_weights_are_refused(tmp_path, keep):
    path = save(tmp_path / "m", tiny_weights())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"holds|header|truncated"):
        export(path, BertConfig.parse(CONFIG))


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}, "F8_E4M3"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "takes 8 bytes"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}, "whole numbers"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}, "truncated"),
        ({"shape": [1]}, "dtype"),
        ("nothing", "invalid entry"),
    ],
)
def test_a_damaged_tensor_entry_is_refused(tmp_path, entry, named):
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "m"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ValueError, match=named):
        SafetensorsFile(path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    path = save(tmp_path / "m", tiny_weights())
    for change, named in (
        ({"num_hidden_layers": LAYERS + 1}, "encoder.layer.2"),
        ({"num_hidden_layers": LAYERS - 1}, "more layers"),
        ({"vocab_size": WORDS + 1}, "word_embeddings"),
    ):
        with pytest.raises(ValueError, match=named):
            export(path, BertConfig.parse(CONFIG | change))
    with pytest.raises(ValueError, match="not a BERT-family checkpoint"):
        export(save(tmp_path / "other", {"x": np.zeros(1, np.float32)}), BertConfig.parse(CONFIG))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder with tiny weights."""
    folder = tmp_path / "tiny"
    (folder / "1_Pooling").mkdir(parents=True)
    save(folder / "model.safetensors", tiny_weights())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    return folder


def test_a_folder_is_exported_once_and_again_if_the_export_is_damaged(folder, tmp_path):
    files = files_of_folder("tiny", folder, data_dir=tmp_path / "data")
    assert (files.pooling, files.normalize, files.precision, files.max_tokens) == (
        Pooling.CLS,
        False,
        "fp32",
        POSITIONS,
    )
    assert files.exporter.startswith("embedmill-bert/3 ")
    made = files.graph.stat().st_ino
    data = files.graph.with_name(DATA_NAME)
    content = {path: path.read_bytes() for path in (files.graph, data)}
    assert files_of_folder("tiny", folder, data_dir=tmp_path / "data") == files
    assert files.graph.stat().st_ino == made
    for path, intact in content.items():
        for damage in (intact[:-10], intact[:-1] + b"x"):
            path.write_bytes(damage)
            assert files_of_folder("tiny", folder, data_dir=tmp_path / "data") == files
            assert path.read_bytes() == intact
        path.unlink()
        assert files_of_folder("tiny", folder, data_dir=tmp_path / "data") == files


def test_other_weights_or_another_config_are_another_model(folder, tmp_path):
    def named() -> str:
        return fingerprint(files_of_folder("tiny", folder, data_dir=tmp_path / "data"))

    first = named()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_attention_heads": 2}))
    second = named()
    save(folder / "model.safetensors", tiny_weights() | {"embeddings.LayerNorm.bias": np.zeros(HIDDEN, np.float32)})
    assert len({first, second, named()}) == 3


def test_a_damaged_folder_is_refused_and_left_alone(folder, tmp_path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    damaged = weights.read_bytes()
    with pytest.raises(ModelLoadError, match=r"tiny.*truncated or damaged"):
        files_of_folder("tiny", folder, data_dir=tmp_path / "data")
    assert weights.read_bytes() == damaged
