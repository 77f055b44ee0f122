"""Assembly of chunk replies into input order. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedmill.errors import MessageError
from embedmill.protocol import vectors as codec
from embedmill.protocol.chunks import ChunkReply
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Vectors
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart


class Intake:
    """A check of a job's replies: it refuses what cannot belong to the job, and knows which rows are missing.

    Every reader of replies uses it, so all of them refuse the same.
    """

    def __init__(
        self, *, n_texts: int, options: EmbedOptions, rejected: Sequence[Rejected], dimension: int = 0
    ) -> None:
        """Start with every row missing except those that the client rejected.

        Args:
            n_texts: number of rows.
            options: the options of the job.
            rejected: texts that the client rejected and never sent.
            dimension: length of a vector, for parts without vectors; 0 if unknown.

        Raises:
            MessageError: a rejected text is outside the job.
        """
        self.n_texts = n_texts
        self.options = options
        self._refused = tuple(rejected)
        #: Dimension of the first vectors that came; 0 until then.
        self._of_vectors = 0
        self._dimension = dimension
        self._is_missing: npt.NDArray[np.bool_] = np.ones(n_texts, dtype=np.bool_)
        refused = np.array([r.index for r in rejected], dtype=np.uint32)
        self._check_rows(refused)
        self._is_missing[refused] = False
        self.fingerprint = ""

    @property
    def dimension(self) -> int:
        """Length of a vector, after cutting; 0 if it is not known yet."""
        return self.options.dimensions or self._of_vectors or self._dimension

    def take(self, reply: ChunkReply) -> ReplyPart:
        """Return the new rows of a chunk's reply; rows without a vector are blank.

        Raises:
            MessageError: the reply names rows outside the job, or holds vectors of another model or form.
        """
        self._check(reply)
        indices, rejected = reply.indices, {r.index: r for r in reply.rejected}
        if len(rejected) == len(indices):
            # A reply without vectors may come from a worker whose model has changed, so a known dimension goes first.
            self._dimension = self._dimension or reply.dimension
            rows = codec.blank(len(indices), reply.dtype, self.dimension)
        else:
            self._check_dimension(reply.dimension)
            rows = codec.from_bytes(reply.vectors, reply.dtype, reply.dimension)
        self.fingerprint = reply.fingerprint or self.fingerprint
        is_new = self._is_missing[indices]
        self._is_missing[indices] = False
        part = part_of(indices, rows, tuple(rejected.values()))
        # After a failover Redis may report a chunk twice.
        return part if is_new.all() else _select(part, is_new)

    def refused(self) -> list[ReplyPart]:
        """Return a part with the texts that the client itself rejected; an empty list if there are none."""
        return self._blank(self._refused)

    def lost(self) -> list[ReplyPart]:
        """Return a part with the rows that no reply holds, once the job is done; an empty list if there are none."""
        detail = "its chunk could not be read by the worker"
        missing = np.flatnonzero(self._is_missing).tolist()
        return self._blank([Rejected(index=index, reason=Reason.FAILED, detail=detail) for index in missing])

    def _check(self, reply: ChunkReply) -> None:
        indices = reply.indices
        if reply.fingerprint and self.fingerprint and reply.fingerprint != self.fingerprint:
            raise MessageError(f"replies of two fingerprints, {self.fingerprint} and {reply.fingerprint}, in one job")
        self._check_rows(indices)
        if len(np.unique(indices)) < len(indices):
            raise MessageError("a reply names a row twice")
        if reply.rejected and not {r.index for r in reply.rejected} <= set(indices.tolist()):
            raise MessageError("a reply rejects a text that is not in its chunk")
        if reply.dtype is not self.options.dtype:
            raise MessageError(f"a reply holds vectors of {reply.dtype}, not of {self.options.dtype}")

    def _check_rows(self, indices: npt.NDArray[np.uint32]) -> None:
        last = int(indices.max(initial=0))
        if len(indices) and last >= self.n_texts:
            raise MessageError(f"a reply names row {last} of {self.n_texts}")

    def _check_dimension(self, dimension: int) -> None:
        asked = self.options.dimensions or dimension
        if dimension != asked:
            raise MessageError(f"a reply holds vectors of {dimension} components, not of {asked}")
        if dimension != (self._of_vectors or dimension):
            raise MessageError(f"replies of {self._of_vectors} and of {dimension} components in one job")
        self._of_vectors = dimension

    def _blank(self, rejected: Sequence[Rejected]) -> list[ReplyPart]:
        if not rejected:
            return []
        indices = np.array([r.index for r in rejected], dtype=np.uint32)
        rows = codec.blank(len(rejected), self.options.dtype, self.dimension)
        return [ReplyPart(indices=indices, vectors=rows, rejected=tuple(rejected))]


def part_of(indices: npt.NDArray[np.uint32], rows: Vectors, rejected: Sequence[Rejected]) -> ReplyPart:
    """Return a part in which rows that are not finite are rejected, and rejected rows are blank."""
    known = {r.index: r for r in rejected}
    for place in np.flatnonzero(~codec.finite_rows(rows)).tolist():
        index = int(indices[place])
        detail = "its vector holds NaN or infinity: the worker has an older version, or the reply was changed in Redis"
        known.setdefault(index, Rejected(index=index, reason=Reason.NOT_FINITE, detail=detail))
    if known:
        has_none = np.isin(indices, list(known))
        rows = np.where(has_none[:, None], codec.blank_value(rows.dtype), rows)
    return ReplyPart(indices=indices, vectors=rows, rejected=tuple(known.values()))


def _select(part: ReplyPart, is_new: npt.NDArray[np.bool_]) -> ReplyPart:
    """Return some rows of a part."""
    indices = part.indices[is_new]
    chosen = set(indices.tolist())
    rejected = tuple(r for r in part.rejected if r.index in chosen)
    return ReplyPart(indices=indices, vectors=part.vectors[is_new], rejected=rejected)


class Assembly:
    """The rows of a job, filled as its chunks arrive."""

    def __init__(self, intake: Intake) -> None:
        """Start with every row empty."""
        self._intake = intake
        self._rows: Vectors | None = None
        self._token_counts: npt.NDArray[np.uint32] = np.zeros(intake.n_texts, dtype=np.uint32)
        self._truncated: npt.NDArray[np.bool_] = np.zeros(intake.n_texts, dtype=np.bool_)
        self._rejected = [rejected for part in intake.refused() for rejected in part.rejected]
        self._runtime = ""
        self._timings_ms = {"queue": 0.0, "tokenization": 0.0, "inference": 0.0}

    def add(self, reply: ChunkReply) -> None:
        """Put a chunk's rows into their positions.

        Raises:
            MessageError: the reply names rows outside the job, or holds vectors of another model or form.
        """
        part = self._intake.take(reply)
        if len(part.rejected) < len(part.indices):
            if self._rows is None:
                self._rows = codec.blank(self._intake.n_texts, reply.dtype, reply.dimension)
            self._rows[part.indices] = part.vectors
        self._rejected += part.rejected
        self._runtime = reply.runtime or self._runtime
        self._token_counts[reply.indices] = reply.token_counts
        self._truncated[reply.indices] = reply.truncated
        waited = self._timings_ms["queue"]
        self._timings_ms["queue"] = max(waited, reply.timings_ms.get("queue", 0.0))
        for stage in ("tokenization", "inference"):
            self._timings_ms[stage] += reply.timings_ms.get(stage, 0.0)

    def reply(self, model: str) -> EmbeddingReply:
        """Return the whole reply."""
        rows, lost = self._rows, [rejected for part in self._intake.lost() for rejected in part.rejected]
        if rows is None:
            rows = codec.blank(self._intake.n_texts, self._intake.options.dtype, self._intake.dimension)
        return EmbeddingReply(
            vectors=rows,
            token_counts=self._token_counts,
            truncated=self._truncated,
            rejected=tuple(sorted([*self._rejected, *lost], key=lambda r: r.index)),
            model=model,
            fingerprint=self._intake.fingerprint,
            runtime=self._runtime,
            timings_ms=dict(self._timings_ms),
        )


def excerpt(reply: EmbeddingReply, start: int, stop: int) -> EmbeddingReply:
    """Return the part of a reply for the texts ``start`` to ``stop`` (exclusive), with copies of its arrays."""
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
    """Join the replies to consecutive parts of an input.

    Args:
        replies: at least one, in input order.
        starts: the position of each reply's first text.

    Raises:
        MessageError: the replies have different fingerprints.
    """
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
