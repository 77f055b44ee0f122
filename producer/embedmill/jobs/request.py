"""Jobs that are ready to be stored, made of a caller's arguments: validated, cut and packed. No I/O."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from embedmill.errors import InvalidRequestError, InvalidTextError, JobTooLargeError, TooManyTextsError
from embedmill.jobs import chunking
from embedmill.limits import (
    CHUNK_TARGET_S,
    LONGEST_CHUNK_S,
    MAX_CHUNK_TEXTS,
    MAX_JOB_BYTES,
    MAX_JOB_TEXTS,
    MAX_TEXT_CHARS,
    UNFINISHED_TTL_S,
)
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import Chunk, digest, pack_chunk, pack_rejected
from embedmill.protocol.keys import LANES
from embedmill.protocol.options import EmbedOptions, pack_options
from embedmill.reply import Reason, Rejected
from embedmill.safe.printable import kind
from embedmill.safe.utf8 import surrogate_at
from embedmill.settings import MAX_SECONDS, TENANT_PATTERN, is_seconds, is_tenant

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_IN_ID: Final = re.compile(r"[^A-Za-z0-9._-]")

#: Characters of a label before a dash and eight random ones.
MAX_LABEL_CHARS: Final = 119

#: Time limit of a chunk: these seconds, plus this factor times its estimate. Its process is killed after that.
TIME_LIMIT_FLOOR_S: Final = 10.0
TIME_LIMIT_FACTOR: Final = 20.0

#: Bytes of a text's reply besides its vector: position, token count and what Redis adds.
REPLY_OVERHEAD_BYTES: Final = 24

#: Bytes that a finished job, and each of its chunks, takes in Redis besides its rows. Redis allocates 4 KiB for a
#: stream of events, however short it is. Measured: docs/decisions/0010-admission.md.
JOB_OVERHEAD_BYTES: Final = 4_400
CHUNK_OVERHEAD_BYTES: Final = 400

#: Assumed dimension of a model that is not announced yet, for estimates.
GUESSED_DIMENSION: Final = 1_024

#: Most columns of a data frame that an error names.
MAX_SHOWN_COLUMNS: Final = 10


#: Seconds that Redis keeps a finished job of ``embed`` whose client died before it read and deleted it.
EMBED_TTL_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """The arguments of ``submit`` besides texts and ``EmbedOptions``."""

    model: str | None
    lane: str
    #: Who the job is for; "": nobody in particular; None: the client's tenant.
    tenant: str | None = None
    job_id: str | None = None
    #: What ids begin with that are made here: a request's name, to be found by in logs.
    label: str = ""
    ttl_s: float = EMBED_TTL_S
    deadline_s: float | None = None
    #: Whether the texts stay in one chunk, as for calls that share a job.
    in_one_chunk: bool = False
    #: Whether to wait for room when the queue is full.
    block: bool = False

    def __post_init__(self) -> None:
        check_lane(self.lane)
        if self.tenant is not None:
            check_tenant(self.tenant)
        check_seconds("ttl_s", self.ttl_s)
        if self.job_id is not None:
            check_job_id(self.job_id)
        if self.deadline_s is not None:
            check_seconds("deadline_s", self.deadline_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job that is ready to be stored."""

    job_id: str
    model: str
    lane: str
    tenant: str
    n_texts: int
    digest: str
    options: EmbedOptions
    #: Packed chunks, costliest texts first.
    payloads: tuple[bytes, ...] = field(repr=False)
    #: (texts, estimated tokens) of each chunk.
    weights: tuple[tuple[int, int], ...]
    #: Texts that the client itself rejects and never sends.
    rejected: tuple[Rejected, ...]
    ttl_s: float
    #: Deadline in seconds after submission; 0: none.
    deadline_s: float
    #: Time limit of one chunk, in seconds.
    limit_s: float
    #: Bytes that one text's vector will take in Redis, with its share of the job's overhead.
    row_bytes: int

    @property
    def n_bytes(self) -> int:
        """Number of bytes of the packed texts."""
        return sum(map(len, self.payloads))

    def record(self) -> list[str | bytes | int]:
        """Return the fields of the job's record as ``lua/submit.lua`` reads them: name, value, …."""
        fields: dict[str, str | bytes | int] = {
            "id": self.job_id,
            "digest": self.digest,
            "model": self.model,
            "lane": self.lane,
            "tenant": self.tenant,
            "options": pack_options(self.options),
            "rejected": pack_rejected(self.rejected) if self.rejected else b"",
            "n_texts": sum(texts for texts, _ in self.weights),
            "n_rows": self.n_texts,
            "n_chunks": len(self.payloads),
            "n_tokens": sum(tokens for _, tokens in self.weights),
            "row_bytes": self.row_bytes,
            "ttl_ms": round(self.ttl_s * 1000),
            "unfinished_ttl_ms": UNFINISHED_TTL_S * 1000,
            "deadline_ms": round(self.deadline_s * 1000),
            "limit_s": f"{self.limit_s:.1f}",
        }
        return [part for field in fields.items() for part in field]


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list.

    Raises:
        InvalidTextError: a text is not a str.
        InvalidRequestError: ``texts`` is a single str, has columns, has no order, or cannot be iterated over.
    """
    if columns := _columns(texts):
        raise InvalidRequestError("texts", f"{type(texts).__name__} has columns; pass one of them, {columns}")
    if isinstance(texts, Mapping | Set):
        raise InvalidRequestError("texts", f"pass a list of str, not {type(texts).__name__}, which has no order")
    if isinstance(texts, str | bytes):
        raise InvalidRequestError("texts", f"pass a list of str, not one {type(texts).__name__}; write [text]")
    values = _values(texts)
    for index, text in enumerate(values):
        if not isinstance(text, str):
            raise InvalidTextError(index, type(text).__name__)
    return values


def _values(texts: Any) -> list[Any]:
    """Return the items of an iterable; those of an Arrow column as Python values."""
    try:
        return list(texts.to_pylist() if hasattr(texts, "to_pylist") else texts)
    except TypeError:
        if hasattr(texts, "__iter__") and not isinstance(texts, type):  # raised by the iterator itself
            raise
        raise InvalidRequestError("texts", f"pass a list of str, not {type(texts).__name__}") from None


def _columns(texts: Any) -> str:
    """Return a hint how to pass one column of a data frame or a mapping of columns; "" if it is neither."""
    is_lazy = hasattr(texts, "collect_schema")  # a LazyFrame of polars, which warns if its columns are asked for
    names = texts.collect_schema().names() if is_lazy else getattr(texts, "column_names", None)
    names = names or getattr(texts, "columns", None)
    if isinstance(texts, Mapping):  # keys are shown only if the values are columns, as keys may be texts
        is_frame = any(isinstance(value, Sized) and not isinstance(value, str | bytes) for value in texts.values())
        names = list(texts) if is_frame else None
    if names is None or callable(names) or isinstance(names, str):
        return ""
    shown = [repr(str(name)) for name in list(names)[:MAX_SHOWN_COLUMNS]]
    best = "'text'" if "'text'" in shown else next(iter(shown), "…")
    it = "collect()" if is_lazy else "texts"
    return f"as in {it}[{best}]; it has {', '.join(shown) or 'none'}"


def check_count(texts: Sequence[str]) -> None:
    """Raise TooManyTextsError if one job cannot hold that many texts."""
    if len(texts) > MAX_JOB_TEXTS:
        hint = "submit several jobs, or use embed() or reindex, which cut longer inputs"
        raise TooManyTextsError(len(texts), MAX_JOB_TEXTS, hint)


def check_bytes(encoded: Sequence[bytes]) -> None:
    """Raise JobTooLargeError if one job cannot hold that many bytes."""
    n_bytes = sum(map(len, encoded))
    if n_bytes > MAX_JOB_BYTES:
        raise JobTooLargeError(n_bytes, MAX_JOB_BYTES, "submit several jobs, or use embed(), which cuts longer inputs")


def check_lane(lane: str) -> str:
    """Return the lane if it exists.

    Raises:
        InvalidRequestError: the value is not the name of a lane.
    """
    if lane not in LANES:
        raise InvalidRequestError("lane", f"{kind(lane)} is not one of {', '.join(LANES)}")
    return lane


def check_tenant(tenant: str) -> str:
    """Return the tenant if there can be one of this name; "": none.

    Raises:
        InvalidRequestError: the value cannot be a tenant's name.
    """
    if tenant != "" and not is_tenant(tenant):
        raise InvalidRequestError("tenant", f"{kind(tenant)} does not match {TENANT_PATTERN.pattern}")
    return tenant


def check_job_id(job_id: str) -> str:
    """Return the id if a job can have it.

    Raises:
        InvalidRequestError: the value cannot be a job's id.
    """
    if not is_job_id(job_id):
        raise InvalidRequestError("job_id", f"an id matches {_JOB_ID.pattern}")
    return job_id


def new_job_id(label: str = "") -> str:
    """Return an id that no job has: a random one, after a label if there is one, as far as it can be part of an id."""
    shown = _NOT_IN_ID.sub("-", label).lstrip("._-")[:MAX_LABEL_CHARS]
    return f"{shown}-{uuid.uuid4().hex[:8]}" if shown else uuid.uuid4().hex


def is_job_id(value: object) -> bool:
    """Return whether a value can be a job's id."""
    return isinstance(value, str) and _JOB_ID.fullmatch(value) is not None


def check_limit(limit: int, most: int) -> int:
    """Return the limit if it is a whole number from 1 to ``most``.

    Raises:
        InvalidRequestError: it is not.
    """
    if type(limit) is not int or not 1 <= limit <= most:
        raise InvalidRequestError("limit", f"{kind(limit)} is not an int from 1 to {most}")
    return limit


def check_seconds(option: str, value: float) -> float:
    """Return the number of seconds as a float.

    Raises:
        InvalidRequestError: the value is not a number above 0, or is above ``MAX_SECONDS``.
    """
    if not is_seconds(value):
        raise InvalidRequestError(option, f"{kind(value)} is not a number of seconds above 0, up to {MAX_SECONDS:.0e}")
    return float(value)


def prepare(
    values: list[str],
    options: EmbedOptions,
    how: SubmitOptions,
    *,
    model: str,
    card: ModelCard,
    children: int,
    waiting_tokens: int = 0,
) -> JobRequest:
    """Make a job of texts.

    Args:
        values: the texts, all of them str.
        options: how to embed them.
        how: how to submit them; its model is ignored.
        model: the model's name.
        card: the model's card.
        children: number of child processes that serve the model.
        waiting_tokens: of other jobs in the lane, by estimate.

    Raises:
        RequestError: one job cannot hold the texts, or the model cannot serve the options.
    """
    check_count(values)
    card.check(options)
    encoded = [text.encode("utf-8", "surrogatepass") for text in values]
    faults = {index: fault for index, text in enumerate(values) if (fault := fault_of(text))}
    sha256 = digest(model, options, encoded)
    check_bytes([data for index, data in enumerate(encoded) if index not in faults])
    positions = np.array([index for index in range(len(values)) if index not in faults], dtype=np.uint32)
    costs = chunking.estimate_costs([len(values[i]) for i in positions], card)
    if how.in_one_chunk and 0 < len(costs) <= MAX_CHUNK_TEXTS:
        cuts = [np.arange(len(costs), dtype=np.uint32)]
    else:
        seconds = chunking.bulk_chunk_s(children) if how.lane == "bulk" else CHUNK_TARGET_S
        cuts = chunking.cut(
            costs,
            budget=chunking.chunk_budget(card, seconds),
            smallest=chunking.MIN_CHUNK_SHARE * chunking.chunk_budget(card),
            children=children,
            waiting=waiting_tokens,
        )
    weights = tuple((len(part), max(1, round(float(costs[part].sum())))) for part in cuts)
    payloads = tuple(
        pack_chunk(Chunk(indices=positions[part], texts=tuple(values[i] for i in positions[part]))) for part in cuts
    )
    costliest = max((tokens for _, tokens in weights), default=0)
    overhead = JOB_OVERHEAD_BYTES + CHUNK_OVERHEAD_BYTES * len(payloads)
    return JobRequest(
        job_id=how.job_id or new_job_id(how.label),
        model=model,
        lane=how.lane,
        tenant=how.tenant or "",
        n_texts=len(values),
        digest=sha256,
        options=options,
        payloads=payloads,
        weights=weights,
        rejected=tuple(
            Rejected(index=index, reason=reason, detail=detail) for index, (reason, detail) in faults.items()
        ),
        ttl_s=how.ttl_s,
        deadline_s=how.deadline_s or 0.0,
        limit_s=TIME_LIMIT_FLOOR_S + TIME_LIMIT_FACTOR * costliest / card.tokens_per_s,
        row_bytes=row_bytes(options, card) + math.ceil(overhead / max(1, len(positions))),
    )


def longest_limit_s(card: ModelCard) -> float:
    """Return the time limit in seconds of the costliest chunk that a job of this model can have."""
    costliest_text = float(chunking.estimate_costs([MAX_TEXT_CHARS], card)[0])
    costliest = max(chunking.chunk_budget(card, LONGEST_CHUNK_S), costliest_text)
    return TIME_LIMIT_FLOOR_S + TIME_LIMIT_FACTOR * costliest / card.tokens_per_s


def row_bytes(options: EmbedOptions, card: ModelCard) -> int:
    """Return the number of bytes that the vector of one text will take in Redis."""
    columns = options.dtype.columns(options.dimensions or card.dimension or GUESSED_DIMENSION)
    return columns * options.dtype.numpy.itemsize + REPLY_OVERHEAD_BYTES


def fault_of(text: str) -> tuple[Reason, str] | None:
    """Return the reason and detail why no worker can read a text; None if workers can."""
    if len(text) > MAX_TEXT_CHARS:
        return Reason.TOO_LARGE, f"{len(text)} characters, limit {MAX_TEXT_CHARS}; split it"
    at = surrogate_at(text)
    if at is not None:
        return Reason.INVALID_UNICODE, f"lone surrogate at character {at}; decode the text with errors='replace'"
    return None
