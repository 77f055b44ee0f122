"""Vectors on their way into a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedmill.protocol.vectors import Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of one write; everything but ``place`` has length n."""

    #: Number of this write, growing and never used again; the same after a crash for the same rows.
    place: int
    ids: Sequence[str]
    #: (n, columns)
    vectors: Vectors
    #: JSON objects.
    metadata: Sequence[str] = field(repr=False)
    #: Of the records, 24 bytes each; see ``record.digest``.
    digests: Sequence[bytes]
    #: None: the sink does not carry texts.
    texts: Sequence[str] | None = field(repr=False)

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.vectors), len(self.metadata), len(self.digests)}
        if self.texts is not None:
            lengths.add(len(self.texts))
        if len(lengths) != 1:
            raise ValueError(f"rows of unequal lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: npt.NDArray[np.intp]) -> Rows:
        """Give the rows at these positions."""
        chosen: list[int] = positions.tolist()
        return Rows(
            place=self.place,
            ids=[self.ids[i] for i in chosen],
            vectors=self.vectors[positions],
            metadata=[self.metadata[i] for i in chosen],
            digests=[self.digests[i] for i in chosen],
            texts=None if self.texts is None else [self.texts[i] for i in chosen],
        )
