"""embedmill: embeddings on CPUs, through a durable queue.

    from embedmill import EmbeddingClient

    with EmbeddingClient() as client:
        vectors = client.embed(["Selamat pagi", "good morning"])

Importing this package reads no environment, opens no connection and loads no model library.
"""

from embedmill.client import EmbeddingClient, Job
from embedmill.errors import (
    BrokerUnavailableError,
    EmbedError,
    EngineError,
    InferenceError,
    InvalidRequestError,
    InvalidTextError,
    JobCancelledError,
    JobConflictError,
    MessageError,
    ModelLoadError,
    QueueError,
    QueueFullError,
    RequestError,
    ResultError,
    ResultExpiredError,
    ResultTimeoutError,
    SettingsError,
    TextsRejectedError,
    TooManyTextsError,
    UnknownModelError,
)
from embedmill.flows import JobState, JobStatus
from embedmill.reply import EmbeddingReply, Reason, Rejected, ReplyPart
from embedmill.vectors import unpack_binary
