"""Every error of the project, arranged by whose fault it is.

    EmbedError
    ├── RequestError                 the caller's fault; raised before anything is sent where possible
    │   ├── InvalidTextError         a text is not a str
    │   ├── InvalidRequestError      an option has a value that cannot be served
    │   ├── TooManyTextsError        more texts than one job holds
    │   ├── JobTooLargeError         more bytes than one job holds, or than Redis ever has room for
    │   ├── UnknownModelError        no model, or not one alone, to choose from
    │   ├── JobConflictError         the same job id with other content
    │   ├── UnknownLetterError       no dead letter of this id
    │   ├── SinkMismatchError        a sink holds vectors of another model or of other options
    │   └── FingerprintError         a worker's: live workers serve another model under the same name
    ├── QueueError                   between client and worker; the request may be sent again
    │   ├── BrokerUnavailableError   Redis is down, frozen or refuses
    │   ├── KeyConflictError         something else has written under a key of embedmill's
    │   ├── QueueFullError           Redis has no room for more work
    │   ├── ProtocolVersionError     live workers speak another protocol version
    │   └── MessageError             unreadable bytes, or another protocol version
    ├── ResultError                  the answer did not come
    │   ├── ResultTimeoutError       it may still come
    │   ├── ResultExpiredError       it will not: expired, deleted or never submitted
    │   ├── JobCancelledError        somebody cancelled the job
    │   ├── ClientClosedError        the client was closed, before the call or while it waited
    │   └── TextsRejectedError       some texts have no vector; carries the whole reply
    ├── EngineError                  the worker's fault
    │   ├── ModelLoadError           at start-up: the worker exits and serves nothing
    │   └── InferenceError           a forward pass failed
    ├── SinkError                    where a reindexer writes to failed, or is in use
    ├── SourceError                  what a reindexer reads from failed
    └── SettingsError                a setting that cannot work; also a ValueError

Arguments are positional and are what ``self.args`` holds, the message is made in ``__str__``: only so
does an error survive pickling and Celery's JSON. No argument ever holds a user's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from embedmill.reply import EmbeddingReply

#: Names that one message lists.
MAX_NAMES: Final = 20


class EmbedError(Exception):
    """The root: ``except EmbedError`` catches everything that embedmill raises."""


class RequestError(EmbedError):
    """The caller asked for something that cannot be done."""


class InvalidTextError(RequestError, TypeError):
    """``texts[index]`` is not a ``str``. Arguments: index, the name of its type."""

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
    """An option has a value that cannot be served. Arguments: option, reason."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(option, reason)
        self.option = option
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


class TooManyTextsError(RequestError, ValueError):
    """One request holds more texts than it may. Arguments: count, limit, the way out."""

    def __init__(self, count: int, limit: int, way_out: str) -> None:
        super().__init__(count, limit, way_out)
        self.count = count
        self.limit = limit
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.count} texts, but at most {self.limit} fit here; {self.way_out}"


class JobTooLargeError(RequestError, ValueError):
    """One job takes more bytes than it may. Arguments: bytes, limit, the way out."""

    def __init__(self, n_bytes: int, limit: int, way_out: str) -> None:
        super().__init__(n_bytes, limit, way_out)
        self.n_bytes = n_bytes
        self.limit = limit
        self.way_out = way_out

    def __str__(self) -> str:
        return f"the job takes {self.n_bytes} bytes, but at most {self.limit} may; {self.way_out}"


class UnknownModelError(RequestError, LookupError):
    """No model was named and there is not exactly one. Arguments: model asked for, models known."""

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
    """The id is taken by a job with other texts or options. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job_id} exists with other texts or options; nothing was changed. "
            "Use another id, or delete the job first."
        )


class UnknownLetterError(RequestError, LookupError):
    """There is no dead letter of this id. Argument: its id."""

    def __init__(self, letter_id: str) -> None:
        super().__init__(letter_id)
        self.letter_id = letter_id

    def __str__(self) -> str:
        return (
            f"there is no dead letter {self.letter_id}: it was requeued, dropped, pushed out by newer ones, or is of "
            "another Redis URL or namespace. List them for those that are there."
        )


class FingerprintError(RequestError):
    """Live workers serve another fingerprint under the same name. Arguments: model, ours, theirs."""

    def __init__(self, model: str, ours: str, theirs: str) -> None:
        super().__init__(model, ours, theirs)
        self.model = model
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"{self.model} has fingerprint {self.ours} here and {self.theirs} in live workers: their vectors must not "
            "be mixed. Use the same files and settings, another model name, or --rollover to replace them."
        )


class SinkMismatchError(RequestError):
    """A sink holds vectors that must not be mixed with new ones. Arguments: sink, what differs, the way out."""

    def __init__(self, sink: str, differences: str, way_out: str) -> None:
        super().__init__(sink, differences, way_out)
        self.sink = sink
        self.differences = differences
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.sink} was filled otherwise ({self.differences}) and is left as it is. {self.way_out}"


class QueueError(EmbedError):
    """Something between the client and the workers failed; the request is idempotent."""


class BrokerUnavailableError(QueueError, ConnectionError):
    """Redis did not answer in time. Arguments: URL without its password, reason."""

    def __init__(self, url_masked: str, reason: str) -> None:
        super().__init__(url_masked, reason)
        self.url_masked = url_masked
        self.reason = reason

    def __str__(self) -> str:
        return f"Redis at {self.url_masked} is unavailable: {self.reason}"


class KeyConflictError(QueueError):
    """A key of the namespace holds what embedmill never writes there. Arguments: URL without its password, reason."""

    def __init__(self, url_masked: str, reason: str) -> None:
        super().__init__(url_masked, reason)
        self.url_masked = url_masked
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"Redis at {self.url_masked} answers, but {self.reason}; nothing was changed. Something else writes into "
            "this namespace: delete or rename that key, or choose another EMBEDMILL_NAMESPACE."
        )


class QueueFullError(QueueError):
    """There is no room for more work now. Arguments: what is full, amount taken, limit, unit, seconds to wait or None.

    A limit of 0: Redis itself refused, without saying by how much.
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
    """Live workers speak another protocol version. Arguments: model, version here, versions there."""

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
    """Bytes that cannot be read, or that speak another protocol version. Argument: reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ResultError(EmbedError):
    """The answer did not come."""


class ResultTimeoutError(ResultError, TimeoutError):
    """The answer may still come. Arguments: job id ("": it was not sent), seconds waited, hint."""

    def __init__(self, job_id: str, waited_s: float, hint: str = "") -> None:
        super().__init__(job_id, waited_s, hint)
        self.args = (job_id, waited_s, hint)  # an OSError of three keeps two
        self.job_id = job_id
        self.waited_s = waited_s
        self.hint = hint

    def __str__(self) -> str:
        what = f"job {self.job_id} was not complete" if self.job_id else "the call had not been sent"
        hint = f" {self.hint}" if self.hint else ""
        return f"{what} after {self.waited_s:.1f} s.{hint}"


class ResultExpiredError(ResultError, LookupError):
    """There is no such job: it expired, was deleted, or was never submitted here. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job_id} is not in Redis: it expired, was deleted, or was submitted under "
            "another Redis URL or namespace. Submit its texts again."
        )


class JobCancelledError(ResultError):
    """Somebody cancelled the job. Argument: job id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"job {self.job_id} was cancelled"


class ClientClosedError(ResultError):
    """The client was closed, before a call or while it waited."""

    def __str__(self) -> str:
        return (
            "the client is closed: what waited in it was given up, and it takes no more calls; "
            "close it after its calls, or make another one"
        )


class TextsRejectedError(ResultError):
    """Some texts have no vector. Argument: the reply, with every other text's vector in it."""

    def __init__(self, reply: EmbeddingReply) -> None:
        super().__init__(reply)
        self.reply = reply

    def __str__(self) -> str:
        if isinstance(self.reply, str):  # Celery's JSON cannot carry arrays: it made a str of the reply
            return "some texts were rejected; the reply did not come with this error"
        rejected = self.reply.rejected
        shown = "; ".join(f"texts[{r.index}]: {r.reason}{f', {r.detail}' if r.detail else ''}" for r in rejected[:3])
        more = f" and {len(rejected) - 3} more" if len(rejected) > 3 else ""
        return (
            f"{len(rejected)} of {len(self.reply.vectors)} texts were rejected ({shown}{more}). "
            "The others are in error.reply.vectors."
        )


class EngineError(EmbedError):
    """The worker failed."""


class ModelLoadError(EngineError):
    """A model cannot be served. Arguments: model, reason with the way out."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model} cannot be loaded: {self.reason}"


class InferenceError(EngineError):
    """A forward pass failed. Arguments: model, reason (never a text)."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model}: {self.reason}"


class SinkError(EmbedError):
    """A sink, or the ledger beside it, cannot be used. Arguments: sink, reason with the way out."""

    def __init__(self, sink: str, reason: str) -> None:
        super().__init__(sink, reason)
        self.sink = sink
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.sink}: {self.reason}"


class SourceError(EmbedError):
    """A source cannot be read. Arguments: source, reason with the way out."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class SettingsError(EmbedError, ValueError):
    """A setting that cannot work. Arguments: name, value (secrets masked), reason with the way out.

    The name is that of the argument, flag, variable or file that gave the value.
    """

    def __init__(self, name: str, value: str, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}={self.value}: {self.reason}"


def some(names: Iterable[Any]) -> str:
    """Return a list of names for a message: the first ones, and how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - MAX_NAMES} more" if len(shown) > MAX_NAMES else ""
    return ", ".join(shown[:MAX_NAMES]) + more
