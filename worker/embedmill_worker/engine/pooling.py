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


def pool(output: Floats, lengths: Ints, pooling: Pooling) -> Floats:
    """Pool token vectors over each text's own tokens.

    Every row is computed from its own tokens alone, in their order, so that neither neighbours nor padding can
    change a bit.

    Args:
        output: (batch, tokens, dimension), or (batch, dimension) for ``Pooling.NONE``.
        lengths: tokens of each text, at least 1, (batch,); the rest of a row is padding.
        pooling: how.

    Returns:
        (batch, dimension).
    """
    match pooling:
        case Pooling.NONE:
            return output
        case Pooling.CLS:
            return output[:, 0]
        case Pooling.MAX:
            return np.stack([row[:length].max(axis=0) for row, length in zip(output, lengths, strict=True)])
        case Pooling.MEAN:
            sums: Floats = np.stack([row[:length].sum(axis=0) for row, length in zip(output, lengths, strict=True)])
            sums /= lengths[:, None].astype(np.float32)
            return sums


def normalize(vectors: Floats) -> Floats:
    """Scale rows of (n, dimension) to L2 length 1; a zero row stays zero."""
    norms: Floats = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    norms[norms < SMALLEST_NORM] = SMALLEST_NORM
    return vectors / norms
