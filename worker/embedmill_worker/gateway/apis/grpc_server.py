"""gRPC in front of the queue: the Rust embedding service's interface, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from embedmill_worker.gateway.apis.messages import METHOD, POOL, SERVICE, EmbeddingRequest, EmbeddingResponse
from embedmill_worker.gateway.http import shown, take_request_id
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.requests import EmbedRequest

if TYPE_CHECKING:
    from embedmill_worker.gateway.service import EmbeddingService

log = logging.getLogger(__name__)

#: Bytes of a message, as tonic, the Rust service's library, has it.
MAX_MESSAGE_BYTES: Final = 4 << 20

ROUTE: Final = f"/{SERVICE}/{METHOD}"

#: Seconds between two looks at the status for clients that watch it.
WATCH_S: Final = 2.0

_CODES: Final = {
    Kind.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Kind.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    Kind.UNKNOWN_MODEL: StatusCode.NOT_FOUND,
    Kind.OVERLOADED: StatusCode.RESOURCE_EXHAUSTED,
    Kind.RATE_LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Kind.UNEMBEDDABLE: StatusCode.INTERNAL,
    Kind.FAILED: StatusCode.INTERNAL,
}

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class EmbeddingServicer:
    """``embedding.EmbeddingService``."""

    def __init__(self, service: EmbeddingService, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def get_embeddings(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Embed one text or several, in the default model."""
        metadata = {name: str(value) for name, value in context.invocation_metadata() or ()}
        request_id = take_request_id(metadata.get("x-request-id"))
        try:
            caller = self._service.settings.keys.identify(_secret(metadata))
            with self._service.admission.holding() as hold:
                if request is None:
                    raise RefusedError(Kind.INVALID, "The message cannot be read")
                hold(request.ByteSize())
                asked = EmbedRequest(texts=_texts(request), request_id=request_id)
                embedded = await self._service.embed(asked, caller)
        except RefusedError as error:
            self._metrics.refused(ROUTE, error.kind)
            await _abort(context, request_id, error)
        except Exception as error:
            # Its message may hold a text, so only its kind and place are logged.
            log.error("request %s failed: %s", request_id, shown(error), extra={"action": "gateway_failed"})
            self._metrics.refused(ROUTE, Kind.FAILED)
            await _abort(context, request_id, RefusedError(Kind.FAILED, ""))
        log.debug("request %s: %s is done", request_id, ROUTE, extra={"action": "gateway_request"})
        context.set_trailing_metadata((("x-request-id", request_id),))
        response = EmbeddingResponse()
        for row in embedded.reply.vectors:
            response.vectors.add().values.extend(row.tolist())
        return response


async def _abort(context: grpc.aio.ServicerContext[Any, Any], request_id: str, error: RefusedError) -> NoReturn:
    code = _CODES.get(error.kind, StatusCode.INVALID_ARGUMENT)
    log.debug("request %s: %s is refused (%s)", request_id, ROUTE, code.name, extra={"action": "gateway_request"})
    metadata = [("x-request-id", request_id)]
    if error.retry_after_s is not None:
        metadata.append(("retry-after-ms", str(round(error.retry_after_s * 1000))))
    message = "Failed to generate embeddings" if code is StatusCode.INTERNAL else error.message
    await context.abort(code, message, tuple(metadata))
    raise AssertionError  # abort has raised


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Standard health checks: whether a request would be served now."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Report to all who watch that nothing is served any more, and end their calls."""
        self._ending.set()

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Answer for the whole server or for the embedding service."""
        if not _is_known(request.service):
            await context.abort(StatusCode.NOT_FOUND, "no such service")
        return _KINDS(status=self._status())

    async def Watch(self, request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """Answer as ``Check`` does, and again whenever the answer changes."""
        shown = None
        while True:
            is_ending = self._ending.is_set()  # before the status: what ends during a yield is still reported
            status = self._status() if _is_known(request.service) else _KINDS.SERVICE_UNKNOWN
            if status != shown:
                yield _KINDS(status=status)
            if is_ending:
                return
            shown = status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), WATCH_S)

    def _status(self) -> Any:
        is_served = self._service.is_ready and not self._ending.is_set()
        return _KINDS.SERVING if is_served else _KINDS.NOT_SERVING


_KINDS: Final[Any] = health_pb2.HealthCheckResponse


def _is_known(service: str) -> bool:
    return service in ("", SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServer:
    """A server that listens."""

    server: grpc.aio.Server
    health: HealthServicer

    async def stop(self, grace_s: float) -> None:
        """Take no more requests, and finish what is under way within ``grace_s``."""
        self.health.end()
        await self.server.stop(grace_s)


async def start(service: EmbeddingService, metrics: Metrics) -> GrpcServer:
    """Listen, and return the server.

    Raises:
        OSError: the port is taken, or a certificate cannot be read.
    """
    settings = service.settings
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=settings.max_requests)
    handler = grpc.unary_unary_rpc_method_handler(
        EmbeddingServicer(service, metrics).get_embeddings,
        request_deserializer=_read,
        response_serializer=EmbeddingResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    health = HealthServicer(service)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_MergedPool())
    address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
    try:
        if settings.tls_cert is not None and settings.tls_key is not None:
            pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
            server.add_secure_port(address, grpc.ssl_server_credentials((pair,)))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from None
    await server.start()
    log.info("gRPC listens on %s", address, extra={"action": "gateway_ready"})
    return GrpcServer(server=server, health=health)


class _MergedPool:
    """Our own messages, and those of health and reflection, for reflection to show."""

    def __getattr__(self, name: str) -> Any:
        from google.protobuf import descriptor_pool  # noqa: PLC0415

        def find(*args: Any) -> Any:
            try:
                return getattr(POOL, name)(*args)
            except KeyError:
                return getattr(descriptor_pool.Default(), name)(*args)

        return find


def _read(data: bytes) -> Any:
    """Return the message; None: it is none. grpc would log whatever is raised here, with a traceback each."""
    try:
        return EmbeddingRequest.FromString(data)
    except DecodeError:
        return None


def _texts(request: Any) -> list[str]:
    match request.WhichOneof("input"):
        case "single_text":
            texts = [request.single_text]
        case "batch_texts":
            texts = list(request.batch_texts.texts)
        case _:
            raise RefusedError(Kind.INVALID, "No input provided")
    if not texts or "" in texts:
        raise RefusedError(Kind.INVALID, "Empty input provided")
    return texts


def _secret(metadata: Mapping[str, str]) -> str | None:
    given = metadata.get("authorization")
    if given is None:
        return metadata.get("x-api-key")
    scheme, _, secret = given.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else given


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
