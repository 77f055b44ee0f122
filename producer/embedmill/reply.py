"""What comes back: vectors in input order, and what there is to say of each text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt


class Reason(StrEnum):
    """Why a text has no vector."""

    #: It holds lone surrogates and so has no UTF-8 form.
    INVALID_UNICODE = "invalid_unicode"
    #: More characters than a text may have.
    TOO_LARGE = "too_large"
    #: More tokens than the model reads, and ``truncate=False``.
    TOO_LONG = "too_long"
    #: It crashed the process that embedded it, alone, several times.
    CRASHED = "crashed"
    #: Every try at it ended without a result: the worker was lost or killed, or gave it up.
    WORKERS_LOST = "workers_lost"
    #: The engine failed on it.
    FAILED = "failed"
    #: The model's vector for it holds NaN, or numbers too large for the asked dtype.
    NOT_FINITE = "not_finite"
    #: ``deadline_s`` passed before work on it began.
    DEADLINE = "deadline"
    #: The model's fingerprint changed while the job was under way.
    MODEL_CHANGED = "model_changed"
    #: The request asks for what this model cannot give.
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A text without a vector. Holds nothing of the text itself."""

    #: Position in the input.
    index: int
    #: One of ``Reason``.
    reason: str
    #: Numbers and the way out, for people.
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingReply:
    """All of a job's vectors."""

    #: (n, dimension) in input order; rows of rejected texts are NaN, or zeros for integer and binary dtypes.
    vectors: npt.NDArray[Any]
    #: uint32 (n,): tokens of each text before truncation, special tokens included; 0 for rejected texts.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,): the text was longer than the model reads.
    truncated: npt.NDArray[np.bool_]
    #: Texts without a vector, by position.
    rejected: tuple[Rejected, ...]
    model: str
    #: Of the model's files and settings; vectors of two fingerprints must not be compared.
    fingerprint: str
    #: What computed it: ONNX Runtime version and CPU; the same bits are promised within one.
    runtime: str = ""
    #: Milliseconds: ``queue`` (submission to claim, longest), ``tokenization`` and ``inference`` (sums).
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyPart:
    """The vectors of one chunk, as they complete."""

    #: uint32 (m,): positions in the input.
    indices: npt.NDArray[np.uint32]
    #: (m, dimension), row i belongs to ``indices[i]``.
    vectors: npt.NDArray[Any]
    rejected: tuple[Rejected, ...]
