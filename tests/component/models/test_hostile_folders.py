"""Model folders made to do harm: nothing of them is executed, nothing outside is read, and the error has a name."""

import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from embedmill.errors import ModelLoadError
from embedmill_worker.engine import load
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models import resolve
from embedmill_worker.onnx_runtime import open_graph

TOKENIZER = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"},
    "pre_tokenizer": {"type": "Whitespace"},
}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def mark(tmp_path):
    """The file that whatever is executed would leave."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def evil(mark) -> bytes:
    return pickle.dumps(Payload(f"touch {shlex.quote(str(mark))}"))


def graph(*nodes, words=None, **more) -> onnx.ModelProto:
    """A graph that looks words up, and whatever else."""
    words = numpy_helper.from_array(np.ones((5, 4), np.float32), "words") if words is None else words
    look_up = helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])
    given = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    put_out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 4])]
    made = helper.make_graph([look_up, *nodes], "tiny", given, put_out, [words])
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)], ir_version=10, **more
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that is served."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    onnx.save(graph(), folder / "model.onnx")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    return folder


def served(folder: Path):
    data = folder.parent / "data"
    return load(resolve(f"tiny={folder}", data_dir=data), cache_dir=data / "probes")


def test_the_folder_as_it_is_is_served(folder):
    assert served(folder).embed(["a b"]).vectors.shape == (1, 4)


#: Loads a folder and says what it opened or ran; any unpickling or start of a process ends it.
WATCH = """
import sys
seen = []
def hook(event, args):
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        seen.append(event)
    if event == "open" and isinstance(args[0], str) and args[0].startswith(sys.argv[1]):
        seen.append(args[0])
from embedmill_worker.engine import load
from embedmill_worker.models import resolve
from pathlib import Path
load(resolve("warm=" + sys.argv[2], data_dir=Path(sys.argv[3])), cache_dir=None)
sys.addaudithook(hook)
load(resolve("tiny=" + sys.argv[1], data_dir=Path(sys.argv[3])), cache_dir=None)
print("\\n".join(seen))
"""


def test_pickles_and_code_in_a_folder_are_not_even_opened(folder, mark, evil, tmp_path):
    code = f"import os; os.system('touch {mark}')"
    for name in ("pytorch_model.bin", "model.pkl", "model.pt", "training_args.bin", "optimizer.pt", "rust_model.ot"):
        (folder / name).write_bytes(evil)
    for name in ("sitecustomize.py", "usercustomize.py", "modeling_own.py", "__init__.py", "onnx.py", "conftest.py"):
        (folder / name).write_text(code)
    (folder / "own.pth").write_text(f"import os; os.system('touch {mark}')")
    (folder / "config.json").write_text(
        json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}, "trust_remote_code": True, "model_type": "own"})
    )
    (folder / "model.xml").write_text('<net><layers><layer type="Own" library="./own.so"/></layers></net>')
    (folder / "own.so").write_bytes(b"\x7fELF")
    warm = tmp_path / "warm"
    warm.mkdir()
    for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json"):
        (warm / name).write_bytes((folder / name).read_bytes())
    command = [sys.executable, "-c", WATCH, str(folder), str(warm), str(tmp_path / "data")]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=120, check=True)
    opened = {Path(line).name if "/" in line else line for line in done.stdout.split()}
    assert opened <= {"model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "modules.json"} | {
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "model.safetensors.index.json",
    }
    assert "config.json" in opened


PLACES = ["model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "modules.json"]


@pytest.mark.parametrize("place", [*PLACES, "sentence_bert_config.json", "config_sentence_transformers.json"])
def test_a_pickle_in_a_file_s_place_is_refused_by_name(folder, evil, place):
    (folder / place).write_bytes(evil)
    with pytest.raises(ModelLoadError, match=place.replace(".", r"\.")):
        served(folder)


def test_a_pickle_under_the_name_of_safetensors_is_refused(folder, evil):
    (folder / "model.onnx").unlink()
    config = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 4}
    config |= {"intermediate_size": 4, "vocab_size": 5, "max_position_embeddings": 16}
    (folder / "config.json").write_text(json.dumps(config))
    for content in (evil, len(evil).to_bytes(8, "little") + evil):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelLoadError, match="header"):
            served(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(evil)
    with pytest.raises(ModelLoadError, match="pickle and is never opened"):
        served(folder)


def test_a_pickle_under_the_name_of_fasttext_is_refused(tmp_path, evil):
    (tmp_path / "made.bin").write_bytes(evil)
    with pytest.raises(ModelLoadError, match="not a fastText model"):
        resolve(str(tmp_path / "made.bin"), data_dir=tmp_path / "data")


def test_pickles_among_the_notes_of_the_data_folder_are_not_opened(folder, evil, mark):
    """What is kept between starts is JSON and one plain array; each is made again if it is not."""
    served(folder)
    notes = list((folder.parent / "data").rglob("*.json"))
    assert notes
    for note in notes:
        note.write_bytes(evil)
    assert served(folder).embed(["a"]).vectors.shape == (1, 4)


def test_an_array_of_objects_in_the_index_s_place_is_not_opened(tmp_path, mark):
    from embedmill_worker.models.disk import sha256_of
    from embedmill_worker.models.formats.fasttext_words import WordIndex, digest

    data = bytes(64)

    def loaded(array):
        np.save(tmp_path / "index.npy", array, allow_pickle=True)
        note = {"end": 10, "dictionary_sha256": digest(data, 10), "sha256": sha256_of(tmp_path / "index.npy")}
        (tmp_path / "manifest.json").write_text(json.dumps(note))
        return WordIndex._load(tmp_path, data, 1)

    assert loaded(np.zeros((3, 1), np.uint32)) is not None
    assert loaded(np.array([[Payload(f"touch {shlex.quote(str(mark))}")]] * 3, dtype=object)) is None


def external(location: str) -> TensorProto:
    made = TensorProto(name="words", data_type=TensorProto.FLOAT, dims=[5, 4], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    made.external_data.add(key="length", value="80")
    return made


OUTSIDE = ["../secret", "/etc/passwd", "sub/../../secret", "link", "folder-link/secret", "nothing", "", "."]


@pytest.fixture
def secret(folder):
    (folder.parent / "secret").write_bytes(bytes(80))
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "folder-link").symlink_to(folder.parent)
    (folder / "sub").mkdir()


@pytest.mark.parametrize("location", OUTSIDE)
def test_weights_outside_of_the_folder_are_not_read(folder, secret, location):
    onnx.save(graph(words=external(location)), folder / "model.onnx")
    with pytest.raises(ModelLoadError, match="not beside it"):
        served(folder)


@pytest.mark.parametrize("location", OUTSIDE)
def test_constants_outside_of_the_folder_are_not_read_either(folder, secret, location):
    inside = helper.make_node("Constant", [], ["c"], value=external(location))
    body = helper.make_graph([inside], "body", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [5, 4])])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    either = helper.make_node("If", ["yes"], ["either"], then_branch=body, else_branch=body)
    onnx.save(graph(yes, either), folder / "model.onnx")
    with pytest.raises(ModelLoadError, match="not beside it"):
        served(folder)


def test_onnx_runtime_itself_reads_no_weights_outside(folder, secret):
    """The second lock: a note about the graph that was forged in the data folder does not help."""
    onnx.save(graph(words=external("../secret")), folder / "model.onnx")
    with pytest.raises(Exception, match=r"(?i)escapes|outside|external data|not.*allowed|invalid"):
        open_graph(folder / "model.onnx")


def test_an_operator_of_the_model_s_own_is_refused(folder):
    own = helper.make_node("Run", ["last_hidden_state"], ["x"], domain="own", library="./own.so")
    onnx.save(graph(own), folder / "model.onnx")
    with pytest.raises(ModelLoadError, match="not a graph that ONNX Runtime can load"):
        served(folder)


def test_a_graph_that_names_another_compiler_s_cache_is_refused(folder):
    cache = helper.make_node(
        "EPContext", ["last_hidden_state"], ["x"], domain="com.microsoft", embed_mode=0, ep_cache_context="../secret"
    )
    made = graph(cache)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(made, folder / "model.onnx")
    with pytest.raises(ModelLoadError, match="not a graph that ONNX Runtime can load"):
        served(folder)


@pytest.mark.parametrize("place", [*PLACES, "sentence_bert_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_file_s_place_is_refused_and_not_read(folder, place, kind):
    (folder / place).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / place)
    else:
        (folder / place).symlink_to("/dev/zero")
    with pytest.raises(ModelLoadError):
        served(folder)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_a_folder_in_a_file_s_place_is_named_as_what_it_is(folder, place):
    (folder / place).unlink(missing_ok=True)
    (folder / place).mkdir()
    with pytest.raises(ModelLoadError, match=f"{place} is not an ordinary file"):
        served(folder)


def test_a_tokenizer_of_any_size_is_refused_unread(folder):
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(ModelLoadError, match="has 268435457 bytes, limit 268435456"):
        TextTokenizer(folder / "tokenizer.json", model="m", max_tokens=8)


@pytest.mark.parametrize(
    "name",
    [
        "a/../../x",
        "../x",
        "/etc",
        "x\x00y",
        "~root",
        "",
        "=",
        "=/etc",
        "name=",
        "a" * 300,
        "a" * 9_000,
        "~nobody-here/x",
    ],
)
def test_a_name_is_no_way_out_of_the_data_folder(tmp_path, name):
    with pytest.raises(ModelLoadError):
        resolve(name, data_dir=tmp_path / "data", download=False)
    assert not (tmp_path / "x").exists()


NOTES = ["config.json", "modules.json", "sentence_bert_config.json", "tokenizer_config.json"]
NOTES += ["config_sentence_transformers.json", "1_Pooling/config.json"]
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]
KEYS = ["model_type", "max_position_embeddings", "auto_map", "lora_adaptations", "max_seq_length", "do_lower_case"]
KEYS += ["model_max_length", "prompts", "default_prompt_name", "pooling_mode", "include_prompt", "type", "path"]
KEYS += ["pooling_mode_mean_tokens", "normalize", "num_hidden_layers", "hidden_size"]
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["bert", "mean"])
)
notes = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
)


@pytest.mark.property
def test_whatever_the_notes_of_a_folder_say_it_is_served_or_refused(folder):
    (folder / "1_Pooling").mkdir()

    @settings(suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(NOTES), notes | st.dictionaries(st.sampled_from(KEYS), notes), st.booleans())
    def holds(place, value, has_modules):
        for name in NOTES:
            (folder / name).unlink(missing_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
        if has_modules:
            (folder / "modules.json").write_text(json.dumps(MODULES))
            (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
        (folder / place).write_text(json.dumps(value))
        try:
            resolve(f"tiny={folder}", data_dir=folder.parent / "data")
        except ModelLoadError as error:
            assert str(error)

    holds()
