"""The embedded default, really fetched and exported, against sentence-transformers' vectors."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedmill_worker.models import ModelFiles, Pooling, fingerprint, resolve
from embedmill_worker.onnx_runtime import open_graph

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden"
#: Padded tokens a batch in these tests.
BATCH_TOKENS = 512


@pytest.fixture(scope="module")
def files(data_dir) -> ModelFiles:
    return resolve("all-MiniLM-L6-v2", data_dir=data_dir)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in (GOLDEN / "texts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def token_ids(files, rows) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(files.max_tokens)
    return [tokenizer.encode(row["text"]).ids for row in rows]


@pytest.fixture(scope="module")
def session(files) -> Any:
    return open_graph(files.graph)


@pytest.fixture(scope="module")
def alone(session, token_ids) -> list[np.ndarray]:
    """Token vectors of every golden text, run by itself."""
    return [run(session, [ids])[0] for ids in token_ids]


def run(session: Any, texts: list[list[int]]) -> list[np.ndarray]:
    """Token vectors of a right-padded batch, padding cut off."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(["last_hidden_state"], inputs)
    return [vectors[: len(text)] for vectors, text in zip(hidden, texts, strict=True)]


def batches(order: list[int], lengths: list[int]) -> list[list[int]]:
    """Cuts an order into batches of about `BATCH_TOKENS` padded tokens."""
    cut: list[list[int]] = [[]]
    for index in order:
        longest = max(lengths[i] for i in [*cut[-1], index])
        if cut[-1] and longest * (len(cut[-1]) + 1) > BATCH_TOKENS:
            cut.append([])
        cut[-1].append(index)
    return cut


def test_the_default_is_the_original_model(files):
    assert files.weights_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert (files.pooling, files.normalize, files.max_tokens) == (Pooling.MEAN, True, 256)
    assert (files.precision, dict(files.prompts)) == ("fp32", {})


def test_the_golden_set_is_of_this_model_and_covers_what_users_send(files, rows):
    versions = json.loads((GOLDEN / "versions.json").read_text())
    assert versions["model.safetensors sha256"] == files.weights_sha256
    assert versions["max_tokens"] == files.max_tokens
    kinds = {row["kind"] for row in rows}
    assert len(rows) >= 220
    assert {"english", "indonesian", "cjk", "emoji", "control", "blank", "code", "long"} <= kinds
    assert "" in {row["text"] for row in rows}
    assert any(files.max_tokens < row["token_count"] <= 512 for row in rows)
    assert max(row["token_count"] for row in rows) > 512


def test_vectors_equal_those_of_sentence_transformers(alone, rows):
    vectors = np.load(GOLDEN / "vectors.npy")
    pooled = np.stack([tokens.mean(axis=0, dtype=np.float64) for tokens in alone])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    cosines = (pooled * vectors).sum(axis=1)
    worst = int(cosines.argmin())
    assert cosines[worst] >= 0.9999, f"row {worst}, {rows[worst]['kind']}"


def test_token_counts_equal_those_recorded(files, rows):
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    assert [len(tokenizer.encode(row["text"]).ids) for row in rows] == [row["token_count"] for row in rows]


@pytest.mark.parametrize("seed", [None, *(pytest.param(seed, marks=pytest.mark.deep) for seed in (1, 2))])
def test_a_text_has_the_same_bits_alone_and_in_any_batch(session, token_ids, alone, seed):
    lengths = [len(ids) for ids in token_ids]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if seed is not None:
        order = [int(i) for i in np.random.default_rng(seed).permutation(len(lengths))]
    checked = 0
    for batch in batches(order, lengths):
        for index, got in zip(batch, run(session, [token_ids[i] for i in batch]), strict=True):
            assert np.array_equal(got, alone[index]), f"row {index}, {lengths[index]} tokens"
            checked += len(batch) > 1
    assert checked > 100


def _fingerprint(data_dir: Path) -> str:
    return fingerprint(resolve("all-MiniLM-L6-v2", data_dir=data_dir))


def test_processes_that_start_at_once_on_an_empty_folder_agree(files, tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        named = pool.map(_fingerprint, [tmp_path / "data"] * 2, chunksize=1)
    assert named == [fingerprint(files)] * 2
    left = {path.name for path in (tmp_path / "data").rglob(".*")}
    assert left <= {".lock"}


def test_a_damaged_download_is_found_and_fetched_again(tmp_path, data_dir, files):
    fresh = resolve("all-MiniLM-L6-v2", data_dir=tmp_path)
    content = fresh.tokenizer.read_bytes()
    fresh.tokenizer.write_bytes(content[: len(content) // 2])
    fresh.graph.write_bytes(b"damaged")
    again = resolve("all-MiniLM-L6-v2", data_dir=tmp_path)
    assert again == fresh
    assert again.tokenizer.read_bytes() == content
    assert again.graph.read_bytes() == files.graph.read_bytes()


def test_a_four_bit_folder_of_the_e5_family_resolves(e5_dir, tmp_path):
    files = resolve(f"{e5_dir.name}={e5_dir}", data_dir=tmp_path)
    assert files.graph == e5_dir / "model.onnx"
    assert (files.pooling, files.normalize, files.max_tokens, files.precision) == (Pooling.MEAN, True, 512, "w4")
    assert dict(files.prompts) == {"query": "query: ", "passage": "passage: "}
    assert resolve(str(e5_dir), data_dir=tmp_path) == files
