"""Relative attention bias, as MPNet and T5 have it: a table by head and by how far apart two tokens stand."""

import numpy as np
from numpy.typing import NDArray

#: Distance from which all tokens share a bucket.
_MAX_DISTANCE = 128


def attention_bias(table: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """Spreads a table (buckets, heads) over all pairs of positions: (1, heads, tokens, tokens).

    Half of the buckets are for keys behind the query; of each half, one half are single distances and the others
    grow logarithmically (Raffel et al. 2020, bidirectional).
    """
    half = table.shape[0] // 2
    positions = np.arange(tokens)
    distance = positions[None, :] - positions[:, None]  # of a key (column) from a query (row)
    single = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(single)
    steps = np.log(far) / np.float32(np.log(_MAX_DISTANCE / single)) * np.float32(half - single)
    buckets = np.where(
        np.abs(distance) < single, np.abs(distance), np.minimum(single + steps.astype(np.int64), half - 1)
    )
    buckets = buckets + half * (distance > 0)
    return np.ascontiguousarray(table[buckets].transpose(2, 0, 1)[None])
