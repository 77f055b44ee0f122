"""Array types, and operations on rows of vectors. No I/O."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: Minimum L2 length to divide by, so that a zero vector stays zero.
SMALLEST_NORM: Final = np.float32(1e-12)


def normalize(vectors: Floats) -> Floats:
    """Scale rows of (n, dimension) to L2 length 1; a zero row stays zero, one whose length overflows becomes NaN."""
    norms: Floats = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    norms[norms < SMALLEST_NORM] = SMALLEST_NORM
    norms[np.isinf(norms)] = np.nan
    return vectors / norms


def finite_rows(vectors: Floats) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) of the rows of (n, dimension) whose components and L2 length are all finite.

    Rows that are cut, normalised or rounded to int8 later need the length; it also is the cheapest check of all
    components.
    """
    return np.asarray(np.isfinite(np.einsum("ij,ij->i", vectors, vectors)))
