"""Every model of fastembed's registry, as tiny files of the same signature: our vectors and fastembed's own."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fastembed import TextEmbedding
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from embedmill_worker.engine import load
from embedmill_worker.models import StaticTable, in_precision, resolve
from embedmill_worker.models.sources.fastembed import described_by_fastembed, files_of_registered, find_registered

WORDS = [
    "[PAD]",
    "<low>",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["selamat", "pagi", "dunia", "good", "morning", "world", "buku", "book", "river", "night"],
]
LONGEST = 16
TEXTS = [
    "",
    "selamat pagi",
    "good morning world book river night " * 4,
    "unheard of",
    "buku",
    "selamat pagi dunia buku",
]
REGISTRY = [(kind, description) for kind, description in described_by_fastembed()]


def save_tokenizer(folder: Path, *, padding_side: str = "right") -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    tokenizer.save(str(folder / "tokenizer.json"))
    # The padding token is not 0, so that filling up with 0 would be seen.
    config = {"model_max_length": LONGEST, "pad_token": "<low>", "padding_side": padding_side}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "special_tokens_map.json").write_text("{}")


def graph(kind: str, dimension: int) -> onnx.ModelProto:
    """Token vectors that depend on the text's other tokens, and on nothing that a mask hides."""
    rng = np.random.default_rng(5)
    weights = {
        "words": rng.normal(size=(len(WORDS), dimension)).astype(np.float32),
        "tasks": rng.normal(size=(5, dimension)).astype(np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
        "axis": np.array(1),
        "last": np.array(-1),
        "first": np.array(0),
    }
    node = helper.make_node
    nodes = [node("Gather", ["words", "input_ids"], ["looked_up"])]
    inputs = {"input_ids": ["b", "t"], "attention_mask": ["b", "t"]}
    if kind == "SiglipOnnxTextEmbedding":
        del inputs["attention_mask"]
        nodes += [
            node("CumSum", ["looked_up", "axis"], ["last_hidden_state"]),
            node("Gather", ["last_hidden_state", "last"], ["pooler_output"], axis=1),
        ]
        outputs = {"last_hidden_state": 3, "pooler_output": 2}
    else:
        nodes += [
            node("Cast", ["attention_mask"], ["float_mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["float_mask", "two"], ["mask"]),
            node("Mul", ["looked_up", "mask"], ["masked"]),
            node("ReduceSum", ["masked", "one"], ["summed"], keepdims=1),
        ]
        mixed = "task_free" if kind == "JinaEmbeddingV3" else "last_hidden_state"
        if kind == "LastTokenNormalizedEmbedding":
            nodes.append(node("CumSum", ["masked", "axis"], [mixed]))
        else:
            nodes.append(node("Add", ["looked_up", "summed"], [mixed]))
        outputs = {"last_hidden_state": 3}
    if kind == "JinaEmbeddingV3":
        inputs["task_id"] = []
        nodes += [
            node("Gather", ["tasks", "task_id"], ["task"]),
            node("Add", [mixed, "task"], ["last_hidden_state"]),
        ]
    if kind == "CLIPOnnxEmbedding":
        nodes.append(node("Gather", ["last_hidden_state", "first"], ["text_embeds"], axis=1))
        outputs = {"text_embeds": 2}
    if kind == "BuiltinSentenceEmbedding":
        nodes.append(node("Gather", ["last_hidden_state", "first"], ["sentence_embedding"], axis=1))
        outputs["sentence_embedding"] = 2
    shapes = {3: ["b", "t", dimension], 2: ["b", dimension]}
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[rank]) for name, rank in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save_static(path: Path, name: str, dimension: int) -> None:
    """A table; for one of the models its vocabulary is quantised, as model2vec does it."""
    rng = np.random.default_rng(6)
    tensors = {"embeddings": rng.normal(size=(len(WORDS), dimension)).astype(np.float32)}
    if "multilingual" in name:
        tensors["mapping"] = np.arange(len(WORDS), dtype=np.int64) // 2
        tensors["weights"] = rng.uniform(0.5, 2, len(WORDS)).astype(np.float32)
    header, body = {}, b""
    for tensor, value in tensors.items():
        start, body = len(body), body + value.tobytes()
        dtype = {"float32": "F32", "int64": "I64"}[value.dtype.name]
        header[tensor] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, len(body)]}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def save_model(folder: Path, kind: str, description) -> None:
    """The files of a model, laid out as the hub's client does: links to contents that lie apart."""
    (folder / description.model_file).parent.mkdir(parents=True)
    side = "left" if kind == "LastTokenNormalizedEmbedding" else "right"
    save_tokenizer(folder, padding_side=side)
    path = folder / description.model_file
    if kind == "StaticTextEmbedding":
        save_static(path, description.model, description.dim)
    else:
        data = next((Path(file).name for file in description.additional_files if file.endswith("_data")), None)
        onnx.save(
            graph(kind, description.dim), path, save_as_external_data=bool(data), location=data, size_threshold=100
        )
    for i, file in enumerate([description.model_file, *description.additional_files]):
        blob = folder.parent.parent.parent / "blobs" / str(i) / Path(file).name
        blob.parent.mkdir(parents=True)
        (folder / file).rename(blob)
        (folder / file).symlink_to(blob)


def fastembeds(name: str, folder: Path, method: str = "embed") -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fastembed's words on the history of a model
        model = TextEmbedding(name, specific_model_path=str(folder), threads=None)
        return np.stack(list(getattr(model, method)(TEXTS)))


@pytest.fixture
def served(tmp_path):
    """Returns the engine and the folder of a model, whose download is its being there already."""

    def serve(kind, description):
        folder = tmp_path / "hub/models--tiny/snapshots/1"
        save_model(folder, kind, description)
        repository = SimpleNamespace(fetch=lambda _: folder, commit="tiny@1")
        files = files_of_registered(
            description.model, find_registered(description.model), repository, data_dir=tmp_path
        )
        return load(files, cache_dir=None), folder

    return serve


@pytest.mark.parametrize(("kind", "description"), REGISTRY, ids=[description.model for _, description in REGISTRY])
def test_vectors_are_those_of_fastembed(served, kind, description):
    engine, folder = served(kind, description)
    got = engine.embed(TEXTS)
    assert not got.rejected
    assert engine.card.dimension == description.dim
    want = fastembeds(description.model, folder)
    np.testing.assert_allclose(got.vectors, want, rtol=2e-5, atol=2e-6)
    # The comparison would see a difference: no two of these texts are alike to the model.
    assert len(np.unique(want.round(4), axis=0)) == len(TEXTS) - (kind == "StaticTextEmbedding")


def test_an_input_type_chooses_the_task_of_a_model_that_has_tasks(served):
    kind, description = next(found for found in REGISTRY if found[0] == "JinaEmbeddingV3")
    engine, folder = served(kind, description)
    for input_type, method in (("query", "query_embed"), ("passage", "passage_embed"), (None, "embed")):
        got = engine.embed(TEXTS, input_type=input_type).vectors
        np.testing.assert_allclose(got, fastembeds(description.model, folder, method), rtol=2e-5, atol=2e-6)
    query, passage = (engine.embed(TEXTS, input_type=kind).vectors for kind in ("query", "passage"))
    assert not np.allclose(query, passage, atol=1e-3)


def test_a_static_model_says_what_it_is(served):
    kind, description = next(found for found in REGISTRY if found[0] == "StaticTextEmbedding")
    engine, _ = served(kind, description)
    assert (engine.card.batch_class, engine.card.precision, engine.card.max_tokens) == ("exact", "fp32", 512)
    alone = np.concatenate([engine.embed([text]).vectors for text in TEXTS])
    assert alone.tobytes() == engine.embed(TEXTS).vectors.tobytes()
    counts = engine.embed(["", "buku", "unheard of", "buku " * 600])
    assert counts.token_counts.tolist() == [0, 1, 2, 600]
    assert counts.truncated.tolist() == [False, False, False, True]
    assert not counts.vectors[[0, 2]].any()


def test_a_folder_of_model2vec_is_served_too(tmp_path):
    save_tokenizer(tmp_path)
    save_static(tmp_path / "model.safetensors", "minishlab/potion-multilingual-128M", 8)
    raw, unit = [], []
    for normalize, rows in ((False, raw), (True, unit)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": normalize}))
        files = resolve(f"mine={tmp_path}", data_dir=tmp_path / "data")
        assert isinstance(files, StaticTable)
        rows.append(load(files, cache_dir=None).embed(TEXTS[1:3]).vectors)
    np.testing.assert_allclose(np.linalg.norm(unit[0], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(raw[0] / np.linalg.norm(raw[0], axis=1, keepdims=True), unit[0], rtol=1e-5)


def test_a_worker_s_precision_leaves_a_static_model_as_it_is(tmp_path):
    save_tokenizer(tmp_path)
    save_static(tmp_path / "model.safetensors", "any", 8)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    files = resolve(f"mine={tmp_path}", data_dir=tmp_path / "data")
    assert in_precision(files, "bf16", data_dir=tmp_path) is files
    assert files.precision == "fp32"


@pytest.mark.parametrize("integer", [TensorProto.INT32, TensorProto.INT64])
def test_a_graph_gets_its_positions_and_integers_of_its_own_type(tmp_path, integer):
    save_tokenizer(tmp_path)
    node = helper.make_node
    nodes = [
        node("Cast", ["position_ids"], ["steps"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["steps", "two"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info(name, integer, ["b", "t"]) for name in ("input_ids", "position_ids")]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "t", 1])
    made = helper.make_graph(nodes, "tiny", inputs, [output], [numpy_helper.from_array(np.array([2]), "two")])
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in (("Transformer", ""), ("Pooling", "1"))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1").mkdir()
    (tmp_path / "1/config.json").write_text(json.dumps({"pooling_mode": "max"}))
    engine = load(resolve(f"mine={tmp_path}", data_dir=tmp_path / "data"), cache_dir=None)
    # The last position of each text, with [CLS] and [SEP] at its ends.
    assert engine.embed(["", "buku", "selamat pagi dunia"]).vectors.tolist() == [[1], [2], [4]]
