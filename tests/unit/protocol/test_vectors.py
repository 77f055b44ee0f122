"""Vectors as values: cut, converted, packed; a row never depends on its neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedmill import unpack_binary, unpack_int8
from embedmill.errors import InvalidRequestError, MessageError
from embedmill.protocol import vectors
from embedmill.protocol.vectors import Dtype

components = st.floats(-1, 1, width=32)
matrices = hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.sampled_from([8, 24, 100, 384])), elements=components)
normal_matrices = st.builds(
    lambda seed, rows, columns: np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32),
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.sampled_from([16, 100, 384, 1_024]),
)


def bits(rows):
    return np.ascontiguousarray(rows).view(np.uint8).tobytes()


@given(normal_matrices, st.data())
def test_a_cut_row_has_length_one_and_its_direction(matrix, data):
    dimensions = data.draw(st.integers(1, matrix.shape[1] - 1))
    rows = vectors.cut(matrix, dimensions)
    assert rows.shape == (len(matrix), dimensions)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    kept = matrix[:, :dimensions]
    assert np.einsum("ij,ij->i", rows, kept) == pytest.approx(np.linalg.norm(kept, axis=1), rel=1e-4)


@given(normal_matrices, st.data())
def test_a_cut_row_has_the_same_bits_alone_and_in_any_company(matrix, data):
    dimensions = data.draw(st.integers(1, matrix.shape[1] - 1))
    together = vectors.cut(matrix, dimensions)
    order = data.draw(st.permutations(range(len(matrix))))
    assert bits(vectors.cut(matrix[order], dimensions)) == bits(together[order])
    for i in range(len(matrix)):
        assert bits(vectors.cut(matrix[i : i + 1], dimensions)) == bits(together[i : i + 1])


@pytest.mark.parametrize("dimensions", [None, 384])
def test_all_components_are_left_as_the_model_gave_them(dimensions):
    matrix = np.full((2, 384), 0.3, dtype=np.float32)
    assert vectors.cut(matrix, dimensions) is matrix


def test_a_row_of_zeros_is_cut_to_zeros_and_a_rejected_one_stays_nan():
    matrix = np.stack([np.zeros(8), np.full(8, np.nan)]).astype(np.float32)
    rows = vectors.cut(matrix, 4)
    assert rows[0].tolist() == [0.0] * 4
    assert np.isnan(rows[1]).all()


@given(matrices)
def test_float32_comes_back_to_the_bit(matrix):
    back = vectors.from_bytes(vectors.to_bytes(matrix, Dtype.FLOAT32), Dtype.FLOAT32, matrix.shape[1])
    assert bits(back) == bits(matrix)
    assert back.shape == matrix.shape


@given(matrices)
def test_float16_comes_back_within_its_rounding(matrix):
    back = vectors.from_bytes(vectors.to_bytes(matrix, Dtype.FLOAT16), Dtype.FLOAT16, matrix.shape[1])
    assert back.dtype == np.float16
    assert np.abs(back.astype(np.float32) - matrix).max(initial=0) <= 2**-11


@given(matrices)
def test_int8_comes_back_within_half_a_step(matrix):
    back = vectors.from_bytes(vectors.to_bytes(matrix, Dtype.INT8), Dtype.INT8, matrix.shape[1])
    assert back.dtype == np.int8
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    expected = matrix / np.where(lengths > 1, lengths, 1)
    assert np.abs(unpack_int8(back) - expected).max(initial=0) <= 0.5 / vectors.INT8_SCALE + 1e-3


@given(matrices.filter(lambda m: m.shape[1] % 8 == 0))
def test_binary_keeps_the_signs(matrix):
    back = vectors.from_bytes(vectors.to_bytes(matrix, Dtype.BINARY), Dtype.BINARY, matrix.shape[1])
    assert back.shape == (len(matrix), matrix.shape[1] // 8)
    assert (unpack_binary(back) == np.where(matrix > 0, 1, -1)).all()


def test_binary_puts_the_first_component_into_the_highest_bit():
    row = np.array([[1, -1, -1, -1, -1, -1, -1, 1]], dtype=np.float32)
    assert vectors.to_bytes(row, Dtype.BINARY) == bytes([0b10000001])


def test_binary_refuses_what_does_not_fill_bytes():
    with pytest.raises(InvalidRequestError, match="multiple of 8, not 12"):
        vectors.to_bytes(np.zeros((1, 12), dtype=np.float32), Dtype.BINARY)


@pytest.mark.parametrize("dtype", Dtype)
def test_a_rejected_row_is_nan_or_zeros_whichever_way_it_is_made(dtype):
    from_engine = vectors.to_bytes(np.full((2, 8), np.nan, dtype=np.float32), dtype)
    rows = vectors.from_bytes(from_engine, dtype, 8)
    assert np.array_equal(rows, vectors.blank(2, dtype, 8), equal_nan=dtype in (Dtype.FLOAT32, Dtype.FLOAT16))
    assert np.isnan(rows).all() if rows.dtype.kind == "f" else not rows.any()


def test_int8_keeps_the_direction_of_rows_that_are_not_normalised():
    rows = np.array([[3.0, -4.0, 12.0, 0.0], [300, 0, 0, 400], [0.1, 0.2, -0.2, 0.1]], dtype=np.float32)
    back = unpack_int8(vectors.from_bytes(vectors.to_bytes(rows, Dtype.INT8), Dtype.INT8, 4))

    assert back.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(back, rows / np.where(lengths > 1, lengths, 1), atol=0.5 / 127 + 1e-6)


def test_int8_of_endless_components_points_their_way():
    row = np.array([[2.0, -2.0, np.inf, -np.inf]], dtype=np.float32)
    assert np.frombuffer(vectors.to_bytes(row, Dtype.INT8), np.int8).tolist() == [0, 0, 90, -90]


@pytest.mark.parametrize(("size", "dimension"), [(7, 2), (4, 0), (4, -4), (1, 1)])
def test_bytes_that_are_no_whole_rows_are_refused(size, dimension):
    with pytest.raises(MessageError, match="whole number"):
        vectors.from_bytes(bytes(size), Dtype.FLOAT32, dimension)


@pytest.mark.parametrize("value", ["float64", "", "FLOAT32", None, 3])
def test_there_is_no_other_dtype(value):
    with pytest.raises(InvalidRequestError, match="float32, float16, int8, binary"):
        Dtype.parse(value)
