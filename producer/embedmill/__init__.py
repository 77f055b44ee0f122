"""embedmill: embeddings on CPUs, through a durable queue.

    from embedmill import EmbeddingClient

    with EmbeddingClient() as client:
        vectors = client.embed(["Selamat pagi", "good morning"])

``EmbeddingClient`` and ``AsyncEmbeddingClient`` are the way in, ``signature`` the one for Celery canvases, ``reindex``
the one for whole corpora; every error is an ``EmbedError``; ``embedmill.testing`` holds a client for tests that have no
Redis, ``embedmill.reindexing`` what sinks and sources of one's own need.
Importing this package reads no environment, opens no connection and loads no model library; ``reindex`` is loaded when
it is asked for.
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

    #: Of the installed distribution.
    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Return what is loaded only when it is asked for."""
        if name in ("ReindexReport", "reindex"):
            from embedmill import reindexing  # noqa: PLC0415  half of the package, and those who only embed need none

            return getattr(reindexing, name)
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415  takes a while, and few ask

            return version("embedmill")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [  # noqa: RUF022  by subject
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
    # Who serves which model
    "read_status",
    "wait_for_worker",
    # Celery canvases
    "signature",
    "vectors_of",
    "rejected_of",
    # Whole corpora
    "reindex",
    "ReindexReport",
    # Errors, as ``embedmill.errors`` arranges them
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
    """Return the names, those too that are loaded when they are asked for."""
    return sorted({*globals(), *__all__})
