"""The encoder of transformers: token ids in planned batches, or one by one if vectors depend on their batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedmill_worker.engine.batching import plan
from embedmill_worker.engine.forward import ForwardPass

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerEncoder:
    """See ``engine.Encoder``."""

    forward: ForwardPass
    dimension: int
    #: Padded tokens a run; 1: one text at a time.
    max_batch_tokens: int

    def __call__(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Give (n, dimension) for the token ids of n texts."""
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        token_counts = [max(len(row), self.forward.files.fixed_tokens) for row in ids]
        token_step = self.forward.session.token_step
        for batch in plan(token_counts, max_batch_tokens=self.max_batch_tokens, token_step=token_step):
            vectors[batch] = self.forward([ids[i] for i in batch])
        return vectors
