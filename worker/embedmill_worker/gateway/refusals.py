"""Why a request has no vectors: one list of kinds, which each API puts into its own error. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from embedmill.errors import (
    EmbedError,
    InvalidRequestError,
    JobConflictError,
    QueueError,
    QueueFullError,
    RequestError,
    ResultError,
    UnknownModelError,
)
from embedmill.reply import Reason, Rejected

#: Seconds after which a client may try again when nothing better is known.
RETRY_S = 1.0


class Kind(StrEnum):
    """What is wrong, and whose fault it is."""

    #: The request cannot be served as it is.
    INVALID = "invalid"
    #: A text is longer than the model reads, and the request forbids to truncate it.
    TOO_LONG = "too_long"
    #: No or an unknown API key.
    UNAUTHENTICATED = "unauthenticated"
    #: The key, or the page that sends the request, may not do this.
    FORBIDDEN = "forbidden"
    #: No such route or method.
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    #: No worker has announced the model.
    UNKNOWN_MODEL = "unknown_model"
    #: What is there does not allow it now: it is in use, is not done or has ended, or another request has its id.
    CONFLICT = "conflict"
    #: The body is too large, or did not arrive in time.
    TOO_LARGE = "too_large"
    SLOW_BODY = "slow_body"
    #: The workers failed on a text: another try would fail, too.
    UNEMBEDDABLE = "unembeddable"
    #: Not in a form that the client accepts.
    NOT_ACCEPTABLE = "not_acceptable"
    #: More waits than is done in time.
    OVERLOADED = "overloaded"
    #: The key's tokens of this minute are used up.
    RATE_LIMITED = "rate_limited"
    #: The key's share of stored files is used up.
    QUOTA = "quota"
    #: The gateway's disk is full.
    STORAGE_FULL = "storage_full"
    #: Redis or all workers are away, or the answer did not come in time.
    UNAVAILABLE = "unavailable"
    #: A fault of the gateway.
    FAILED = "failed"


#: HTTP status of each kind, where an API has no other.
STATUS = {
    Kind.INVALID: 400,
    Kind.TOO_LONG: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD_NOT_ALLOWED: 405,
    Kind.UNKNOWN_MODEL: 404,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.SLOW_BODY: 408,
    Kind.UNEMBEDDABLE: 422,
    Kind.NOT_ACCEPTABLE: 406,
    Kind.OVERLOADED: 429,
    Kind.RATE_LIMITED: 429,
    Kind.QUOTA: 429,
    Kind.STORAGE_FULL: 507,
    Kind.UNAVAILABLE: 503,
    Kind.FAILED: 500,
}

#: Kinds that another try may mend.
RETRYABLE = frozenset({Kind.SLOW_BODY, Kind.OVERLOADED, Kind.RATE_LIMITED, Kind.UNAVAILABLE})

_OF_REASON = {
    Reason.TOO_LONG: Kind.TOO_LONG,
    Reason.INVALID_UNICODE: Kind.INVALID,
    Reason.TOO_LARGE: Kind.INVALID,
    Reason.UNSUPPORTED: Kind.INVALID,
    Reason.DEADLINE: Kind.UNAVAILABLE,
    Reason.WORKERS_LOST: Kind.UNEMBEDDABLE,
    Reason.MODEL_CHANGED: Kind.UNAVAILABLE,
    Reason.CRASHED: Kind.UNEMBEDDABLE,
    Reason.FAILED: Kind.UNEMBEDDABLE,
    Reason.NOT_FINITE: Kind.UNEMBEDDABLE,
}


class RefusedError(Exception):
    """A request is refused. Holds nothing of a text or a key."""

    def __init__(
        self, kind: Kind, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        #: Field of the request that is at fault.
        self.param = param
        if retry_after_s is None and kind in RETRYABLE:
            retry_after_s = RETRY_S
        #: Seconds after which another try may succeed; None: it would fail, too.
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """HTTP status, where an API has no other."""
        return STATUS[self.kind]


def refusal_of(error: EmbedError) -> RefusedError:
    """Return the refusal for an error. It leaves out addresses of the queue."""
    match error:
        case UnknownModelError():
            known = ", ".join(error.known) or "none"
            found = RefusedError(Kind.UNKNOWN_MODEL, f"No model was named; workers serve: {known}", param="model")
        case InvalidRequestError():
            found = RefusedError(Kind.INVALID, str(error), param=error.option)
        case JobConflictError():
            found = RefusedError(Kind.CONFLICT, "A job with this id has other texts or options; use another id")
        case RequestError():
            found = RefusedError(Kind.INVALID, str(error))
        case QueueFullError():
            found = RefusedError(Kind.OVERLOADED, "The queue is full", retry_after_s=error.retry_after_s)
        case QueueError():
            found = RefusedError(Kind.UNAVAILABLE, "The queue does not answer; try again")
        case ResultError():
            found = RefusedError(Kind.UNAVAILABLE, "The vectors were not ready in time; try again")
        case _:
            found = RefusedError(Kind.FAILED, "The request failed; the server's log says more")
    return found


def refusal_of_texts(rejected: Sequence[Rejected]) -> RefusedError:
    """Return the refusal for texts without vectors: the first of the gravest kind."""
    kinds = [_OF_REASON[Reason(one.reason)] for one in rejected]
    worst = max(range(len(rejected)), key=lambda i: (STATUS[kinds[i]], -i))
    one, more = rejected[worst], len(rejected) - 1
    others = f"; {more} more are rejected" if more else ""
    return RefusedError(kinds[worst], f"input[{one.index}]: {one.reason}, {one.detail}{others}", param="input")
