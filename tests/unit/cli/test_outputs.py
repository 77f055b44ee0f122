"""What is written can be read again, to the bit, and appears only when it is whole."""

import io
import json

import numpy as np
import pytest

from embedmill.errors import InvalidRequestError
from embedmill.protocol.vectors import Dtype, blank
from embedmill.reply import Rejected
from embedmill_worker.cli.commands.embed_files import JsonLines, NpyFile, replacing


def rows(count, dtype=np.float32, columns=5):
    values = np.random.default_rng(count).standard_normal((count, columns)) * 50
    return values.astype(dtype) if dtype is not np.uint8 else np.abs(values).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_jsonl_gives_every_component_back_to_the_bit(dtype):
    stream = io.StringIO()
    vectors = rows(3, dtype)
    JsonLines(stream, with_text=False).write(7, ["a", "b", "c"], vectors, ())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["index"] for line in lines] == [7, 8, 9]
    assert np.array_equal(np.array([line["embedding"] for line in lines], dtype=dtype), vectors)
    assert all(set(line) == {"index", "embedding"} for line in lines)


def test_jsonl_says_why_a_text_has_no_vector_and_repeats_texts_if_asked():
    stream = io.StringIO()
    rejected = [Rejected(index=1, reason="too_long", detail="9 tokens, limit 8")]
    JsonLines(stream, with_text=True).write(0, ['"é', "b"], rows(2), rejected)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["text"] == '"é'
    assert second == {"index": 1, "text": "b", "rejected": "too_long", "detail": "9 tokens, limit 8"}


def test_jsonl_repeats_no_text_that_is_not_unicode():
    stream = io.StringIO()
    rejected = [Rejected(index=0, reason="invalid_unicode", detail="…")]
    JsonLines(stream, with_text=True).write(0, ["\udcff"], rows(1), rejected)
    assert set(json.loads(stream.getvalue())) == {"index", "rejected", "detail"}


@pytest.mark.parametrize("dtype", list(Dtype))
def test_npy_holds_all_windows_one_after_the_other(dtype, tmp_path):
    parts = [rows(n, dtype.numpy.type) for n in (3, 1, 4)]
    with replacing(tmp_path / "v.npy") as stream:
        file = NpyFile(stream, dtype)
        for part in parts:
            file.write(0, ["x"] * len(part), part, ())
        file.finish()
    read = np.load(tmp_path / "v.npy")
    assert read.dtype == dtype.numpy
    assert np.array_equal(read, np.concatenate(parts))


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BINARY])
def test_npy_has_rows_for_windows_without_any_vector(dtype, tmp_path):
    part = rows(2, dtype.numpy.type)
    with replacing(tmp_path / "v.npy") as stream:
        file = NpyFile(stream, dtype)
        for window in (blank(3, dtype, 0), part, blank(1, dtype, 0)):
            file.write(0, ["x"] * len(window), window, ())
        file.finish()
    read = np.load(tmp_path / "v.npy")
    assert read.shape == (6, 5)
    assert np.array_equal(read[3:5], part)
    lost = read[[0, 1, 2, 5]]
    assert np.isnan(lost).all() if dtype is Dtype.FLOAT32 else not lost.any()


def test_npy_of_nothing_is_an_empty_array(tmp_path):
    with replacing(tmp_path / "v.npy") as stream:
        NpyFile(stream, Dtype.FLOAT32).finish()
    assert np.load(tmp_path / "v.npy").shape == (0, 0)


def test_an_output_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "v.npy"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidRequestError, match="cannot be written"), replacing(tmp_path / "no" / "v.npy"):
        pass
