"""ModelFiles, fingerprints, prompts, digests."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import ModelLoadError
from embedmill_worker.models import ModelFiles, Pooling, fingerprint
from embedmill_worker.models.disk import read_json, sha256_of, write_atomically
from embedmill_worker.models.files import Activation, Dense
from embedmill_worker.models.formats.prompts import known_prompts

DENSE = Dense(
    inputs=2,
    outputs=2,
    has_bias=True,
    activation=Activation.TANH,
    normalizes_first=False,
    weights=Path("x"),
    weights_sha256="d" * 64,
)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    return ModelFiles(
        name="tiny",
        graph=tmp_path / "model.onnx",
        tokenizer=tmp_path / "tokenizer.json",
        pooling=Pooling.MEAN,
        normalize=True,
        max_tokens=64,
        weights_sha256="a" * 64,
        tokenizer_sha256="b" * 64,
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"graph": Path("/nowhere/model.onnx")}, "missing"),
        ({"tokenizer": Path("/nowhere/tokenizer.json")}, "missing"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"weights_sha256": "a"}, "weights_sha256"),
        ({"tokenizer_sha256": "B" * 64}, "tokenizer_sha256"),
    ],
)
def test_impossible_model_files_do_not_exist(files, change, named):
    with pytest.raises(ModelLoadError, match=named):
        dataclasses.replace(files, **change)


def test_prompts_cannot_be_changed_from_outside(files):
    prompts = {"query": "q: "}
    changed = dataclasses.replace(files, prompts=prompts)
    prompts["query"] = "x"
    assert changed.prompts["query"] == "q: "
    with pytest.raises(TypeError):
        changed.prompts["query"] = "x"


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "c" * 64},
        {"tokenizer_sha256": "c" * 64},
        {"pooling": Pooling.CLS},
        {"output": "other"},
        {"normalize": False},
        {"max_tokens": 65},
        {"prompts": {"query": "q: "}},
        {"precision": "int8"},
        {"exporter": "embedmill-bert/3"},
        {"pools_prompt": False},
        {"task_ids": {"query": 1}},
        {"fixed_tokens": 64},
        {"layers": (DENSE,)},
    ],
)
def test_whatever_changes_vectors_changes_the_fingerprint(files, change):
    assert fingerprint(dataclasses.replace(files, **change)) != fingerprint(files)


def test_a_name_or_a_place_does_not_change_the_fingerprint(files, tmp_path):
    elsewhere = tmp_path / "elsewhere.onnx"
    elsewhere.write_text("x")
    assert fingerprint(dataclasses.replace(files, name="other", graph=elsewhere)) == fingerprint(files)
    assert len(fingerprint(files)) == 16


def test_the_fingerprint_is_the_same_in_every_process_and_version(files):
    assert fingerprint(files) == "9f56f1e7490a399e"


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_prompts_cannot_be_confused_in_a_fingerprint(a, b, c, d):
    base = {"name": "x", "graph": Path(__file__), "tokenizer": Path(__file__), "pooling": Pooling.MEAN}
    base |= {"normalize": True, "max_tokens": 9, "weights_sha256": "a" * 64, "tokenizer_sha256": "a" * 64}
    one, other = ModelFiles(**base, prompts={a: b}), ModelFiles(**base, prompts={c: d})
    assert (fingerprint(one) == fingerprint(other)) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("intfloat/multilingual-e5-large", "query: "),
        ("e5-small-v2", "query: "),
        ("E5", "query: "),
        ("nomic-ai/nomic-embed-text-v1.5-Q", "search_query: "),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: "),
        ("snowflake/snowflake-arctic-embed-m-long", "Represent this sentence for searching relevant passages: "),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: "),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", "Represent this sentence for searching relevant passages: "),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        ),
        ("google/embeddinggemma-300m", "task: search result | query: "),
        ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", None),
        ("intfloat/e5-mistral-7b-instruct", None),
        ("some-cafe5-model", None),
    ],
)
def test_families_are_known_by_their_names(name, query):
    assert known_prompts(name).get("query") == query


def test_a_file_changed_in_place_has_another_digest(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"two")
    assert sha256_of(path) != first
    path.write_bytes(b"one")
    assert sha256_of(path) == first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_two_files_have_a_digest_of_their_own(tmp_path):
    (tmp_path / "a").write_bytes(b"xy")
    (tmp_path / "b").write_bytes(b"z")
    both = sha256_of(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"yz")
    assert sha256_of(tmp_path / "a", tmp_path / "b") != both


def test_writing_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "folder/x"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_json_that_is_no_object_is_refused_and_a_missing_file_is_empty(tmp_path):
    assert read_json(tmp_path / "x") == {}
    for content in ("[]", "{", "\xff"):
        (tmp_path / "x").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match="x "):
            read_json(tmp_path / "x")
