"""Every error of the project, arranged by who can mend its cause.

    EmbedError
    ├── RequestError                 the caller's fault; raised before anything is sent where possible
    │   ├── InvalidTextError         a text is not a str
    │   ├── InvalidRequestError      an option has a value that cannot be served
    │   ├── TooManyTextsError        more texts than one job holds
    │   ├── JobTooLargeError         more bytes than one job holds, or than Redis ever has room for
    │   ├── UnknownModelError        no model was named and not exactly one is announced, or a model is not known
    │   ├── JobConflictError         the job id is taken by other content
    │   ├── UnknownLetterError       no dead letter has this id
    │   ├── SinkMismatchError        a sink holds vectors of another model or of other options
    │   └── FingerprintError         raised by a worker: live workers serve another model under the same name
    ├── QueueError                   between client and worker; the request may be sent again
    │   ├── BrokerUnavailableError   Redis is down, does not answer, or refuses
    │   ├── KeyConflictError         another program has written to one of embedmill's keys
    │   ├── QueueFullError           the queue, or Redis, has no room for more work
    │   ├── ProtocolVersionError     all live workers speak another protocol version
    │   └── MessageError             stored bytes cannot be read, or are of another protocol version
    ├── ResultError                  the result did not come
    │   ├── ResultTimeoutError       it may still come
    │   ├── ResultExpiredError       it will not: the job expired, was deleted or was never submitted
    │   ├── JobCancelledError        somebody cancelled the job
    │   ├── ClientClosedError        the client was closed, before the call or while it waited
    │   └── TextsRejectedError       some texts have no vector; the error holds the whole reply
    ├── EngineError                  the worker's fault
    │   ├── ModelLoadError           a model cannot be served; a worker that starts with it exits
    │   └── InferenceError           a forward pass failed
    ├── SinkError                    a sink of reindex cannot be used, or is in use
    ├── SourceError                  a source of reindex cannot be read
    └── SettingsError                a setting has a value that cannot work; also a ValueError

Each error takes positional arguments, which ``self.args`` holds, and builds its message in ``__str__``; otherwise it
would not survive pickling and Celery's JSON. No argument ever holds a user's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from embedmill.reply import EmbeddingReply

#: Names that one message lists.
MAX_NAMES: Final = 20


class EmbedError(Exception):
    """The root of all errors: ``except EmbedError`` catches everything that embedmill raises."""


class RequestError(EmbedError):
    """A request that cannot be served as it is; sending it again does not help."""


class InvalidTextError(RequestError, TypeError):
    """A text that is not a ``str``. Arguments: index, name of its type."""

    def __init__(self, index: int, type_name: str) -> None:
        super().__init__(index, type_name)
        self.index = index
        self.type_name = type_name

    def __str__(self) -> str:
        return (
            f"texts[{self.index}] is {self.type_name}, not str; nothing was sent. "
            "Decode bytes and convert other values before embedding."
        )


class InvalidRequestError(RequestError, ValueError):
    """An option whose value cannot be served. Arguments: option, reason."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option = option
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


class TooManyTextsError(RequestError, ValueError):
    """A request with more texts than one job holds. Arguments: count, limit, way_out (a hint)."""

    def __init__(self, count: int, limit: int, way_out: str) -> None:
        super().__init__(count, limit, way_out)
        self.count = count
        self.limit = limit
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.count} texts, but at most {self.limit} fit here; {self.way_out}"


class JobTooLargeError(RequestError, ValueError):
    """A job of more bytes than it may have. Arguments: bytes, limit, way_out (a hint)."""

    def __init__(self, n_bytes: int, limit: int, way_out: str) -> None:
        super().__init__(n_bytes, limit, way_out)
        self.n_bytes = n_bytes
        self.limit = limit
        self.way_out = way_out

    def __str__(self) -> str:
        return f"the job takes {self.n_bytes} bytes, but at most {self.limit} may; {self.way_out}"


class UnknownModelError(RequestError, LookupError):
    """A call without a model to use: none is named, or the named one is not known. Arguments: model, known models."""

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model, tuple(known))
        self.model = model
        self.known = tuple(known)

    def __str__(self) -> str:
        asked = f"model {self.model!r} is not known" if self.model else "no model was named"
        if not self.known:
            return f"{asked} and no worker has announced one; start a worker or pass model=…"
        return f"{asked}; workers have announced: {some(self.known)}. Pass model=… or set EMBEDMILL_MODEL."


class JobConflictError(RequestError):
    """A job id that is taken by other texts or options. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job_id} exists with other texts or options; nothing was changed. "
            "Use another id, or delete the job first."
        )


class UnknownLetterError(RequestError, LookupError):
    """An id that no dead letter has. Argument: letter id."""

    def __init__(self, letter_id: str) -> None:
        super().__init__(letter_id)
        self.letter_id = letter_id

    def __str__(self) -> str:
        return (
            f"no dead letter has the id {self.letter_id}: it was requeued, dropped, expired, pushed out by newer "
            "letters, or is under another Redis URL or namespace. List the letters to see which exist."
        )


class FingerprintError(RequestError):
    """A model that live workers serve with another fingerprint. Arguments: model, fingerprint here, theirs."""

    def __init__(self, model: str, ours: str, theirs: str) -> None:
        super().__init__(model, ours, theirs)
        self.model = model
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"{self.model} has fingerprint {self.ours} here and {self.theirs} in live workers; their vectors must not "
            "be mixed. Use the same files and settings, another model name, or --rollover to replace those workers."
        )


class SinkMismatchError(RequestError):
    """A sink whose vectors must not be mixed with new ones. Arguments: sink, what differs, way_out (a hint)."""

    def __init__(self, sink: str, differences: str, way_out: str) -> None:
        super().__init__(sink, differences, way_out)
        self.sink = sink
        self.differences = differences
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.sink} was filled with other settings ({self.differences}); nothing was changed. {self.way_out}"


class QueueError(EmbedError):
    """A failure between client and workers; the request is idempotent and may be sent again."""


class BrokerUnavailableError(QueueError, ConnectionError):
    """A Redis that cannot be reached, does not answer in time, or refuses. Arguments: URL without password, reason."""

    def __init__(self, url_masked: str, reason: str) -> None:
        super().__init__(url_masked, reason)
        self.url_masked = url_masked
        self.reason = reason

    def __str__(self) -> str:
        return f"Redis at {self.url_masked} is unavailable: {self.reason}"


class KeyConflictError(QueueError):
    """A key that holds what embedmill never writes there. Arguments: URL without password, reason."""

    def __init__(self, url_masked: str, reason: str) -> None:
        super().__init__(url_masked, reason)
        self.url_masked = url_masked
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"Redis at {self.url_masked} answers, but {self.reason}; nothing was changed. Another program writes into "
            "this namespace: delete or rename that key, or choose another EMBEDMILL_NAMESPACE."
        )


class QueueFullError(QueueError):
    """A queue, or a Redis, without room for more work now.

    Arguments: what is full, amount taken, limit, unit, seconds after which to try again (None: unknown). If Redis
    itself refused, amount and limit are 0 and the unit is the reason.
    """

    def __init__(self, queue: str, depth: int, limit: int, unit: str, retry_after_s: float | None = None) -> None:
        super().__init__(queue, depth, limit, unit, retry_after_s)
        self.queue = queue
        self.depth = depth
        self.limit = limit
        self.unit = unit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        taken = f"{self.depth} of {self.limit} {self.unit} are taken" if self.limit else self.unit
        when = f" in {self.retry_after_s:.1f} s" if self.retry_after_s is not None else " once workers drain it"
        return f"{self.queue} is full: {taken}; nothing was submitted. Try again{when}, or pass block=True."


class ProtocolVersionError(QueueError):
    """A client whose protocol version no live worker speaks. Arguments: model, version here, versions there."""

    def __init__(self, model: str, ours: int, theirs: tuple[int, ...]) -> None:
        super().__init__(model, ours, tuple(theirs))
        self.model = model
        self.ours = ours
        self.theirs = tuple(theirs)

    def __str__(self) -> str:
        return (
            f"this client speaks protocol {self.ours}, and all live workers of {self.model} speak {some(self.theirs)}; "
            "nothing was submitted. Install the same version of embedmill on both sides, or start a worker of this one."
        )


class MessageError(QueueError, ValueError):
    """Stored bytes that cannot be read, or are of another protocol version. Argument: reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ResultError(EmbedError):
    """A result that did not come."""


class ResultTimeoutError(ResultError, TimeoutError):
    """A result that did not come in time. Arguments: job id ("" if nothing was sent), seconds waited, hint."""

    def __init__(self, job_id: str, waited_s: float, hint: str = "") -> None:
        super().__init__(job_id, waited_s, hint)
        self.args = (job_id, waited_s, hint)  # OSError keeps only two of three arguments
        self.job_id = job_id
        self.waited_s = waited_s
        self.hint = hint

    def __str__(self) -> str:
        what = f"job {self.job_id} was not complete" if self.job_id else "the call had not been sent"
        hint = f" {self.hint}" if self.hint else ""
        return f"{what} after {self.waited_s:.1f} s.{hint}"


class ResultExpiredError(ResultError, LookupError):
    """A job that expired, was deleted, or was never submitted here. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job_id} is not in Redis: it expired, was deleted, or was submitted under "
            "another Redis URL or namespace. Submit its texts again."
        )


class JobCancelledError(ResultError):
    """A job that somebody cancelled. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"job {self.job_id} was cancelled"


class ClientClosedError(ResultError):
    """A call on a client that was closed, before the call or while it waited."""

    def __str__(self) -> str:
        return (
            "the client is closed: it takes no more calls, and those that waited were ended; "
            "close it after its last call, or create another client"
        )


class TextsRejectedError(ResultError):
    """A reply in which some texts have no vector. Argument: the reply, which holds the vectors of all others."""

    def __init__(self, reply: EmbeddingReply) -> None:
        super().__init__(reply)
        self.reply = reply

    def __str__(self) -> str:
        if isinstance(self.reply, str):  # Celery's JSON cannot hold arrays and turned the reply into a str
            return "some texts were rejected; the reply did not come with this error"
        rejected = self.reply.rejected
        shown = "; ".join(f"texts[{r.index}]: {r.reason}{f', {r.detail}' if r.detail else ''}" for r in rejected[:3])
        more = f" and {len(rejected) - 3} more" if len(rejected) > 3 else ""
        return (
            f"{len(rejected)} of {len(self.reply.vectors)} texts were rejected ({shown}{more}). "
            "The others are in error.reply.vectors."
        )


class EngineError(EmbedError):
    """A failure in the worker."""


class ModelLoadError(EngineError):
    """A model that cannot be served. Arguments: model, reason with a hint."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model} cannot be loaded: {self.reason}"


class InferenceError(EngineError):
    """A forward pass that failed. Arguments: model, reason (never a text)."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model}: {self.reason}"


class SinkError(EmbedError):
    """A sink, or the ledger beside it, that cannot be used. Arguments: sink, reason with a hint."""

    def __init__(self, sink: str, reason: str) -> None:
        super().__init__(sink, reason)
        self.sink = sink
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.sink}: {self.reason}"


class SourceError(EmbedError):
    """A source that cannot be read. Arguments: source, reason with a hint."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class SettingsError(EmbedError, ValueError):
    """A setting that cannot work. Arguments: name, value (secrets masked), reason with a hint.

    The name is that of the argument, flag, variable or file that the value came from.
    """

    def __init__(self, name: str, value: str, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}={self.value}: {self.reason}"


def some(names: Iterable[Any]) -> str:
    """Return names as a list for a message: the first ``MAX_NAMES``, then how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - MAX_NAMES} more" if len(shown) > MAX_NAMES else ""
    return ", ".join(shown[:MAX_NAMES]) + more
