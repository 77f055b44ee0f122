"""What a folder with an ONNX file, and the notes of sentence-transformers in it, resolve to."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedmill.errors import ModelLoadError
from embedmill_worker.models import ModelFiles, Pooling
from embedmill_worker.models.sources.folder import files_of_folder

E5_PROMPTS = {"query": "query: ", "passage": "passage: "}


def save_graph(path: Path, *, outputs=None, inputs=("input_ids", "attention_mask"), dtype=np.float32) -> None:
    """A graph that looks words up, with the outputs and inputs asked for."""
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["tokens"])]
    if dtype != np.float32:
        nodes.append(helper.make_node("Cast", ["tokens"], ["tokens32"], to=TensorProto.FLOAT))
    shapes = {3: ["b", "t", 4], 2: ["b", 4], 1: ["b"], None: None}
    outputs = outputs or {"last_hidden_state": 3}
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[rank]) for n, rank in outputs.items()]
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in inputs]
    words = numpy_helper.from_array(np.ones((5, 4), dtype), "words")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(helper.make_graph(nodes, "tiny", given, values, [words])), path)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_modules(folder: Path, *kinds: str, pooling: object = None) -> None:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{k}", "path": paths.get(k, f"9_{k}")} for k in kinds]
    write(folder / "modules.json", modules)
    if pooling is not None:
        write(folder / "1_Pooling/config.json", pooling)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bare folder with a plain graph."""
    folder = tmp_path / "tiny"
    save_graph(folder / "model.onnx")
    write(folder / "tokenizer.json", {"model": {}})
    write(folder / "tokenizer_config.json", {"model_max_length": 64})
    return folder


def resolved(folder: Path, name: str = "tiny") -> ModelFiles:
    return files_of_folder(name, folder, data_dir=folder.parent / "data")


def test_a_bare_folder_is_mean_pooled_and_normalised(folder):
    files = resolved(folder)
    assert (files.pooling, files.normalize, files.output) == (Pooling.MEAN, True, "last_hidden_state")
    assert (files.max_tokens, files.precision, files.exporter, dict(files.prompts)) == (64, "fp32", "", {})
    assert files.graph == folder / "model.onnx"


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, Pooling.MEAN),
        ({"pooling_mode_cls_token": True}, Pooling.CLS),
        ({"pooling_mode_max_tokens": True}, Pooling.MAX),
        ({"pooling_mode": "cls", "embedding_dimension": 4}, Pooling.CLS),
        ({"pooling_mode": ["max"]}, Pooling.MAX),
        ({"pooling_mode_lasttoken": True}, Pooling.LAST_TOKEN),
        ({"pooling_mode_weightedmean_tokens": True}, Pooling.WEIGHTED_MEAN),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, Pooling.MEAN_SQRT_LEN),
    ],
)
def test_pooling_is_what_the_pooling_module_says(folder, config, pooling):
    write_modules(folder, "Transformer", "Pooling", pooling=config)
    assert (resolved(folder).pooling, resolved(folder).normalize) == (pooling, False)
    write_modules(folder, "Transformer", "Pooling", "Normalize")
    assert resolved(folder).normalize is True


@pytest.mark.parametrize(
    ("kinds", "pooling", "named"),
    [
        (("Transformer", "Pooling"), {"pooling_mode": "attention"}, "attention"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            r"max \+ mean",
        ),
        (("Transformer", "Pooling"), {}, "empty"),
        (("Transformer", "Pooling"), [], "not an object"),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}, "9_Dense"),
        (("Transformer", "Pooling", "LSTM"), {"pooling_mode": "mean"}, "LSTM"),
        (("Transformer", "Pooling", "Pooling"), {"pooling_mode": "mean"}, "one Transformer and one Pooling"),
        (("Pooling", "Transformer"), {"pooling_mode": "mean"}, "must come first"),
        (("Transformer",), None, "one Transformer and one Pooling"),
    ],
)
def test_what_cannot_be_done_after_the_graph_is_refused_by_name(folder, kinds, pooling, named):
    write_modules(folder, *kinds, pooling=pooling)
    with pytest.raises(ModelLoadError, match=named):
        resolved(folder)


def test_a_pooling_config_outside_the_folder_is_not_read(folder):
    write(folder.parent / "outside/config.json", {"pooling_mode": "mean"})
    write(
        folder / "modules.json",
        [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "../outside"},
        ],
    )
    with pytest.raises(ModelLoadError, match="outside the folder"):
        resolved(folder)


@pytest.mark.parametrize(
    ("notes", "max_tokens"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 32}}, 32),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, 64),
        ({"sentence_bert_config.json": {"max_seq_length": 256}, "config.json": {"max_position_embeddings": 128}}, 128),
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": 514}}, 514),
        (
            {
                "tokenizer_config.json": {},
                "config.json": {"max_position_embeddings": 514, "model_type": "xlm-roberta"},
            },
            512,
        ),
    ],
)
def test_the_longest_text_is_what_the_first_file_to_say_says(folder, notes, max_tokens):
    for file, value in notes.items():
        write(folder / file, value)
    assert resolved(folder).max_tokens == max_tokens


def test_a_folder_that_names_no_longest_text_is_refused_with_the_way_out(folder):
    write(folder / "tokenizer_config.json", {})
    with pytest.raises(ModelLoadError, match="max_seq_length"):
        resolved(folder)


@pytest.mark.parametrize(
    ("name", "stated", "prompts"),
    [
        ("multilingual-e5-small", None, E5_PROMPTS),
        ("multilingual-e5-small", {"query": "", "document": ""}, E5_PROMPTS),
        ("multilingual-e5-small", {"query": "q: "}, {"query": "q: "}),
        ("tiny", {"query": "q: ", "document": "d: "}, {"query": "q: ", "passage": "d: "}),
        ("multilingual-e5-large-instruct", None, {}),
        ("bge5-model", None, {}),
        ("tiny", None, {}),
    ],
)
def test_prompts_are_those_stated_or_those_of_the_family(folder, name, stated, prompts):
    if stated is not None:
        write(folder / "config_sentence_transformers.json", {"prompts": stated})
    assert dict(resolved(folder, name).prompts) == prompts


def test_a_folder_s_own_name_tells_its_family_too(folder):
    renamed = folder.rename(folder.parent / "e5-small-v2")
    assert dict(resolved(renamed, "mine").prompts) == E5_PROMPTS


def test_the_default_prompt_is_for_texts_without_an_input_type_only(folder):
    stated = {"prompts": {"x": "y: ", "query": "q: "}, "default_prompt_name": "x"}
    write(folder / "config_sentence_transformers.json", stated)
    assert dict(resolved(folder).prompts) == {"": "y: ", "query": "q: "}


def test_a_default_prompt_that_is_not_there_is_refused(folder):
    write(folder / "config_sentence_transformers.json", {"prompts": {"x": "y"}, "default_prompt_name": "z"})
    with pytest.raises(ModelLoadError, match="default_prompt_name 'z'"):
        resolved(folder)


def test_code_of_a_model_s_own_is_refused_by_name_and_never_imported(folder):
    (folder / "custom_st.py").write_text("raise SystemExit('executed')")
    modules = [
        {"type": "custom_st.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "p"},
    ]
    write(folder / "modules.json", modules)
    with pytest.raises(ModelLoadError, match=r"custom_st\.Transformer.*never executed"):
        resolved(folder)


def test_an_architecture_that_is_code_of_the_model_s_own_is_refused_by_name(folder):
    (folder / "model.onnx").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    auto_map = {"AutoModel": "modeling_own.OwnModel"}
    write(folder / "config.json", {"model_type": "own", "max_position_embeddings": 64, "auto_map": auto_map})
    with pytest.raises(ModelLoadError, match=r"'own' is code that comes with the model \(auto_map\)"):
        resolved(folder)


def test_texts_that_would_have_to_be_lowered_are_refused(folder):
    write(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    with pytest.raises(ModelLoadError, match="do_lower_case"):
        resolved(folder)


def test_a_graph_named_by_its_file_is_taken_and_no_other(folder):
    for name in ("onnx/model_quantized.onnx", "onnx/model_int8.onnx"):
        save_graph(folder / name)
    for place in ("onnx/model_quantized.onnx", "model.onnx"):
        files = resolved(folder / place)
        assert (files.graph, files.tokenizer) == (folder / place, folder / "tokenizer.json")
        assert files.max_tokens == 64
    with pytest.raises(ModelLoadError, match="is not a file"):
        resolved(folder / "onnx/model_fp16.onnx")


def test_a_graph_that_wants_positions_is_served_unless_they_begin_elsewhere(folder):
    save_graph(folder / "model.onnx", inputs=("input_ids", "attention_mask", "position_ids"))
    assert resolved(folder).graph == folder / "model.onnx"
    write(folder / "config.json", {"model_type": "xlm-roberta"})
    with pytest.raises(ModelLoadError, match="position_ids that begin at"):
        resolved(folder)


def test_a_graph_with_tasks_is_served_if_the_folder_names_them(folder):
    save_graph(folder / "model.onnx", inputs=("input_ids", "attention_mask", "task_id"))
    with pytest.raises(ModelLoadError, match="takes input_ids, attention_mask, task_id"):
        resolved(folder)
    write(folder / "config.json", {"lora_adaptations": ["separation", "retrieval.passage", "retrieval.query"]})
    assert dict(resolved(folder).task_ids) == {"": 1, "passage": 1, "query": 2}


def test_a_decoder_with_a_cache_is_refused_with_its_inputs(folder):
    save_graph(folder / "model.onnx", inputs=("input_ids", "attention_mask", "past_key_values.0.key"))
    with pytest.raises(ModelLoadError, match=r"past_key_values\.0\.key.*export it without"):
        resolved(folder)


DENSE = {"in_features": 4, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "Mish"),
        ({"activation_function": "own.Tanh"}, r"own\.Tanh"),
        ({"use_residual": True}, "residual"),
        ({"module_input_name": "token_embeddings"}, "token vectors"),
        ({"in_features": None}, "damaged"),
    ],
)
def test_a_dense_layer_that_cannot_be_done_is_refused_by_name(folder, change, named):
    write_modules(folder, "Transformer", "Pooling", "Dense", pooling={"pooling_mode": "mean"})
    write(folder / "9_Dense/config.json", DENSE | change)
    (folder / "9_Dense/model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=named):
        resolved(folder)


def test_dense_weights_in_a_pickle_are_refused(folder):
    write_modules(folder, "Transformer", "Pooling", "Dense", pooling={"pooling_mode": "mean"})
    write(folder / "9_Dense/config.json", DENSE)
    (folder / "9_Dense/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="pickle are never opened"):
        resolved(folder)


def test_normalising_counts_where_it_stands(folder):
    write_modules(folder, "Transformer", "Pooling", "Normalize", "Dense", pooling={"pooling_mode": "mean"})
    write(folder / "9_Dense/config.json", DENSE)
    (folder / "9_Dense/model.safetensors").write_bytes(b"")
    files = resolved(folder)
    assert (files.normalize, [layer.normalizes_first for layer in files.layers]) == (False, [True])


@pytest.mark.parametrize(
    ("outputs", "has_modules", "pooling", "output"),
    [
        ({"sentence_embedding": 2}, False, Pooling.NONE, "sentence_embedding"),
        ({"token_embeddings": 3, "sentence_embedding": 2}, False, Pooling.NONE, "sentence_embedding"),
        ({"token_embeddings": 3, "sentence_embedding": 2}, True, Pooling.CLS, "token_embeddings"),
        ({"sentence_embedding": 2, "token_embeddings": 3}, True, Pooling.CLS, "token_embeddings"),
        ({"last_hidden_state": 3, "pooler_output": 2}, False, Pooling.MEAN, "last_hidden_state"),
        ({"last_hidden_state": None}, False, Pooling.MEAN, "last_hidden_state"),
        ({"text_embeds": 2}, True, Pooling.NONE, "text_embeds"),
    ],
)
def test_finished_vectors_are_taken_from_the_graph_where_it_has_them(folder, outputs, has_modules, pooling, output):
    save_graph(folder / "model.onnx", outputs=outputs)
    if has_modules:
        write_modules(folder, "Transformer", "Pooling", pooling={"pooling_mode": "cls"})
    assert (resolved(folder).pooling, resolved(folder).output) == (pooling, output)


def test_a_graph_that_cannot_be_run_is_refused_by_what_it_wants(folder):
    save_graph(folder / "model.onnx", inputs=("input_ids", "task_id"))
    with pytest.raises(ModelLoadError, match="task_id"):
        resolved(folder)
    save_graph(folder / "model.onnx", outputs={"scores": 1})
    with pytest.raises(ModelLoadError, match="scores of rank 1"):
        resolved(folder)


def test_a_plain_graph_is_preferred_and_a_variant_is_taken_if_there_is_nothing_else(folder):
    save_graph(folder / "onnx/model_quantized.onnx")
    save_graph(folder / "onnx/model.onnx", dtype=np.float16)
    assert resolved(folder).graph == folder / "model.onnx"
    (folder / "model.onnx").unlink()
    assert resolved(folder).graph == folder / "onnx/model.onnx"
    assert resolved(folder).precision == "fp16"
    (folder / "onnx/model.onnx").unlink()
    assert resolved(folder).graph == folder / "onnx/model_quantized.onnx"


def test_precision_is_what_the_graph_s_operators_say(folder):
    model = onnx.load(folder / "model.onnx")
    for kind, bits, precision in (
        ("DynamicQuantizeLinear", None, "int8"),
        ("MatMulNBits", 8, "w8"),
        ("MatMulNBits", None, "w4"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        attributes = {} if bits is None else {"bits": bits}
        changed.graph.node.append(helper.make_node(kind, ["tokens"], ["y"], **attributes))
        onnx.save(changed, folder / "model.onnx")
        assert resolved(folder).precision == precision


@pytest.mark.parametrize(
    ("remove", "add", "named"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("model.onnx", None, "neither model.onnx"),
        ("model.onnx", "pytorch_model.bin", "pickle"),
        ("model.onnx", "model.safetensors.index.json", "weight_map"),
    ],
)
def test_an_incomplete_folder_is_refused_with_the_way_out(folder, remove, add, named):
    (folder / remove).unlink()
    if add:
        (folder / add).write_text("{}")
    with pytest.raises(ModelLoadError, match=named):
        resolved(folder)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 100])
def test_a_damaged_graph_is_refused(folder, content):
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"model\.onnx is damaged"):
        resolved(folder)


def test_a_truncated_graph_is_refused(folder):
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-30])
    with pytest.raises(ModelLoadError, match="damaged"):
        resolved(folder)


@pytest.mark.parametrize("file", ["config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json"])
def test_a_damaged_note_is_refused_by_name(folder, file):
    (folder / file).write_text('{"cut": ')
    with pytest.raises(ModelLoadError, match=file.replace(".", r"\.")):
        resolved(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="is not a folder"):
        resolved(tmp_path / "nothing")


def test_weights_that_a_graph_names_outside_its_folder_are_not_read(folder, tmp_path):
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="stolen", size_threshold=0)
    (folder / "stolen").rename(folder.parent / "stolen")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../stolen"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match="not beside it"):
        resolved(folder)


def test_weights_beside_the_graph_are_part_of_it_and_must_be_there(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
        all_tensors_to_one_file=True,
    )
    before = resolved(folder).weights_sha256
    data = folder / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    assert resolved(folder).weights_sha256 != before
    data.rename(folder.parent / "model.onnx_data")
    with pytest.raises(ModelLoadError, match="not beside it"):
        resolved(folder)


def test_a_pointer_of_git_lfs_is_no_model(folder):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name in ("model.onnx", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(pointer)
        with pytest.raises(ModelLoadError, match=f"{name} is a Git LFS pointer and not the file itself"):
            resolved(folder)
        (folder / name).write_bytes(content)


def test_pooling_of_a_bare_folder_is_its_family_s_and_a_guess_is_told(folder, caplog):
    caplog.set_level("INFO")
    assert resolved(folder, "mine").pooling is Pooling.MEAN
    assert "its vectors are pooled by mean" in caplog.text and "WARNING" in caplog.text
    caplog.clear()
    files = resolved(folder, "Xenova/bge-small-en-v1.5")
    assert (files.pooling, files.sources["pooling"]) == (Pooling.CLS, "the family of the name Xenova/bge-small-en-v1.5")
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"architectures": ["XLMRobertaForSequenceClassification"]}, {}),
        ({}, {"model_type": "CrossEncoder"}),
    ],
)
def test_what_scores_texts_is_refused(folder, config, note):
    write(folder / "config.json", config)
    write(folder / "config_sentence_transformers.json", note)
    with pytest.raises(ModelLoadError, match="which scores texts and returns no vectors"):
        resolved(folder)
