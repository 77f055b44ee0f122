"""From token vectors to one vector a text, and through dense layers: the same bits whatever the batch and its padding.

Layers go one row at a time, as a matrix product over a batch rounds by the batch's size.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A layer with its weights; the same bits for a row in any batch."""

    #: (outputs, inputs).
    weight: Floats
    #: (outputs,).
    bias: Floats
    activation: Activation
    normalizes_first: bool
    #: For errors.
    model: str

    @classmethod
    def load(cls, layer: Dense, *, model: str) -> DenseLayer:
        """Read the weights.

        Raises:
            ModelLoadError: they are damaged, or of another shape than the layer's configuration says.
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
            InferenceError: the vectors are of another length than the layer takes.
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
        if not np.isfinite(values).all():  # what follows may make numbers of it that look good
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
