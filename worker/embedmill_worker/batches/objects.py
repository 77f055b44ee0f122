"""Files and batches as they are stored, and as OpenAI's API shows them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

#: The only endpoint that a batch can be for.
ENDPOINT: Final = "/v1/embeddings"

#: Purpose of a file that is uploaded, and of one that a batch has written.
INPUT_PURPOSE: Final = "batch"
OUTPUT_PURPOSE: Final = "batch_output"


class Status(StrEnum):
    """State of a batch, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether the batch has ended."""
        return self in _OVER


_OVER: Final = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file, without its bytes."""

    id: str
    #: Name of the API key that it belongs to.
    owner: str
    #: Name that the client gave it: shown, and never a path.
    filename: str = field(repr=False)
    purpose: str
    n_bytes: int
    #: Seconds since 1970.
    created_at: int
    expires_at: int | None

    def shown(self) -> dict[str, Any]:
        """Return the API's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.n_bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFault:
    """Why an input file is refused, as an entry of a batch's ``errors``. Quotes nothing of a line."""

    code: str
    message: str
    param: str | None = None
    #: Number of the line, from 1; None: the file as a whole.
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a batch is: what is written in both files for all lines before ``offset``."""

    #: Bytes of the input that are done.
    offset: int = 0
    #: Lines of the input that are done, blank ones included.
    line: int = 0
    #: Bytes of the files of results and of errors.
    output_bytes: int = 0
    error_bytes: int = 0
    #: Requests with vectors, and without.
    completed: int = 0
    failed: int = 0
    #: Tokens that the model has read.
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a batch came into each state, in seconds since 1970."""

    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch with its progress."""

    id: str
    owner: str
    input_file_id: str
    completion_window: str
    metadata: Mapping[str, str] | None = field(repr=False)
    #: Seconds that the files of the batch live; None: as long as files may.
    output_expires_s: int | None
    #: Ids of the files that it writes.
    output_id: str
    error_id: str
    created_at: int
    expires_at: int
    status: Status = Status.VALIDATING
    model: str | None = None
    #: Requests in the input, known once it is validated.
    total: int = 0
    faults: tuple[LineFault, ...] = ()
    progress: Progress = Progress()
    times: Times = Times()

    @property
    def n_done(self) -> int:
        """Number of requests that stand in one of the files."""
        return self.progress.completed + self.progress.failed

    def shown(self) -> dict[str, Any]:
        """Return the API's batch object. Files are named once the batch has ended, and only if they hold a line."""
        has_files, progress = self.status.is_over, self.progress
        errors = [{name: getattr(fault, name) for name in _FAULT_FIELDS} for fault in self.faults]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "model": self.model,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": str(self.status),
            "output_file_id": self.output_id if has_files and progress.output_bytes else None,
            "error_file_id": self.error_id if has_files and progress.error_bytes else None,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{name: getattr(self.times, name) for name in _TIMES},
            "request_counts": {"total": self.total, "completed": progress.completed, "failed": progress.failed},
            "usage": {
                "input_tokens": progress.tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 0,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": progress.tokens,
            },
            "metadata": self.metadata,
        }


_FAULT_FIELDS: Final = tuple(each.name for each in fields(LineFault))
_TIMES: Final = tuple(each.name for each in fields(Times))
