"""The engine on tiny real models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.reply import Rejected
from embedmill_worker.engine import BatchClass, load
from embedmill_worker.engine.probing import probe
from embedmill_worker.models import ModelFiles, Pooling, fingerprint

Tiny = Callable[..., ModelFiles]

TEXTS = ["the river", "", "hold power " * 6, "in", "the river and to hold power", "loud", "river the"]


def test_a_text_alone_and_among_others_has_the_same_bits(tiny: Tiny) -> None:
    for kind in ("exact", "variant"):
        engine = load(tiny(kind), cache_dir=None, max_batch_tokens=40)
        together = engine.embed(TEXTS)

        assert engine.card.batch_class == kind
        for i, text in enumerate(TEXTS):
            assert together.vectors[i].tobytes() == engine.embed([text]).vectors[0].tobytes()


def test_vectors_come_in_input_order_whatever_the_batches(tiny: Tiny) -> None:
    engine = load(tiny(), cache_dir=None, max_batch_tokens=20)

    there, back = engine.embed(TEXTS).vectors, engine.embed(TEXTS[::-1]).vectors

    assert there.dtype == np.float32
    assert there.flags.c_contiguous
    assert there.tobytes() == back[::-1].tobytes()
    assert len(np.unique(there, axis=0)) > 4


def test_no_texts_give_no_vectors(tiny: Tiny) -> None:
    nothing = load(tiny(), cache_dir=None).embed([])

    assert nothing.vectors.shape == (0, 8)
    assert nothing.token_counts.shape == nothing.truncated.shape == (0,)
    assert nothing.rejected == ()


def test_a_long_text_is_truncated_and_reported(tiny: Tiny) -> None:
    engine = load(tiny(), cache_dir=None)
    embedded = engine.embed(["the " * 14, "the " * 15, "the " * 15 + "loud"])

    assert embedded.token_counts.tolist() == [16, 17, 18]
    assert embedded.token_counts.dtype == np.uint32
    assert embedded.truncated.tolist() == [False, True, True]
    assert embedded.rejected == ()
    assert len(np.unique(embedded.vectors, axis=0)) == 1


def test_a_long_text_is_rejected_if_asked_and_its_neighbours_are_not(tiny: Tiny) -> None:
    engine = load(tiny(), cache_dir=None)
    embedded = engine.embed(["the", "the " * 15, "river"], truncate=False)

    assert embedded.rejected == (Rejected(index=1, reason="too_long", detail="17 tokens, limit 16"),)
    assert np.isnan(embedded.vectors[1]).all()
    assert embedded.vectors[[0, 2]].tobytes() == engine.embed(["the", "river"]).vectors.tobytes()


def test_lone_surrogates_are_rejected_and_their_neighbours_are_not(tiny: Tiny) -> None:
    engine = load(tiny(), cache_dir=None)
    embedded = engine.embed(["the " * 20, "bad \ud800", "river"], truncate=False)

    assert [(r.index, r.reason) for r in embedded.rejected] == [(0, "too_long"), (1, "invalid_unicode")]
    assert embedded.token_counts.tolist() == [22, 0, 3]
    assert np.isnan(embedded.vectors[:2]).all()
    assert np.isfinite(embedded.vectors[2]).all()


def test_a_text_without_any_token_is_a_zero_vector(tiny: Tiny) -> None:
    embedded = load(tiny(special=False), cache_dir=None).embed(["the", "", "river"])

    assert embedded.token_counts.tolist() == [1, 0, 1]
    assert embedded.rejected == ()
    assert embedded.vectors.any(axis=1).tolist() == [True, False, True]


def test_an_input_type_puts_its_prefix_before_the_text(tiny: Tiny) -> None:
    engine = load(tiny(), cache_dir=None)
    query, written_out = engine.embed(["the"], input_type="query"), engine.embed(["query: the"])

    assert query.vectors.tobytes() == written_out.vectors.tobytes()
    assert query.token_counts.tolist() == [4]
    # The model has no prefix for passages.
    assert engine.embed(["the"], input_type="passage").vectors.tobytes() == engine.embed(["the"]).vectors.tobytes()


def test_vectors_are_normalized_only_if_the_model_says_so(tiny: Tiny) -> None:
    raw = load(tiny(normalize=False), cache_dir=None).embed(TEXTS).vectors
    normalized = load(tiny(), cache_dir=None).embed(TEXTS).vectors

    np.testing.assert_allclose(normalized, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)


def test_the_engine_says_what_it_is(tiny: Tiny) -> None:
    files = tiny("pooled", pooling=Pooling.NONE)
    engine = load(files, cache_dir=None)

    assert (engine.card.name, engine.card.dimension, engine.card.max_tokens, engine.card.precision) == (
        "tiny",
        8,
        16,
        "fp32",
    )
    assert engine.card.fingerprint == fingerprint(files)
    assert engine.card.batch_class == BatchClass.VARIANT
    assert engine.card.tokens_per_s > 0
    assert engine.card.chars_per_token > 1


def test_the_probe_runs_once_for_a_model_and_a_machine(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny("variant")
    first = load(files, cache_dir=tmp_path / "probes")
    monkeypatch.setattr(probe, "classify", lambda *args, **options: pytest.fail("probed again"))

    second = load(files, cache_dir=tmp_path / "probes")

    assert second.card.batch_class == first.card.batch_class == "variant"
    assert second.card.tokens_per_s == first.card.tokens_per_s


def test_a_graph_that_puts_out_nan_is_not_served(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match="not finite"):
        load(tiny("not finite"), cache_dir=None)


def test_a_graph_of_another_rank_than_its_pooling_needs_is_not_served(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match="none pooling cannot use"):
        load(tiny("exact", pooling=Pooling.NONE), cache_dir=None)
    with pytest.raises(ModelLoadError, match="mean pooling cannot use"):
        load(tiny("pooled"), cache_dir=None)


def test_a_failing_graph_raises_without_the_text(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny(), cache_dir=None)

    class Failing:
        def run(self, outputs: object, feed: object) -> object:
            raise RuntimeError("the ids 424242 are bad")

    monkeypatch.setattr(engine.encoder.forward.session, "_session", Failing())
    with pytest.raises(InferenceError) as caught:
        engine.embed(["secret"])

    assert "secret" not in str(caught.value)
    assert "424242" not in str(caught.value)


def test_a_text_that_occurs_several_times_is_computed_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny(), cache_dir=None)
    unlike = engine.embed(["river", "bad \ud800", "the " * 20, "the"], truncate=False)
    rows: list[int] = []
    run = type(engine.encoder).__call__

    def counted(self: object, ids: list[list[int]]) -> object:
        rows.append(len(ids))
        return run(self, ids)

    monkeypatch.setattr(type(engine.encoder), "__call__", counted)
    texts = ["river", "bad \ud800", "the " * 20, "river", "the", "the " * 20, "bad \ud800", "river"]
    repeated = engine.embed(texts, truncate=False)

    assert rows == [2]
    assert repeated.vectors.tobytes() == unlike.vectors[[0, 1, 2, 0, 3, 2, 1, 0]].tobytes()
    assert repeated.token_counts.tolist() == [3, 0, 22, 3, 3, 22, 0, 3]
    assert repeated.truncated.tolist() == [count > 16 for count in repeated.token_counts]
    assert [r.index for r in repeated.rejected] == [1, 2, 5, 6]
