"""embedmill: text embeddings on CPUs, through a durable queue.

    from embedmill import EmbeddingClient

    with EmbeddingClient() as client:
        vectors = client.embed(["Selamat pagi", "good morning"])

Start with ``EmbeddingClient`` or ``AsyncEmbeddingClient``. Use ``signature`` in Celery canvases and ``reindex`` for
whole corpora. Every error is an ``EmbedError``. ``embedmill.testing`` has a client for tests without Redis, and
``embedmill.reindexing`` has the base classes for sinks and sources of your own.

Importing this package reads no environment variable, opens no connection and loads no model library. ``reindex`` is
imported on first use.
"""

from typing import TYPE_CHECKING, Any

from embedmill.async_client import AsyncDeadLetters, AsyncEmbeddingClient, AsyncJob, AsyncJobs
from embedmill.canvas import rejected_of, signature, vectors_of
from embedmill.client import DeadLetters, EmbeddingClient, Job, Jobs
from embedmill.errors import (
    BrokerUnavailableError,
    ClientClosedError,
    EmbedError,
    EngineError,
    FingerprintError,
    InferenceError,
    InvalidRequestError,
    InvalidTextError,
    JobCancelledError,
    JobConflictError,
    JobTooLargeError,
    KeyConflictError,
    MessageError,
    ModelLoadError,
    ProtocolVersionError,
    QueueError,
    QueueFullError,
    RequestError,
    ResultError,
    ResultExpiredError,
    ResultTimeoutError,
    SettingsError,
    SinkError,
    SinkMismatchError,
    SourceError,
    TextsRejectedError,
    TooManyTextsError,
    UnknownLetterError,
    UnknownModelError,
)
from embedmill.jobs.listing import JobList
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.records import JobState, JobStatus
from embedmill.protocol.vectors import unpack_binary, unpack_int8
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart
from embedmill.status import read_status, wait_for_worker

if TYPE_CHECKING:
    from embedmill.reindexing import ReindexReport, reindex

    #: Version of the installed distribution.
    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Return an attribute that is loaded on first use."""
        if name in ("ReindexReport", "reindex"):
            from embedmill import reindexing  # noqa: PLC0415  half of the package; those who only embed need none of it

            return getattr(reindexing, name)
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415  slow to import, seldom used

            return version("embedmill")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [  # noqa: RUF022  grouped by subject
    # Clients
    "EmbeddingClient",
    "Job",
    "Jobs",
    "DeadLetters",
    "AsyncEmbeddingClient",
    "AsyncJob",
    "AsyncJobs",
    "AsyncDeadLetters",
    # What they return
    "EmbeddingReply",
    "ReplyPart",
    "Rejected",
    "Reason",
    "JobStatus",
    "JobState",
    "JobList",
    "DeadLetter",
    "unpack_binary",
    "unpack_int8",
    # Workers and queues
    "read_status",
    "wait_for_worker",
    # Celery canvases
    "signature",
    "vectors_of",
    "rejected_of",
    # Whole corpora
    "reindex",
    "ReindexReport",
    # Errors, in the order of ``embedmill.errors``
    "EmbedError",
    "RequestError",
    "InvalidTextError",
    "InvalidRequestError",
    "TooManyTextsError",
    "JobTooLargeError",
    "UnknownModelError",
    "JobConflictError",
    "UnknownLetterError",
    "SinkMismatchError",
    "FingerprintError",
    "QueueError",
    "BrokerUnavailableError",
    "KeyConflictError",
    "QueueFullError",
    "ProtocolVersionError",
    "MessageError",
    "ResultError",
    "ResultTimeoutError",
    "ResultExpiredError",
    "JobCancelledError",
    "ClientClosedError",
    "TextsRejectedError",
    "EngineError",
    "ModelLoadError",
    "InferenceError",
    "SinkError",
    "SourceError",
    "SettingsError",
]


def __dir__() -> list[str]:
    """Return the names of the package, those that are loaded on first use included."""
    return sorted({*globals(), *__all__})
