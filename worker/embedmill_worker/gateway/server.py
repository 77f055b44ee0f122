"""One process that serves HTTP and gRPC until it is asked to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from embedmill.errors import SettingsError
from embedmill_worker.batches.store import FileStore
from embedmill_worker.gateway.apis import batches, files, grpc_server, jobs, ollama, openai, openapi, page, tei
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.http import Call, Gate, Paths, json_response, refused, take_request_id
from embedmill_worker.gateway.jobs.caller_jobs import CallerJobs
from embedmill_worker.gateway.jobs.deliveries import Deliveries
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.protocol import BoundedProtocol
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.settings import GatewaySettings
from embedmill_worker.webhooks.sender import Sender

if TYPE_CHECKING:
    from embedmill_worker.gateway.service import EmbeddingService

log = logging.getLogger(__name__)

#: Seconds that requests under way have when the gateway ends.
GRACE_S: Final = 20.0

#: Connections that wait to be accepted: as many as Linux allows by default.
BACKLOG: Final = 4_096


#: Headers of ours that web pages may read.
EXPOSED: Final = (
    *("x-request-id", "x-embedmill-truncated", "x-embedmill-truncated-count"),
    *("x-should-retry", "retry-after", "retry-after-ms", "location"),
    *("x-embedmill-count", "x-embedmill-dimensions", "x-embedmill-dtype"),
    *("x-embedmill-rejected", "x-embedmill-rejected-count"),
)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to ``serve``: gRPC ends with it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_app(
    service: EmbeddingService,
    metrics: Metrics,
    detokenizer: Detokenizer,
    store: FileStore | None = None,
    scheduler: batches.Scheduler | None = None,
) -> Starlette | Paths:
    """Return the ASGI application of all HTTP routes; without a store, those of files and batches say so."""
    limits = service.settings.files
    gate = Gate(service, metrics)

    async def health(_call: Call) -> Response:
        body = {"status": "ok" if service.is_ready else "unavailable", "models": service.served}
        return json_response(body, status=200 if service.is_ready else 503)

    async def ping(_call: Call) -> Response:
        return PlainTextResponse("pong")

    async def show_metrics(call: Call) -> Response:
        try:
            status = await call.service.status()
        except RefusedError:
            status = None
        return Response(metrics.page(status), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(_call: Call) -> Response:
        return json_response(openapi.document())

    routes = [
        *openai.routes(gate, detokenizer),
        *files.routes(gate, store, limits),
        *batches.routes(gate, store, limits, scheduler),
        *tei.routes(gate, detokenizer),
        *ollama.routes(gate),
        *page.routes(gate),
        *jobs.routes(gate, detokenizer, service),
        gate.route(openai.API, "/health", health, method="GET", is_open=True),
        gate.route(openai.API, "/ping", ping, method="GET", is_open=True),
        gate.route(openai.API, "/metrics", show_metrics, method="GET"),
        gate.route(openai.API, "/openapi.json", document, method="GET", is_open=True),
    ]
    middleware = []
    if origins := service.settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=list(EXPOSED),
            )
        )
    handlers: dict[Any, Any] = {404: _not_found, 405: _not_allowed}
    whole = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    return whole if middleware else Paths(routes, whole)


async def _not_found(request: Request, _error: Exception) -> Response:
    response = refused(openai.API, RefusedError(Kind.NOT_FOUND, "There is no such route; see /openapi.json"))
    response.headers["x-request-id"] = take_request_id(request.headers.get("x-request-id"))
    return response


async def _not_allowed(request: Request, error: Any) -> Response:
    response = refused(openai.API, RefusedError(Kind.METHOD_NOT_ALLOWED, "The route has no such method"))
    response.headers["x-request-id"] = take_request_id(request.headers.get("x-request-id"))
    response.headers["allow"] = (error.headers or {}).get("Allow", "")
    return response


async def serve(
    service: EmbeddingService,
    metrics: Metrics,
    detokenizer: Detokenizer,
    store: FileStore | None = None,
    scheduler: batches.Scheduler | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way.

    Raises:
        SettingsError: it cannot listen where it is to.
    """
    _allow_many_connections()
    settings = service.settings
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tls = settings.load_tls()
    listening = _listen(settings) if settings.port else None
    grpc = None
    try:
        await service.start()
        gc.freeze()  # modules are not looked through again at each collection, which took a twentieth of the time
        if scheduler is not None:
            scheduler.start()
        async with asyncio.TaskGroup() as group:
            grpc = await _start_grpc(service, metrics) if settings.grpc_port else None
            deliveries = group.create_task(make_deliveries(service).run())
            web = _web_server(service, make_app(service, metrics, detokenizer, store, scheduler), tls)
            if listening is not None:
                group.create_task(web.serve(sockets=[listening]))
            await stop.wait()
            service.ending.set()
            deliveries.cancel()
            web.should_exit = True
            if grpc is not None:
                await grpc.stop(GRACE_S)
    finally:
        if grpc is not None:
            await grpc.stop(0)
        if listening is not None:
            listening.close()
        if scheduler is not None:
            await scheduler.close()
        await service.close()


def make_deliveries(service: EmbeddingService) -> Deliveries:
    """Return the sender of webhooks of this gateway."""
    webhooks = service.settings.webhooks
    return Deliveries(CallerJobs(service), webhooks, Sender(webhooks.rules))


async def _start_grpc(service: EmbeddingService, metrics: Metrics) -> grpc_server.GrpcServer:
    try:
        return await grpc_server.start(service, metrics)
    except OSError as error:
        reason = f"{error}; name another one with --grpc-port, or 0 for none"
        raise SettingsError("grpc_port", str(service.settings.grpc_port), reason) from None


def _web_server(service: EmbeddingService, app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Server:
    settings = service.settings
    config = uvicorn.Config(
        app,
        http=type("Protocol", (BoundedProtocol,), {"patience": settings.patience}),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.patience.idle_s,
        timeout_graceful_shutdown=int(GRACE_S),
        backlog=BACKLOG,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
    return _Server(config)


def _listen(settings: GatewaySettings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingsError: the address is taken or is not this machine's.
    """
    try:
        listening = socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        reason = f"cannot listen on {where}: {error.strerror or error}; name another port with --port"
        raise SettingsError("port", str(settings.port), reason) from None
    scheme = "https" if settings.tls_cert else "http"
    log.info("HTTP listens on %s://%s:%d", scheme, settings.host, settings.port, extra={"action": "gateway_ready"})
    return listening


def _allow_many_connections() -> None:
    """Raise the limit of open files to what this user may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
