"""From token vectors to one vector a text: pure numpy, the same bits whatever the padding. No I/O."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedmill_worker.models.files import Pooling

Floats = npt.NDArray[np.float32]

#: Below this a vector has no direction; keeps 0 / 0 out.
SMALLEST_NORM = np.float32(1e-12)


def pool(output: Floats, lengths: npt.NDArray[np.int64], pooling: Pooling) -> Floats:
    """Pool token vectors over each text's own tokens.

    Args:
        output: (batch, tokens, dimension), or (batch, dimension) for ``Pooling.NONE``.
        lengths: tokens of each text, (batch,); the rest of a row is padding.
        pooling: how.

    Returns:
        (batch, dimension). Each row is computed from its own tokens alone, one after the other, so that
        neither neighbours nor padding can change a bit.
    """
    match pooling:
        case Pooling.NONE:
            return output
        case Pooling.CLS:
            return output[:, 0]
        case Pooling.MAX:
            return np.stack([row[:length].max(axis=0) for row, length in zip(output, lengths, strict=True)])
        case Pooling.MEAN:
            sums = [np.add.reduce(row[:length], axis=0) for row, length in zip(output, lengths, strict=True)]
            return np.stack(sums) / lengths[:, None].astype(np.float32)


def normalize(vectors: Floats) -> Floats:
    """Scale rows of (n, dimension) to L2 length 1; a zero row stays zero."""
    norms = np.sqrt(np.stack([np.dot(row, row) for row in vectors]))
    return np.asarray(vectors / np.maximum(norms, SMALLEST_NORM)[:, None], dtype=np.float32)
