"""A vector is made of its own tokens alone, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.arrays import normalize
from embedmill_worker.engine.transformer.pooling import pool
from embedmill_worker.models import Pooling

OF_TOKENS = (Pooling.MEAN, Pooling.CLS, Pooling.MAX)
REFERENCES = {
    Pooling.MEAN: lambda tokens: tokens.astype(np.float64).mean(axis=0),
    Pooling.MAX: lambda tokens: tokens.max(axis=0),
    Pooling.CLS: lambda tokens: tokens[0],
}


def random_output(batch: int, tokens: int, dimension: int = 384) -> np.ndarray:
    return np.random.default_rng(batch * 1000 + tokens).normal(0, 1, (batch, tokens, dimension)).astype(np.float32)


@pytest.mark.parametrize("pooling", OF_TOKENS)
def test_pooling_is_what_its_name_says(pooling: Pooling) -> None:
    output, lengths = random_output(5, 40), np.array([1, 2, 17, 39, 40])

    pooled = pool(output, lengths, pooling)

    assert pooled.dtype == np.float32
    for vector, tokens, length in zip(pooled, output, lengths, strict=True):
        np.testing.assert_allclose(vector, REFERENCES[pooling](tokens[:length]), rtol=1e-5, atol=1e-6)


@given(
    pooling=st.sampled_from(OF_TOKENS),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    padding=st.integers(0, 30),
    filler=st.sampled_from([0.0, -0.0, 7.5, np.nan, np.inf]),
)
def test_neighbours_and_padding_change_no_bit(
    pooling: Pooling, lengths: list[int], padding: int, filler: float
) -> None:
    texts = [random_output(1, length, 24)[0] for length in lengths]
    output = np.full((len(texts), max(lengths) + padding, 24), filler, dtype=np.float32)
    for row, text in zip(output, texts, strict=True):
        row[: len(text)] = text

    batched = normalize(pool(output, np.array(lengths), pooling))

    for vector, text in zip(batched, texts, strict=True):
        alone = normalize(pool(text[None], np.array([len(text)]), pooling))[0]
        assert vector.tobytes() == alone.tobytes()


def test_a_finished_vector_is_left_as_it_is() -> None:
    output = random_output(1, 3)[0]

    assert pool(output, np.array([4, 5, 6]), Pooling.NONE) is output


@given(st.integers(1, 40), st.integers(1, 400))
def test_normalized_vectors_have_length_one(count: int, dimension: int) -> None:
    vectors = normalize(random_output(count, 1, dimension)[:, 0] * 100)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_a_zero_vector_stays_zero() -> None:
    assert not normalize(np.zeros((2, 4), dtype=np.float32)).any()
