"""From token vectors to one vector a text: pure numpy, the same bits whatever the padding. No I/O."""

from __future__ import annotations

import numpy as np

from embedmill_worker.arrays import Floats, Ints
from embedmill_worker.models.files import Pooling


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
