"""Putting replies of chunks back into input order. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedmill import vectors as codec
from embedmill.errors import MessageError
from embedmill.protocol import ChunkReply, EmbedOptions
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart
from embedmill.vectors import Vectors


def to_part(reply: ChunkReply) -> ReplyPart:
    """Give a chunk's reply as a caller sees it."""
    rows = codec.from_bytes(reply.vectors, reply.dtype, reply.dimension)
    return ReplyPart(indices=reply.indices, vectors=rows, rejected=reply.rejected)


def rejected_part(options: EmbedOptions, rejected: Sequence[Rejected], dimension: int) -> ReplyPart:
    """Give the part of the texts that never left the client."""
    rows = codec.blank(len(rejected), options.dtype, options.dimensions or dimension)
    indices = np.array([r.index for r in rejected], dtype=np.uint32)
    return ReplyPart(indices=indices, vectors=rows, rejected=tuple(rejected))


class Missing:
    """Rows of a job that no part has brought yet."""

    def __init__(self, n_texts: int) -> None:
        self._rows: npt.NDArray[np.bool_] = np.ones(n_texts, dtype=np.bool_)

    def note(self, indices: npt.NDArray[np.uint32]) -> None:
        """Cross rows off.

        Raises:
            MessageError: the job has no such row.
        """
        if len(indices) and int(indices.max()) >= len(self._rows):
            raise MessageError(f"a reply names row {int(indices.max())} of {len(self._rows)}")
        self._rows[indices] = False

    def rejected(self) -> list[Rejected]:
        """Give what there is to say of them once the job is done."""
        detail = "its chunk could not be read by the worker"
        return [Rejected(index=int(i), reason=Reason.FAILED, detail=detail) for i in np.flatnonzero(self._rows)]


class Assembly:
    """One job's rows, filled as its chunks arrive."""

    def __init__(
        self, *, n_texts: int, options: EmbedOptions, rejected: Sequence[Rejected], dimension: int = 0
    ) -> None:
        """Start with every row empty.

        Args:
            n_texts: rows.
            options: what was asked.
            rejected: texts that the client rejected.
            dimension: length of a vector, for a job without any; 0 if unknown.
        """
        self._options = options
        self._rows: Vectors | None = None
        self._dimension = dimension
        self._n_texts = n_texts
        self._token_counts: npt.NDArray[np.uint32] = np.zeros(n_texts, dtype=np.uint32)
        self._truncated: npt.NDArray[np.bool_] = np.zeros(n_texts, dtype=np.bool_)
        self._rejected = {r.index: r for r in rejected}
        self._missing = Missing(n_texts)
        self._missing.note(np.array([r.index for r in rejected], dtype=np.uint32))
        self._fingerprint = ""
        self._runtime = ""
        self._timings_ms = {"queue": 0.0, "tokenization": 0.0, "inference": 0.0}

    def add(self, reply: ChunkReply) -> None:
        """Put a chunk's rows where they belong.

        Raises:
            MessageError: a row outside the job, or vectors of another model or form.
        """
        if reply.fingerprint and self._fingerprint and reply.fingerprint != self._fingerprint:
            raise MessageError(f"replies of two fingerprints, {self._fingerprint} and {reply.fingerprint}, in one job")
        if reply.rejected and not {r.index for r in reply.rejected} <= set(reply.indices.tolist()):
            raise MessageError("a reply rejects a text that is not in its chunk")
        self._missing.note(reply.indices)
        self._fingerprint = reply.fingerprint or self._fingerprint
        self._runtime = reply.runtime or self._runtime
        self._place(reply)
        self._token_counts[reply.indices] = reply.token_counts
        self._truncated[reply.indices] = reply.truncated
        self._rejected |= {r.index: r for r in reply.rejected}
        waited = self._timings_ms["queue"]
        self._timings_ms["queue"] = max(waited, reply.timings_ms.get("queue", 0.0))
        for stage in ("tokenization", "inference"):
            self._timings_ms[stage] += reply.timings_ms.get(stage, 0.0)

    def _place(self, reply: ChunkReply) -> None:
        """Copy the vectors. A chunk without any may come from a worker that has another model by now."""
        if len(reply.rejected) == len(reply.indices):
            self._dimension = self._dimension or reply.dimension
            return
        if reply.dtype is not self._options.dtype or reply.dimension != (self._options.dimensions or reply.dimension):
            raise MessageError(
                f"a reply holds {reply.dtype} of {reply.dimension} components, asked for were "
                f"{self._options.dtype} of {self._options.dimensions or 'all'}"
            )
        if self._rows is None:
            self._rows = codec.blank(self._n_texts, reply.dtype, reply.dimension)
        columns = reply.dtype.columns(reply.dimension)
        if self._rows.shape[1] != columns:
            raise MessageError(f"replies of {self._rows.shape[1]} and of {columns} columns in one job")
        self._rows[reply.indices] = codec.from_bytes(reply.vectors, reply.dtype, reply.dimension)

    def reply(self, model: str) -> EmbeddingReply:
        """Give the whole reply."""
        dimension = self._options.dimensions or self._dimension
        rows = self._rows
        if rows is None:
            rows = codec.blank(self._n_texts, self._options.dtype, dimension)
        return EmbeddingReply(
            vectors=rows,
            token_counts=self._token_counts,
            truncated=self._truncated,
            rejected=tuple(sorted([*self._rejected.values(), *self._missing.rejected()], key=lambda r: r.index)),
            model=model,
            fingerprint=self._fingerprint,
            runtime=self._runtime,
            timings_ms=dict(self._timings_ms),
        )


def excerpt(reply: EmbeddingReply, start: int, stop: int) -> EmbeddingReply:
    """Give the reply to the texts from ``start`` up to ``stop`` alone, with arrays of its own."""
    return EmbeddingReply(
        vectors=reply.vectors[start:stop].copy(),
        token_counts=reply.token_counts[start:stop].copy(),
        truncated=reply.truncated[start:stop].copy(),
        rejected=tuple(
            Rejected(index=r.index - start, reason=r.reason, detail=r.detail)
            for r in reply.rejected
            if start <= r.index < stop
        ),
        model=reply.model,
        fingerprint=reply.fingerprint,
        runtime=reply.runtime,
        timings_ms=dict(reply.timings_ms),
    )


def concatenate(replies: Sequence[EmbeddingReply], starts: Sequence[int]) -> EmbeddingReply:
    """Join the replies of consecutive windows of one input; ``starts`` are the windows' first positions."""
    if len(replies) == 1:
        return replies[0]
    fingerprints = {reply.fingerprint for reply in replies if reply.fingerprint}
    if len(fingerprints) > 1:
        raise MessageError(f"the model changed while embedding: fingerprints {', '.join(sorted(fingerprints))}")
    stages = replies[0].timings_ms
    return EmbeddingReply(
        vectors=np.concatenate([reply.vectors for reply in replies]),
        token_counts=np.concatenate([reply.token_counts for reply in replies]),
        truncated=np.concatenate([reply.truncated for reply in replies]),
        rejected=tuple(
            Rejected(index=start + r.index, reason=r.reason, detail=r.detail)
            for start, reply in zip(starts, replies, strict=True)
            for r in reply.rejected
        ),
        model=replies[0].model,
        fingerprint=next(iter(fingerprints), ""),
        runtime=replies[-1].runtime,
        timings_ms={
            stage: (max if stage == "queue" else sum)(reply.timings_ms[stage] for reply in replies) for stage in stages
        },
    )
