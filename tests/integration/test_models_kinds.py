"""Every kind of sentence-transformers folder, against sentence-transformers' own vectors of the same files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedmill_worker.engine import Engine, load
from embedmill_worker.models import resolve

KINDS = Path(__file__).resolve().parent.parent / "data" / "golden" / "kinds"
TEXTS = json.loads((KINDS / "texts.json").read_text())
VARIANTS = json.loads((KINDS / "variants.json").read_text())


def engine_of(variant: str, folder: Path) -> Engine:
    """The variant's files laid over its base folder, loaded."""
    shutil.copytree(KINDS / VARIANTS[variant]["base"], folder / "model")
    for path, content in VARIANTS[variant]["files"].items():
        (folder / "model" / path).parent.mkdir(exist_ok=True)
        (folder / "model" / path).write_text(json.dumps(content))
    return load(resolve(f"tiny={folder / 'model'}", data_dir=folder / "data"), cache_dir=None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, variant, golden_kinds):
    engine = engine_of(variant, tmp_path)
    for input_type, suffix in ((None, ""), ("query", "/query"), ("passage", "/passage")):
        want = golden_kinds[variant + suffix]
        got = engine.embed(TEXTS, input_type=input_type).vectors
        assert got.shape == want.shape
        lengths = np.linalg.norm(got, axis=1), np.linalg.norm(want, axis=1)
        cosines = (got * want).sum(axis=1) / (lengths[0] * lengths[1])
        assert cosines.min() >= 0.99999, f"text {cosines.argmin()}, input type {input_type}"
        np.testing.assert_allclose(*lengths, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_has_the_same_bits_in_any_company(tmp_path, variant):
    engine = engine_of(variant, tmp_path)
    assert engine.card.batch_class == "exact"
    texts = TEXTS + [" ".join(text.split()[:n]) for text in TEXTS for n in (2, 3, 5, 8)]
    alone = np.concatenate([engine.embed([text], input_type="query").vectors for text in texts])
    order = np.random.default_rng(4).permutation(len(texts))
    for company in (range(len(texts)), order, order[::-1][:17]):
        together = engine.embed([texts[i] for i in company], input_type="query").vectors
        assert together.tobytes() == alone[list(company)].tobytes()


def test_the_golden_vectors_would_show_a_wrong_variant(golden_kinds):
    """Variants of one base differ visibly, so that none passes for another."""
    names = [name for name, variant in VARIANTS.items() if variant["base"] == "bert"]
    for i, name in enumerate(names):
        for other in names[:i]:
            pairs = [(golden_kinds[name + s], golden_kinds[other + s]) for s in ("", "/query", "/passage")]
            assert any(a.shape != b.shape or not np.allclose(a, b, atol=1e-2) for a, b in pairs), (name, other)


def test_the_last_text_is_longer_than_the_models_read(tmp_path):
    got = engine_of("mpnet", tmp_path).embed(TEXTS)
    assert got.truncated.tolist() == [False] * (len(TEXTS) - 1) + [True]
    # Farther apart than the relative attention bias tells distances.
    assert 128 < got.token_counts[-2] <= 192
