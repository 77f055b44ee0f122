"""The values that calls return: vectors in input order, and for each text what happened to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt


class Reason(StrEnum):
    """Why a text has no vector."""

    #: The text holds a lone surrogate, so UTF-8 cannot encode it.
    INVALID_UNICODE = "invalid_unicode"
    #: The text has more characters than a text may have.
    TOO_LARGE = "too_large"
    #: The text has more tokens than the model reads, and ``truncate`` is False.
    TOO_LONG = "too_long"
    #: The text, embedded alone, crashed its process several times.
    CRASHED = "crashed"
    #: Every attempt ended without a result: the worker was lost or killed, or gave up.
    WORKERS_LOST = "workers_lost"
    #: The engine failed on the text.
    FAILED = "failed"
    #: The vector holds NaN, infinity or a number too large for the dtype.
    NOT_FINITE = "not_finite"
    #: ``deadline_s`` passed before a worker began the text.
    DEADLINE = "deadline"
    #: The model's fingerprint changed during the job.
    MODEL_CHANGED = "model_changed"
    #: The model cannot serve the options of the request.
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A text without a vector; it holds nothing of the text itself."""

    #: Position in the input.
    index: int
    #: One of ``Reason``.
    reason: str
    #: What happened, with numbers and a hint, for people.
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingReply:
    """All vectors of a job."""

    #: (n, dimension), or (n, dimension / 8) uint8 if binary, in input order. Rows of rejected texts are NaN, or zeros
    #: for integer and binary dtypes.
    vectors: npt.NDArray[Any]
    #: uint32 (n,): tokens of each text before truncation, special tokens included; 0 for rejected texts.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,): whether the text was cut to what the model reads.
    truncated: npt.NDArray[np.bool_]
    #: Texts without a vector, sorted by position.
    rejected: tuple[Rejected, ...]
    model: str
    #: Fingerprint of the model's files and settings. Vectors of two fingerprints must not be compared.
    fingerprint: str
    #: ONNX Runtime version and CPU that computed the vectors. The same bits are promised within one runtime only.
    runtime: str = ""
    #: Milliseconds: ``queue`` (from submission to claim, the longest), ``tokenization`` and ``inference`` (sums).
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyPart:
    """The vectors of one chunk."""

    #: uint32 (m,): positions in the input.
    indices: npt.NDArray[np.uint32]
    #: (m, dimension); row i belongs to text ``indices[i]``.
    vectors: npt.NDArray[Any]
    #: Texts of this chunk without a vector.
    rejected: tuple[Rejected, ...]
