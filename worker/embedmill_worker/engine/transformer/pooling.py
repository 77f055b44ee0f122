"""Pooling of token vectors to one vector per text, and dense layers. Both are batch-invariant, whatever the padding.

Layers process one row at a time, because the rounding of a matrix product depends on the size of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker.arrays import Floats, Ints, normalize
from embedmill_worker.models.files import Activation, Dense, Pooling
from embedmill_worker.models.formats.safetensors import SafetensorsFile


def pool(output: Floats, lengths: Ints, pooling: Pooling, *, skipped: int = 0) -> Floats:
    """Pool token vectors over each text's own tokens.

    Each row is computed from its own tokens only, in their order, so that the result is batch-invariant.

    Args:
        output: (batch, tokens, dimension), or (batch, dimension) for ``Pooling.NONE``.
        lengths: tokens of each text, at least 1, (batch,); the rest of a row is padding.
        pooling: method.
        skipped: number of tokens to skip at the start of each text; the last token always counts.

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
            raise ValueError("a finished vector has no token vectors to pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A dense layer with its weights; it is batch-invariant."""

    #: Weights, (outputs, inputs).
    weight: Floats
    #: Bias, (outputs,).
    bias: Floats
    activation: Activation
    normalizes_first: bool
    #: Name of the model, for errors.
    model: str

    @classmethod
    def load(cls, layer: Dense, *, model: str) -> DenseLayer:
        """Read the weights.

        Raises:
            ModelLoadError: they are damaged, or their shape is not that of the layer's configuration.
        """
        try:
            tensors = SafetensorsFile(layer.weights)
            weight = tensors.read("linear.weight", (layer.outputs, layer.inputs))
            has_bias = layer.has_bias
            bias = tensors.read("linear.bias", (layer.outputs,)) if has_bias else np.zeros(layer.outputs, np.float32)
        except (OSError, ValueError) as error:
            raise ModelLoadError(model, f"{layer.weights}: {error}; restore it") from None
        return cls(
            weight=np.ascontiguousarray(weight),
            bias=bias,
            activation=layer.activation,
            normalizes_first=layer.normalizes_first,
            model=model,
        )

    def __call__(self, vectors: Floats) -> Floats:
        """Return (n, outputs) for (n, inputs).

        Raises:
            InferenceError: the vectors do not have the dimension that the layer takes.
        """
        if vectors.shape[1] != self.weight.shape[1]:
            reason = f"its vectors are of dimension {vectors.shape[1]}, a Dense layer takes {self.weight.shape[1]}"
            raise InferenceError(self.model, reason)
        if self.normalizes_first:
            vectors = normalize(vectors)
        rows = np.stack([self._row(np.array(row)) for row in vectors])
        return rows.astype(np.float32, copy=False)

    def _row(self, row: Floats) -> Floats:
        values: Floats = self.weight @ row + self.bias
        if not np.isfinite(values).all():  # an activation could turn them into finite numbers
            return np.full_like(values, np.nan)
        match self.activation:
            case Activation.IDENTITY:
                return values
            case Activation.TANH:
                return np.tanh(values)
            case Activation.RELU:
                return np.maximum(values, np.float32(0))
            case Activation.SIGMOID:
                return np.asarray(0.5 * (np.tanh(0.5 * values) + 1), dtype=np.float32)
