"""From token vectors to one vector a text: pure numpy, the same bits whatever the padding. No I/O."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from embedmill_worker.models.files import Pooling

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

#: L2 lengths below this count as this, so that a zero vector stays zero.
SMALLEST_NORM: Final = np.float32(1e-12)


def pool(output: Floats, lengths: Ints, pooling: Pooling, *, skipped: int = 0) -> Floats:
    """Pool token vectors over each text's own tokens.

    Every row is computed from its own tokens alone, in their order, so that neither neighbours nor padding can
    change a bit.

    Args:
        output: (batch, tokens, dimension), or (batch, dimension) for ``Pooling.NONE``.
        lengths: tokens of each text, at least 1, (batch,); the rest of a row is padding.
        pooling: how.
        skipped: tokens at the start of each text that do not count; the last one always does.

    Returns:
        (batch, dimension).
    """
    if pooling is Pooling.NONE:
        return output
    return np.stack(
        [
            _pooled(row[:length], pooling, min(skipped, int(length) - 1))
            for row, length in zip(output, lengths, strict=True)
        ]
    )


def _pooled(tokens: Floats, pooling: Pooling, skipped: int) -> Floats:
    """Pool the token vectors (tokens, dimension) of one text to (dimension,)."""
    used = tokens[skipped:]
    match pooling:
        case Pooling.CLS:
            return np.asarray(used[0])
        case Pooling.LAST_TOKEN:
            return np.asarray(used[-1])
        case Pooling.MAX:
            return np.asarray(used.max(axis=0))
        case Pooling.MEAN:
            return np.asarray(used.sum(axis=0) / np.float32(len(used)))
        case Pooling.MEAN_SQRT_LEN:
            return np.asarray(used.sum(axis=0) / np.sqrt(np.float32(len(used))))
        case Pooling.WEIGHTED_MEAN:
            weights = np.arange(skipped + 1, len(tokens) + 1, dtype=np.float32)
            return np.asarray((used * weights[:, None]).sum(axis=0) / weights.sum())
        case Pooling.NONE:
            raise ValueError("there are no token vectors to pool")


def normalize(vectors: Floats) -> Floats:
    """Scale rows of (n, dimension) to L2 length 1; a zero row stays zero, one whose length overflows becomes NaN."""
    norms: Floats = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    norms[norms < SMALLEST_NORM] = SMALLEST_NORM
    norms[np.isinf(norms)] = np.nan
    return vectors / norms


def finite_rows(vectors: Floats) -> npt.NDArray[np.bool_]:
    """Return which rows of (n, dimension) are vectors, (n,): all components are finite, and so is the length.

    What is cut, normalised or rounded to int8 later needs the length; it also is the cheapest look at all components.
    """
    return np.asarray(np.isfinite(np.einsum("ij,ij->i", vectors, vectors)))
