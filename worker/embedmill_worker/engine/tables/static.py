"""Static models: means of token vectors, read directly from the mapped table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker.arrays import Floats, Ints, normalize
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.probing.probe import measure_encoder
from embedmill_worker.engine.tables.loading import engine_of
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models.formats.safetensors import SafetensorsFile
from embedmill_worker.models.formats.static import MAPPING, MAX_TOKENS, TABLE, WEIGHTS, StaticTable


class StaticEncoder:
    """Encoder of a static model. It sums each text alone and in order, so it is batch-invariant."""

    def __init__(self, files: StaticTable) -> None:
        """Map the table; only rows that texts use are loaded, and all children share them.

        Raises:
            ModelLoadError: the file is damaged.
        """
        try:
            tensors = SafetensorsFile(files.table)
            self._table: npt.NDArray[Any] = tensors.mapped(TABLE)
            self._mapping = tensors.mapped(MAPPING) if MAPPING in tensors else None
            self._weights = tensors.mapped(WEIGHTS) if WEIGHTS in tensors else None
        except (OSError, ValueError) as error:
            raise ModelLoadError(files.name, f"{files.table}: {error}; restore it") from None
        self._name, self._unknown, self._normalizes = files.name, files.unknown_id, files.normalize

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self._table.shape[1])

    def __call__(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Return (n, dimension) for the token ids of n texts; zeros for a text of unknown tokens only.

        Raises:
            InferenceError: the tokenizer has more tokens than the table.
        """
        try:
            vectors = np.stack([self._mean(np.array(row, dtype=np.int64)) for row in ids])
        except IndexError:
            raise InferenceError(self._name, "its tokenizer has more tokens than its table") from None
        return normalize(vectors) if self._normalizes else vectors

    def _mean(self, ids: Ints) -> Floats:
        if self._unknown is not None:
            ids = ids[ids != self._unknown]
        rows = self._table[ids if self._mapping is None else self._mapping[ids]].astype(np.float32, copy=False)
        if self._weights is not None:
            rows = rows * self._weights[ids, None].astype(np.float32)
        return np.asarray(rows.sum(axis=0, dtype=np.float32) / np.float32(max(1, len(ids))), dtype=np.float32)


def load_static(files: StaticTable, *, cache_dir: Path | None) -> Engine:
    """Load a static model; see ``engine.load``."""
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=MAX_TOKENS, adds_special=False)
    encoder = StaticEncoder(files)
    return engine_of(
        files,
        tokenizer,
        encoder,
        lambda: measure_encoder(tokenizer, encoder),
        dimension=encoder.dimension,
        max_tokens=MAX_TOKENS,
        cache_dir=cache_dir,
    )
