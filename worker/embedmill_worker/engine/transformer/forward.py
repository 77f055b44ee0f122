"""Forward passes, from token ids to vectors: pad, run, pool, apply layers, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedmill.errors import InferenceError
from embedmill_worker.arrays import Floats, normalize
from embedmill_worker.engine.transformer.batching import pad, plan
from embedmill_worker.engine.transformer.pooling import DenseLayer, pool
from embedmill_worker.engine.transformer.session import Session
from embedmill_worker.models.files import ModelFiles, Pooling


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """A session, and the processing of its output that the model needs."""

    files: ModelFiles
    session: Session
    layers: tuple[DenseLayer, ...] = ()
    #: Tokens of a prompt at the start of each text that do not count in pooling.
    skipped: int = 0

    def __call__(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Run one batch.

        Args:
            ids: token ids of each text, at least one text and one token.

        Returns:
            (batch, dimension).

        Raises:
            InferenceError: the graph failed, or returned another shape than its files say.
            MemoryError: there is not enough memory.
        """
        input_ids, lengths = pad(
            ids,
            pad_id=self.files.pad_id,
            fixed_tokens=self.files.fixed_tokens,
            token_step=self.session.token_step,
            max_tokens=self.files.max_tokens,
        )
        attention_mask = (np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)
        output = self.session.run(input_ids, attention_mask)
        expected = input_ids.shape[: 1 if self.files.pooling is Pooling.NONE else 2]
        if output.shape[:-1] != expected:
            reason = (
                f"its graph returned {output.shape} for {input_ids.shape} tokens, which {self.files.pooling} pooling"
            )
            raise InferenceError(self.files.name, f"{reason} cannot use")
        vectors = pool(output, lengths, self.files.pooling, skipped=self.skipped)
        for layer in self.layers:
            vectors = layer(vectors)
        return normalize(vectors) if self.files.normalize else vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerEncoder:
    """Encoder of a transformer."""

    forward: ForwardPass
    dimension: int
    #: Maximum padded tokens of a run; 1: one text at a time.
    max_batch_tokens: int

    def __call__(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Return (n, dimension) for the token ids of n texts."""
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        token_counts = [max(len(row), self.forward.files.fixed_tokens) for row in ids]
        token_step = self.forward.session.token_step
        for batch in plan(token_counts, max_batch_tokens=self.max_batch_tokens, token_step=token_step):
            vectors[batch] = self.forward([ids[i] for i in batch])
        return vectors
