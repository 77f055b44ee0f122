"""Models fetched from a hub that these tests serve on a local port: fastembed's registry, and any repository."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from huggingface_hub import hf_hub_download, snapshot_download
from onnx import TensorProto, helper, numpy_helper

from embedmill.errors import ModelLoadError
from embedmill_worker.engine import load
from embedmill_worker.models import ModelFiles, fingerprint
from embedmill_worker.models import resolve as resolve_model
from embedmill_worker.models.sources import hub as hub_module
from support.model_hub import TOKEN, Hub, Repository, asking, environment, model_hub

NAME = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
REPOSITORY = "Qdrant/paraphrase-multilingual-MiniLM-L12-v2-onnx-Q"

KINDS = Path(__file__).resolve().parent.parent / "data" / "golden" / "kinds"
TEXTS = json.loads((KINDS / "texts.json").read_text())
VARIANTS = json.loads((KINDS / "variants.json").read_text())

#: What a process of its own does, which reads the variables of huggingface_hub.
PROCESS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_models_hub import told_of
print(json.dumps([told_of(name, Path(sys.argv[2])) for name in sys.argv[3:]]))
"""


def told_of(name: str, data_dir: Path, texts: list[str] | None = None, **options) -> dict:
    """What a model resolves to, or why it does not; its vectors, too, if it is to be run."""
    try:
        files = resolve_model(name, data_dir=data_dir, **options)
        vectors = load(files, cache_dir=None).embed(texts).vectors if texts else None
    except ModelLoadError as error:
        return {"error": str(error)}
    told = {"name": files.name, "tokenizer": str(files.tokenizer), "normalize": files.normalize}
    told |= {"precision": files.precision, "fingerprint": fingerprint(files), "revision": files.revision}
    if isinstance(files, ModelFiles):
        told |= {"graph": str(files.graph), "pooling": str(files.pooling), "max_tokens": files.max_tokens}
        told |= {"prompts": dict(files.prompts), "sources": dict(files.sources)}
    return told if vectors is None else told | {"vectors": vectors}


def tiny_graph() -> bytes:
    words = numpy_helper.from_array(np.arange(40, dtype=np.float16).reshape(10, 4), "words")
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["halves"]),
        helper.make_node("Cast", ["halves"], ["last_hidden_state"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 4])
    return helper.make_model(helper.make_graph(nodes, "tiny", inputs, [output], [words])).SerializeToString()


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        "model_optimized.onnx": tiny_graph(),
        "tokenizer.json": json.dumps({"model": {"type": "WordLevel"}}).encode(),
        "tokenizer_config.json": json.dumps({"model_max_length": 512, "max_length": 128}).encode(),
        "config.json": json.dumps({"model_type": "bert"}).encode(),
        "special_tokens_map.json": b"{}",
        "README.md": b"not wanted",
        "pytorch_model.bin": b"not wanted either",
    }
    with model_hub() as hub:
        hub.repositories[REPOSITORY] = Repository(files)
        yield hub


def resolve_all(
    hub_url: str, data_dir: Path, names: list[str], *, is_offline: bool = False, token: str = "", **options
) -> list[dict]:
    """Resolves models one after the other, asking this hub."""
    with asking(hub_url, data_dir / "hf-home", is_offline=is_offline, **({"HF_TOKEN": token} if token else {})):
        return [told_of(name, data_dir, **options) for name in names]


def resolve(hub_url: str, data_dir: Path, name: str = NAME, **options) -> dict:
    (told,) = resolve_all(hub_url, data_dir, [name], **options)
    return told


def resolve_elsewhere(hub_url: str, data_dir: Path, *names: str, **variables: str) -> list[dict]:
    """In a process of its own, with the variables that a user would set; no line of a library may reach the user."""
    given = environment(hub_url, data_dir / "hf-home", **variables)
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(data_dir), *names]
    given["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_the_first_user_s_model_is_fetched_once_and_then_needs_no_hub(hub, tmp_path):
    files = resolve(hub.url, tmp_path)
    assert "error" not in files, files
    # What fastembed's PooledEmbedding does: mean, not normalised.
    assert (files["pooling"], files["normalize"], files["max_tokens"], files["prompts"]) == ("mean", False, 128, {})
    assert files["precision"] == "fp16"
    assert Path(files["graph"]).read_bytes() == hub.repositories[REPOSITORY].files["model_optimized.onnx"]
    assert Path(files["graph"]).is_relative_to(tmp_path)
    assert "pytorch_model.bin" not in hub.sent
    sent = len(hub.sent)
    assert resolve_elsewhere("http://127.0.0.1:9", tmp_path, NAME) == [files]
    assert resolve(hub.url, tmp_path, download=False) == files
    assert len(hub.sent) == sent


@pytest.mark.parametrize(
    ("part", "damage"),
    [("graph", "truncated"), ("graph", "same size"), ("tokenizer", "truncated"), ("tokenizer", "gone")],
)
def test_a_damaged_download_is_found_and_fetched_again(hub, tmp_path, part, damage):
    files = resolve(hub.url, tmp_path)
    path = Path(files[part])
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "truncated" else content[:-9] + b"#" * 9)
    assert resolve(hub.url, tmp_path) == files
    assert path.read_bytes() == content


def test_a_download_that_was_cut_off_before_its_last_file_is_completed(hub, tmp_path):
    files = resolve(hub.url, tmp_path)
    (manifest,) = (tmp_path / "hub/manifests").iterdir()
    tokenizer = Path(files["tokenizer"])
    for path in (manifest, tokenizer.resolve(), tokenizer):
        path.unlink(missing_ok=True)
    assert "error" in resolve(hub.url, tmp_path, download=False)
    assert resolve(hub.url, tmp_path) == files


def test_a_hub_that_sends_other_content_than_it_names_is_not_believed(hub, tmp_path):
    honest = hub.repositories[REPOSITORY].files["model_optimized.onnx"]
    other = honest[:-9] + b"#" * 9
    digest = hub.sha256(honest)
    hub.sha256 = lambda _: digest
    hub.repositories[REPOSITORY].files["model_optimized.onnx"] = other
    assert "damaged" in resolve(hub.url, tmp_path)["error"]
    hub.repositories[REPOSITORY].files["model_optimized.onnx"] = honest
    assert "error" not in resolve(hub.url, tmp_path)


def test_without_a_hub_the_error_names_the_way_out(tmp_path):
    error = resolve("http://127.0.0.1:9", tmp_path)["error"]
    assert "could not be fetched" in error
    assert f"{NAME}=/path/to/folder" in error
    assert "downloads are off" in resolve("http://127.0.0.1:9", tmp_path, download=False)["error"]


# Any repository


def variant(name: str, folder: Path) -> Repository:
    """The files of a golden model, as a repository."""
    shutil.copytree(KINDS / VARIANTS[name]["base"], folder)
    for path, content in VARIANTS[name]["files"].items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return Repository.of_folder(folder)


def graph_files(*places: str, tmp_path: Path, external: str = "") -> dict[str, bytes]:
    """The files of a model that has ONNX files alone, of an architecture that is not exported."""
    words = numpy_helper.from_array(np.arange(4000, dtype=np.float32).reshape(1000, 4), "words")
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 4])
    node = helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])
    model = helper.make_model(helper.make_graph([node], "tiny", inputs, [output], [words]), ir_version=8)
    model.opset_import[0].version = 17
    folder = tmp_path / f"graphs-{len(list(tmp_path.iterdir()))}"
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(
            onnx.ModelProto.FromString(model.SerializeToString()),
            folder / place,
            save_as_external_data=bool(external),
            location=external,
            size_threshold=100,
        )
    return Repository.of_folder(folder).files | {
        "tokenizer.json": (KINDS / "bert/tokenizer.json").read_bytes(),
        "tokenizer_config.json": json.dumps({"model_max_length": 64}).encode(),
        "config.json": json.dumps({"model_type": "nomic_bert", "auto_map": {"AutoModel": "own.Own"}}).encode(),
        "own.py": b"raise SystemExit",
    }


def test_repositories_are_exported_and_their_vectors_are_those_of_sentence_transformers(hub, golden_kinds, tmp_path):
    for number, name in enumerate(VARIANTS):
        hub.repositories[f"org/kind-{number}"] = variant(name, tmp_path / f"kind-{number}")
    names = list(hub.repositories)[1:]
    told = resolve_all(hub.url, tmp_path / "data", names, texts=TEXTS)
    for number, (name, want) in enumerate((name, golden_kinds[name]) for name in VARIANTS):
        assert told[number].get("error") is None, (name, told[number])
        assert told[number]["revision"] == f"org/kind-{number}@{hub.repositories[f'org/kind-{number}'].commit}"
        got = told[number]["vectors"]
        cosines = (got * want).sum(axis=1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
        assert cosines.min() >= 0.9999, name
    # The same files on the disk have the same fingerprint.
    assert resolve(hub.url, tmp_path / "data", str(tmp_path / "kind-0"))["fingerprint"] == told[0]["fingerprint"]


def test_only_the_files_that_are_needed_are_fetched_and_a_restart_needs_no_hub(hub, tmp_path):
    repository = variant("dense", tmp_path / "dense")
    repository.files |= dict.fromkeys(
        ("onnx/model.onnx", "onnx/model_quantized.onnx", "pytorch_model.bin", "tf_model.h5", "README.md", "vocab.txt",
         "openvino/openvino_model.bin", "onnx/config.json", "onnx/tokenizer.json"), b"not wanted",
    )  # fmt: skip
    hub.repositories["org/dense"] = repository
    first = resolve(hub.url, tmp_path / "data", "org/dense")
    assert sorted(hub.sent) == sorted(
        ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "config.json", "modules.json",
         "model.safetensors", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"]
    )  # fmt: skip
    asked = len(hub.asked)
    again = resolve_all(hub.url, tmp_path / "data", ["org/dense"])
    assert again == [first] and len(hub.asked) == asked
    assert resolve("http://127.0.0.1:9", tmp_path / "data", "org/dense", is_offline=True) == first


def test_a_start_that_fetches_nothing_writes_nothing_and_takes_no_lock(hub, tmp_path, monkeypatch):
    """The data folder may be one that the worker may only read, as in an image."""

    def refuse(*_):
        raise AssertionError("the data folder is written to")

    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    first = resolve(hub.url, tmp_path / "data", "org/model")
    monkeypatch.setattr(hub_module, "locked_folder", refuse)
    monkeypatch.setattr(hub_module, "write_atomically", refuse)
    assert resolve(hub.url, tmp_path / "data", "org/model") == first


def test_a_commit_is_kept_until_a_newer_one_is_asked_for(hub, tmp_path):
    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    first = resolve(hub.url, tmp_path, "org/model")
    other = variant("pooling cls_token", tmp_path / "other")
    hub.repositories["org/model"] = other
    assert resolve(hub.url, tmp_path, "org/model") == first
    newest = resolve(hub.url, tmp_path, "org/model", newest=True)
    assert newest["revision"] == f"org/model@{other.commit}" and newest["pooling"] == "cls"
    assert newest["fingerprint"] != first["fingerprint"]
    assert resolve(hub.url, tmp_path, "org/model") == newest


def test_a_revision_is_part_of_the_name(hub, tmp_path):
    hub.repositories["org/model"] = repository = variant("bert", tmp_path / "bert")
    repository.revisions = ("main", "v1", "refs/pr/3")
    names = ["org/model@v1", f"org/model@{repository.commit}", "mine=org/model@v1", "org/model@v2"]
    told = resolve_all(hub.url, tmp_path / "data", names)
    assert [each.get("name") for each in told] == ["org/model@v1", names[1], "mine", None]
    assert len({each["fingerprint"] for each in told[:3]}) == 1
    assert "has no revision v2" in told[3]["error"]


def test_a_repository_s_own_graph_is_served_where_its_architecture_is_not_exported(hub, tmp_path):
    plain = graph_files("onnx/model.onnx", "onnx/model_quantized.onnx", tmp_path=tmp_path)
    hub.repositories |= {
        "org/plain": Repository(plain),
        "org/variants": Repository(
            graph_files("onnx/model_fp16.onnx", "onnx/model_int8.onnx", "onnx/model_q4.onnx", tmp_path=tmp_path)
        ),
        "org/external": Repository(graph_files("onnx/model.onnx", tmp_path=tmp_path, external="model.onnx_data")),
    }
    names = ["org/plain", "org/variants", "org/external"]
    told = resolve_all(hub.url, tmp_path / "data", names, texts=TEXTS)
    assert [Path(each["graph"]).name for each in told] == ["model.onnx", "model_fp16.onnx", "model.onnx"]
    vectors = [each["vectors"] for each in told]
    assert np.array_equal(vectors[0], vectors[2]) and np.isfinite(vectors[0]).all()
    assert "onnx/model_quantized.onnx" not in hub.sent and "onnx/model.onnx_data" in hub.sent
    assert "onnx/model_int8.onnx" not in hub.sent
    (int8,) = resolve_all(hub.url, tmp_path / "int8", ["org/variants"], precision="int8")
    assert Path(int8["graph"]).name == "model_int8.onnx"


def test_what_cannot_be_served_is_refused_by_name_with_the_way_out(hub, tmp_path):
    def without(name: str) -> Repository:
        repository = variant("bert", tmp_path / f"without-{name}")
        del repository.files[name]
        return repository

    pickle, no_tokenizer = without("model.safetensors"), without("tokenizer.json")
    pickle.files["pytorch_model.bin"] = b"a pickle"
    unknown, code, gated, private, lost, adapter, ranker = (variant("bert", tmp_path / name) for name in "abcdefg")
    adapter.files["adapter_config.json"] = b"{}"
    ranked = json.loads(ranker.files["config.json"]) | {"architectures": ["BertForSequenceClassification"]}
    ranker.files["config.json"] = json.dumps(ranked).encode()
    del ranker.files["modules.json"]
    unknown.files["config.json"] = json.dumps({"model_type": "t5"}).encode()
    code.files["modules.json"] = json.dumps([{"type": "custom_st.Transformer", "path": ""}]).encode()
    gated.is_gated = private.is_private = True
    lost.files = graph_files("onnx/model.onnx", tmp_path=tmp_path, external="weights.data")
    del lost.files["onnx/weights.data"]
    hub.repositories |= {
        "org/pickle": pickle, "org/slow": no_tokenizer, "org/t5": unknown, "org/code": code, "org/gated": gated,
        "org/private": private, "org/lost": lost, "org/lora": adapter, "org/ranker": ranker,
    }  # fmt: skip
    named = {
        "org/pickle": "pytorch_model.bin is a pickle and is never opened; save the weights as model.safetensors",
        "org/slow": "tokenizer.json is missing",
        "org/t5": "model_type 't5' is not exported",
        "org/code": "custom_st.Transformer; code that comes with a model is never executed",
        "org/gated": f"is gated: accept its terms at {hub.url}/org/gated, and set HF_TOKEN",
        "org/private": f"there is no repository org/private at {hub.url}, or it is private; check its name",
        "org/lost": "onnx/model.onnx keeps weights in onnx/weights.data, which the repository does not have",
        "intfloat/e5-small-v2": "there is no repository intfloat/e5-small-v2",
        "BAAI/bge-small-en-v1.6": "did you mean BAAI/bge-small-en-v1.5",
        "org/..": "cannot be a repository",
        "org/lora": "an adapter of another model; merge both",
        "org/ranker": "it is a BertForSequenceClassification, which scores texts and returns no vectors",
    }
    told = resolve_all(hub.url, tmp_path / "data", list(named))
    for each, (name, words) in zip(told, named.items(), strict=True):
        assert words in each.get("error", ""), (name, each)
    assert "did you mean" not in told[list(named).index("intfloat/e5-small-v2")]["error"]
    own = resolve_all(hub.url, tmp_path / "data", ["org/gated", "org/private"], token=TOKEN)
    assert all("fingerprint" in each for each in own)


def test_a_cache_that_somebody_else_filled_is_used_offline(hub, tmp_path):
    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    hub.repositories["org/model"].files["onnx/model.onnx"] = b"not wanted, and here all the same"
    with asking(hub.url, tmp_path / "data/hf-home"):
        snapshot_download("org/model")
    (told,) = resolve_elsewhere("http://127.0.0.1:9", tmp_path / "data", "org/model", HF_HUB_OFFLINE="1")
    assert told["revision"] == f"org/model@{hub.repositories['org/model'].commit}"
    assert resolve(hub.url, tmp_path / "fresh", "org/model")["fingerprint"] == told["fingerprint"]
    missing = resolve("http://127.0.0.1:9", tmp_path / "data", "org/other", is_offline=True)
    assert "org/other is not in the cache and HF_HUB_OFFLINE is set" in missing["error"]
    assert "downloads are off" in resolve(hub.url, tmp_path / "data", "org/other", download=False)["error"]


def test_a_hub_that_is_down_is_told_with_its_address_but_no_password(hub, tmp_path):
    hub.broken_with = 503
    url = hub.url.replace("http://", "http://somebody:secret@")
    told = resolve(url, tmp_path, "org/model")["error"]
    assert "org/model could not be fetched" in told and "secret" not in told
    assert "***@127.0.0.1" in told and "org/model=/path/to/folder" in told


def test_the_family_of_a_repository_s_name_gives_its_prefixes_and_is_named(hub, tmp_path):
    hub.repositories |= {name: variant("bert", tmp_path / name[4:]) for name in ("org/e5-tiny", "org/tiny")}
    names = ["org/e5-tiny", "small=org/e5-tiny", "org/tiny"]
    told = resolve_all(hub.url, tmp_path / "data", names)
    assert [each["prompts"].get("query") for each in told] == ["query: ", "query: ", None]
    assert [each["sources"]["query"] for each in told[:2]] == ["the family of the name org/e5-tiny"] * 2
    assert told[2]["sources"]["query"].startswith("nothing")
    assert told[0]["sources"]["max_tokens"] == "sentence_bert_config.json"
    assert told[0]["sources"]["pooling"] == "1_Pooling/config.json"


PARTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def test_a_cache_that_holds_a_part_is_told_and_does_not_stay(hub, tmp_path, caplog):
    """What other programs fetch of a model that is pooled by its first token: not how it is pooled."""
    hub.repositories["org/cls"] = variant("pooling cls_token", tmp_path / "cls")
    right = resolve(hub.url, tmp_path / "right", "org/cls")
    with asking(hub.url, tmp_path / "data/hf-home"):
        for name in PARTS:
            hf_hub_download("org/cls", name)
    offline = resolve("http://127.0.0.1:9", tmp_path / "data", "org/cls", is_offline=True)
    assert offline["pooling"] == "mean"
    assert "may hold only a part of it, and holds no modules.json" in caplog.text
    assert resolve(hub.url, tmp_path / "data", "org/cls")["fingerprint"] == right["fingerprint"]


def test_a_cache_that_we_have_filled_is_whole_for_others(hub, tmp_path, caplog):
    hub.repositories["org/cls"] = variant("pooling cls_token", tmp_path / "cls")
    told = resolve(hub.url, tmp_path / "data", "org/cls")
    shutil.copytree(tmp_path / "data/hf-home", tmp_path / "other/hf-home", symlinks=True)
    again = resolve("http://127.0.0.1:9", tmp_path / "other", "org/cls", is_offline=True)
    assert again["fingerprint"] == told["fingerprint"]
    assert "a part of it" not in caplog.text


def test_a_newer_commit_that_cannot_be_served_does_not_take_the_place_of_one_that_can(hub, tmp_path):
    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    first = resolve(hub.url, tmp_path / "data", "org/model")
    newer = hub.repositories["org/model"] = variant("bert", tmp_path / "newer")
    newer.files["config.json"] = json.dumps({"model_type": "t5"}).encode()
    assert "'t5' is not exported" in resolve(hub.url, tmp_path / "data", "org/model", newest=True)["error"]
    assert resolve(hub.url, tmp_path / "data", "org/model") == first
    assert resolve("http://127.0.0.1:9", tmp_path / "data", "org/model") == first


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"moved": "modules.json"}, "gave modules.json of another commit"),
        ({"cut": "tokenizer.json"}, "tokenizer.json of org/model@"),
        ({"says": b"<html>log in here</html>"}, "could not be fetched"),
        ({"says": b"[]"}, "could not be fetched"),
        ({"says": b"null"}, "could not be fetched"),
        ({"says": b"{}"}, "org/model"),
        ({"broken_with": 401}, "check HF_TOKEN"),
        ({"broken_with": 403}, "check what HF_TOKEN may see"),
        ({"broken_with": 429}, "too many requests"),
    ],
    ids=str,
)
def test_a_hub_that_lies_or_refuses_is_an_error_with_a_way_out(hub, tmp_path, fault, named):
    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    for name, value in fault.items():
        setattr(hub, name, value)
    with mock.patch("time.sleep"):  # between the client's own tries
        told = resolve(hub.url, tmp_path / "data", "org/model")
    assert named in told["error"]
    for name in fault:
        setattr(hub, name, getattr(Hub(), name))
    assert "error" not in resolve(hub.url, tmp_path / "data", "org/model")


def test_no_line_of_the_client_s_reaches_the_log(hub, tmp_path, caplog):
    hub.repositories["org/model"] = variant("bert", tmp_path / "bert")
    caplog.set_level("INFO")
    resolve(hub.url, tmp_path / "data", "org/model")
    assert {record.name.partition(".")[0] for record in caplog.records} == {"embedmill_worker"}


def test_files_that_are_found_by_another_path_have_the_same_prefixes(hub, tmp_path):
    hub.repositories["org/e5-tiny"] = variant("bert", tmp_path / "bert")
    told = resolve(hub.url, tmp_path / "data", "org/e5-tiny")
    folder = Path(told["tokenizer"]).parent
    assert folder.parent.name == "snapshots"
    for spec in (str(folder), f"mine={folder}"):
        assert resolve(hub.url, tmp_path / "data", spec)["fingerprint"] == told["fingerprint"]
    # Also where HF_HOME is another one than the one that it was fetched into.
    with asking("http://127.0.0.1:9", tmp_path / "elsewhere"):
        assert told_of("org/e5-tiny", tmp_path / "data") == told


def test_a_fasttext_model_of_a_repository_is_fetched_by_itself(hub, tmp_path):
    hub.repositories["org/cc"] = Repository({"README.md": b"", "model.bin": b"no such model"})
    assert "is not a fastText model" in resolve(hub.url, tmp_path / "data", "org/cc")["error"]
    assert hub.sent == ["model.bin"]
