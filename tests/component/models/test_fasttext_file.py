"""What is a fastText file, and what is refused before it can do harm."""

import json
import shutil

import numpy as np
import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.engine import load
from embedmill_worker.models import FastTextFile, fingerprint, in_precision, resolve
from embedmill_worker.models.formats import fasttext_words


def test_a_file_is_served_by_its_path_under_a_name_or_its_own(write_fasttext, tmp_path):
    path = write_fasttext("cc.id.bin")
    for spec, name in ((f"ft={path}", "ft"), (str(path), "cc.id"), (f"ft={tmp_path}", "ft")):
        found = resolve(spec, data_dir=tmp_path / "data")
        assert isinstance(found, FastTextFile)
        assert (found.name, found.path, found.words, found.rows) == (name, path, 3, 23)


def test_a_folder_with_two_fasttext_files_is_no_model(write_fasttext, tmp_path):
    write_fasttext("one.bin")
    write_fasttext("two.bin")
    with pytest.raises(ModelLoadError, match="tokenizer"):
        resolve(f"ft={tmp_path}", data_dir=tmp_path / "data")


def test_vectors_are_not_normalised_and_unknown_words_are_zeros(write_fasttext, tmp_path):
    path = write_fasttext(maxn=0, bucket=0, model=3)
    served = load(resolve(f"ft={path}", data_dir=tmp_path), cache_dir=None)
    known, unknown = served.embed(["river pagi", "unknown"]).vectors
    rows = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(known, rows[[1, 2, 0]].mean(axis=0), rtol=1e-5)  # with the end of the line
    np.testing.assert_allclose(unknown, rows[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": 1}, "not a fastText model"),
        ({"version": 13}, "version 13, not 11 or 12"),
        ({"model": 9}, "its model is number 9"),
        ({"maxn": 2_000_000}, "maxn is 2000000, limit 32"),
        ({"model": 3, "word_ngrams": 10**9}, "wordNgrams is 1000000000, limit 32"),
        ({"dimension": 0}, "its dimension is 0"),
        ({"columns": -1}, "23 × -1, 23 × 4 was expected"),
        ({"columns": 8}, "23 × 8, 23 × 4 was expected"),
        ({"rows": 2**62}, "23 × 4 was expected"),
        ({"stated_bucket": -5}, "n-grams and -5 buckets"),
        ({"stated_bucket": 0, "maxn": 3}, "n-grams and 0 buckets"),
        ({"stated_bucket": 2**31 - 1, "rows": 2**31 + 2}, "input matrix ends at byte"),
        ({"pruned": 7}, "pruned"),
        ({"pruned": 0}, "pruned"),
        ({"quantised": 1}, "quantised"),
        ({"word_count": -1, "total": -1}, "-1 words"),
        ({"total": 2**31 - 1, "word_count": 2**31 - 1}, "2147483647 entries does not fit"),
        ({"total": 4}, "counts 4 entries, 3 words and 0 labels"),
        ({"word_count": 2, "label_count": 1}, "does not hold 2 words and then 1 labels"),
        ({"out_rows": 2**60}, "output matrix, 1152921504606846976 × 4"),
        ({"out_rows": -1}, "output matrix"),
    ],
    ids=str,
)
def test_an_impossible_file_is_refused_with_the_reason(write_fasttext, tmp_path, changes, reason):
    path = write_fasttext(**changes)
    with pytest.raises(ModelLoadError, match=reason) as caught:
        resolve(f"ft={path}", data_dir=tmp_path / "data")
    assert str(path) in str(caught.value)


def test_a_file_cut_off_anywhere_is_refused(write_fasttext, tmp_path):
    path = write_fasttext(labels=(b"__label__a",))
    content = path.read_bytes()
    cut = tmp_path / "cut.bin"
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        with pytest.raises(ModelLoadError, match=r"restore|not a fastText"):
            resolve(f"ft={cut}", data_dir=tmp_path / "data")


@pytest.mark.parametrize("words", [(b"", b"a"), (b"a" * 70_000,)], ids=["an empty word", "an endless word"])
def test_words_that_cannot_be_are_refused(write_fasttext, tmp_path, words):
    with pytest.raises(ModelLoadError, match="entry 0 of"):
        resolve(f"ft={write_fasttext(words=words)}", data_dir=tmp_path / "data")


def test_quantised_models_are_refused_with_the_way_out(trained_fasttext, tmp_path):
    trained = trained_fasttext("supervised", wordNgrams=3, minn=2, maxn=5)
    path = tmp_path / "small.ftz"
    reread = type(trained.official)(str(trained.path))
    reread.quantize(qnorm=True)
    reread.save_model(str(path))
    with pytest.raises(ModelLoadError, match=r"name the \.bin that it was made from"):
        resolve(f"ft={path}", data_dir=tmp_path / "data")


def test_a_worker_s_precision_leaves_it_as_it_is(write_fasttext, tmp_path):
    found = resolve(f"ft={write_fasttext()}", data_dir=tmp_path)
    for precision in ("", "fp32", "int8", "bf16"):
        assert in_precision(found, precision, data_dir=tmp_path) is found
    assert found.precision == "fp32"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"gone\.bin"):
        resolve(f"ft={tmp_path}/gone.bin", data_dir=tmp_path)
    (tmp_path / "empty.bin").touch()
    with pytest.raises(ModelLoadError, match="is empty"):
        resolve(f"ft={tmp_path}/empty.bin", data_dir=tmp_path)


def test_a_file_that_has_shrunk_since_it_was_read_is_refused(write_fasttext, tmp_path):
    found = resolve(f"ft={write_fasttext()}", data_dir=tmp_path)
    found.path.write_bytes(found.path.read_bytes()[:200])
    with pytest.raises(ModelLoadError, match="has become shorter"):
        load(found, cache_dir=None)


def test_numbers_that_are_not_finite_are_refused(write_fasttext, tmp_path):
    path = write_fasttext(model=3, words=(b"</s>", b"the"), maxn=0, bucket=0)
    content = bytearray(path.read_bytes())
    matrix = len(content) - 2 * 4 * 4 - 17 - 2 * 4 * 4
    content[matrix : matrix + 16] = np.full(4, np.nan, dtype="<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match="not finite"):
        load(resolve(f"ft={path}", data_dir=tmp_path), cache_dir=None)


def test_the_fingerprint_tells_content_from_place(write_fasttext, tmp_path):
    path = write_fasttext("one.bin")
    copy = tmp_path / "copy.bin"
    shutil.copy(path, copy)
    prints = [fingerprint(resolve(f"ft={place}", data_dir=tmp_path)) for place in (path, copy)]
    assert prints[0] == prints[1]
    content = path.read_bytes()
    matrix_end = len(content) - 3 * 4 * 4 - 17
    for place in (20, content.index(b"river"), matrix_end - 1):  # an argument, a word, the last row
        other = bytearray(content)
        other[place] ^= 1
        copy.write_bytes(other)
        prints.append(fingerprint(resolve(f"ft={copy}", data_dir=tmp_path)))
    assert len(set(prints)) == 4


def test_a_word_that_stands_twice_has_its_last_row_as_in_fasttext(write_fasttext, tmp_path):
    path = write_fasttext(words=(b"</s>", b"twice", b"twice"), maxn=0, bucket=0, model=3)
    served = load(resolve(f"ft={path}", data_dir=tmp_path), cache_dir=None)
    rows = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(served.embed(["twice"]).vectors[0], rows[[2, 0]].mean(axis=0), rtol=1e-5)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Every index is kept; gives the folder."""
    monkeypatch.setattr(fasttext_words, "KEPT_FROM_WORDS", 1)
    return tmp_path / "data"


def built(monkeypatch):
    calls = []
    build = fasttext_words.WordIndex.build.__func__
    monkeypatch.setattr(
        fasttext_words.WordIndex, "build", classmethod(lambda cls, *args: calls.append(1) or build(cls, *args))
    )
    return calls


def test_a_large_index_is_built_once_and_gives_the_same_vectors(trained_fasttext, tmp_path, monkeypatch):
    path = trained_fasttext("cbow", minn=3, maxn=6).path
    in_memory = load(resolve(f"ft={path}", data_dir=tmp_path), cache_dir=None).embed(["river pagi 日本語 unseen"])
    monkeypatch.setattr(fasttext_words, "KEPT_FROM_WORDS", 1)
    calls = built(monkeypatch)
    for _ in range(3):
        found = resolve(f"ft={path}", data_dir=tmp_path / "data")
        mapped = load(found, cache_dir=None).embed(["river pagi 日本語 unseen"])
        assert mapped.vectors.tobytes() == in_memory.vectors.tobytes()
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["index", "manifest", "dictionary", "missing"])
def test_a_kept_index_is_not_believed_if_anything_has_changed(kept, write_fasttext, monkeypatch, damage):
    path = write_fasttext(words=(b"</s>", b"river", b"pagi", b"x" * 60_000, b"y" * 10_000))
    calls = built(monkeypatch)
    resolve(f"ft={path}", data_dir=kept)
    (index,) = kept.rglob("index.npy")
    manifest = index.with_name("manifest.json")
    if damage == "index":
        index.write_bytes(index.read_bytes()[:-1] + b"?")
    elif damage == "manifest":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"end": 10**9}))
    elif damage == "missing":
        index.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content.replace(b"yyyy", b"zyyy", 1))  # beyond the part that names the index
    assert resolve(f"ft={path}", data_dir=kept).words == 5
    assert len(calls) == 2
    resolve(f"ft={path}", data_dir=kept)
    assert len(calls) == 2


def test_a_data_folder_that_cannot_be_written_costs_only_time(kept, write_fasttext, caplog):
    kept.write_text("a file where the folder should be")
    assert resolve(f"ft={write_fasttext()}", data_dir=kept).words == 3
    assert "cannot be kept" in caplog.text
