"""Sentence vectors of fastText files are those of the official package, in any company."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill_worker.engine import BatchClass, Engine, load
from embedmill_worker.engine.tables import fasttext as encoders
from embedmill_worker.engine.tables.fasttext import segment_sums
from embedmill_worker.models import resolve
from embedmill_worker.models.formats.fnv import subwords, word_hashes

KINDS = {
    "cbow": ("cbow", {"minn": 3, "maxn": 6}),
    "skipgram": ("skipgram", {"minn": 5, "maxn": 5}),
    "skipgram of single characters": ("skipgram", {"minn": 1, "maxn": 3}),
    "no subwords": ("cbow", {"minn": 0, "maxn": 0}),
    "supervised": ("supervised", {"wordNgrams": 1, "minn": 0, "maxn": 0}),
    "supervised with pairs of words": ("supervised", {"wordNgrams": 2, "minn": 0, "maxn": 0}),
    "supervised with everything": ("supervised", {"wordNgrams": 3, "minn": 2, "maxn": 5}),
}

TEXTS = (
    "Selamat pagi toko buku",
    "",
    " \t \r ",
    "never séen 日本 wörds",
    "nul\0inside river\0pagi",
    "vertical\x0btab form\x0cfeed carriage\rreturn",
    "no-break\u00a0space next\x85line file\x1cseparator",
    "</s>",
    "pagi </s> river",
    "__label__x",
    "__label__a river __label__unseen pagi",
    "<> < >",
    "a" * 5_000,
    "日本語" * 700,
    "river pagi " * 200,
    "e\u0301 👨\u200d👩\u200d👧 \U0010ffff",
)

#: What fastText treats specially, among arbitrary text.
pieces = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12),
    st.sampled_from(["river", "pagi", "</s>", "__label__", "__label__a", "日本語", " ", "\0", "\t", "\x0b", "<", ">"]),
)
odd_texts = st.lists(pieces, max_size=12).map("".join) | st.lists(pieces, max_size=12).map(" ".join)


def engine(trained, tmp_path) -> Engine:
    return load(resolve(f"ft={trained.path}", data_dir=tmp_path), cache_dir=None)


def assert_alike(ours: np.ndarray, official: np.ndarray) -> None:
    for one, other in zip(ours, official, strict=True):
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        if lengths == 0:
            np.testing.assert_allclose(one, other, atol=1e-6)
        else:
            assert one @ other / lengths >= 0.99999
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


#: Kinds that are trained in each run: one of words and parts of words, one of pairs of words and labels.
ORDINARY_KINDS = ("skipgram", "supervised with everything")


@pytest.fixture(
    params=[
        pytest.param(v, id=k, marks=[pytest.mark.deep] if k not in ORDINARY_KINDS else []) for k, v in KINDS.items()
    ],
    scope="module",
)
def trained(request, trained_fasttext):
    kind, options = request.param
    return trained_fasttext(kind, **options)


def test_vectors_are_those_of_the_official_package(trained, tmp_path):
    pairs = [(text, vector) for text in TEXTS if (vector := trained.vector(text)) is not None]
    assert len(pairs) >= len(TEXTS) - 2
    ours = engine(trained, tmp_path).embed([text for text, _ in pairs])
    assert not ours.rejected
    assert_alike(ours.vectors, np.stack([vector for _, vector in pairs]))


@pytest.mark.property
def test_vectors_of_any_text_are_those_of_the_official_package(trained, tmp_path):
    served = engine(trained, tmp_path)

    @given(odd_texts)
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def check(text):
        if (official := trained.vector(text)) is not None:
            assert_alike(served.embed([text]).vectors, official[None])

    check()


def test_a_text_has_the_same_bits_alone_in_company_and_after_words_were_let_go(trained, tmp_path, monkeypatch):
    served = engine(trained, tmp_path)
    assert served.card.batch_class == BatchClass.EXACT
    texts = [*TEXTS, *(f"river number {i} pagi" for i in range(100))]
    together = served.embed(texts).vectors
    alone = np.concatenate([served.embed([text]).vectors for text in texts])
    assert together.tobytes() == alone.tobytes()
    monkeypatch.setattr(encoders, "_RUN_WORDS", 50)
    monkeypatch.setattr(encoders, "_KEPT_WORD_BYTES", 10)
    monkeypatch.setattr(encoders, "_BLOCK_BYTES", 16)
    assert served.embed(texts[::-1]).vectors[::-1].tobytes() == together.tobytes()


def test_a_newline_is_white_space(trained, tmp_path):
    served = engine(trained, tmp_path)
    split, spaced = served.embed(["river\npagi\n", "river pagi"]).vectors
    assert split.tobytes() == spaced.tobytes()


def test_tokens_are_words_and_long_texts_are_cut_or_rejected(trained, tmp_path):
    served = engine(trained, tmp_path)
    limit = served.card.max_tokens
    long = "pagi " * limit + "river"
    reply = served.embed(["", "one two  three", long, "pagi " * limit])
    assert reply.token_counts.tolist() == [0, 3, limit + 1, limit]
    assert reply.truncated.tolist() == [False, False, True, False]
    assert reply.vectors[2].tobytes() == reply.vectors[3].tobytes()
    (rejected,) = served.embed([long], truncate=False).rejected
    assert (rejected.reason, rejected.detail) == ("too_long", f"{limit + 1} tokens, limit {limit}")


def test_the_card_says_what_the_file_is(trained, tmp_path):
    card = engine(trained, tmp_path).card
    assert (card.name, card.dimension, card.precision, card.max_tokens) == ("ft", 16, "fp32", 8_192)
    assert 4 < card.chars_per_token < 8
    assert card.tokens_per_s > 0


def test_more_words_than_are_kept_are_still_right(trained_fasttext, tmp_path):
    trained = trained_fasttext("cbow", minn=3, maxn=6)
    served = engine(trained, tmp_path)
    capacity = len(served.encoder.words.vectors)
    texts = [" ".join(f"w{i}x{j}" for j in range(1_000)) for i in range(capacity // 1_000 + 2)]
    ours = served.embed(texts).vectors
    assert_alike(ours[[0, -1]], np.stack([trained.vector(texts[0]), trained.vector(texts[-1])]))


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode), min_size=1, max_size=60)
)
def test_hashes_are_fnv_1a_over_signed_bytes(words):
    def fnv(word):
        found = 2166136261
        for byte in word:
            found = ((found ^ ((byte - 256 if byte > 127 else byte) & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
        return found

    assert word_hashes(words).tolist() == [fnv(word) for word in words]
    for n, (hashes, counts) in enumerate(subwords(words, 1, 4), start=1):
        bracketed = ["<" + word.decode() + ">" for word in words]
        ngrams = [[text[i : i + n] for i in range(len(text) - n + 1)] for text in bracketed]
        ngrams = [grams[1:-1] if n == 1 else grams for grams in ngrams]
        assert counts.tolist() == [len(grams) for grams in ngrams]
        assert hashes.tolist() == [fnv(gram.encode()) for grams in ngrams for gram in grams]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_sums_of_segments_are_right_and_do_not_depend_on_other_segments(counts, random):
    table = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    rows = np.array([random.randrange(50) for _ in range(sum(counts))], dtype=np.int64)
    sums = segment_sums(table, rows, np.array(counts))
    parts = np.split(rows, np.cumsum(counts)[:-1])
    np.testing.assert_allclose(sums, [table[part].sum(axis=0) for part in parts], rtol=1e-4, atol=1e-4)
    alone = [segment_sums(table.view(np.uint8), part, np.array([len(part)])) for part in parts]
    assert np.concatenate(alone).tobytes() == sums.tobytes()
