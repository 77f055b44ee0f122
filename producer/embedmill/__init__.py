"""embedmill: embeddings on CPUs, through a durable queue.

    from embedmill import EmbeddingClient

    with EmbeddingClient() as client:
        vectors = client.embed(["Selamat pagi", "good morning"])

``EmbeddingClient`` and ``AsyncEmbeddingClient`` are the way in, ``signature`` the one for Celery canvases, ``reindex``
the one for whole corpora; every error is an ``EmbedError``; ``embedmill.testing`` holds a client for tests that have no
Redis, ``embedmill.reindexing`` what sinks and sources of one's own need.
Importing this package reads no environment, opens no connection and loads no model library.
"""

from typing import TYPE_CHECKING

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
from embedmill.reindexing import ReindexReport, reindex
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart

if TYPE_CHECKING:
    #: Of the installed distribution.
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Return ``__version__``, which is read when it is asked for."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version  # noqa: PLC0415  takes a while, and few ask

        return version("embedmill")


__all__ = [
    "AsyncDeadLetters",
    "AsyncEmbeddingClient",
    "AsyncJob",
    "AsyncJobs",
    "BrokerUnavailableError",
    "ClientClosedError",
    "DeadLetter",
    "DeadLetters",
    "EmbedError",
    "EmbeddingClient",
    "EmbeddingReply",
    "EngineError",
    "FingerprintError",
    "InferenceError",
    "InvalidRequestError",
    "InvalidTextError",
    "Job",
    "JobCancelledError",
    "JobConflictError",
    "JobList",
    "JobState",
    "JobStatus",
    "JobTooLargeError",
    "Jobs",
    "KeyConflictError",
    "MessageError",
    "ModelLoadError",
    "ProtocolVersionError",
    "QueueError",
    "QueueFullError",
    "Reason",
    "ReindexReport",
    "Rejected",
    "ReplyPart",
    "RequestError",
    "ResultError",
    "ResultExpiredError",
    "ResultTimeoutError",
    "SettingsError",
    "SinkError",
    "SinkMismatchError",
    "SourceError",
    "TextsRejectedError",
    "TooManyTextsError",
    "UnknownLetterError",
    "UnknownModelError",
    "reindex",
    "rejected_of",
    "signature",
    "unpack_binary",
    "unpack_int8",
    "vectors_of",
]
