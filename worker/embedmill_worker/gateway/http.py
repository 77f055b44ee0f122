"""What every HTTP route goes through: who calls, the body, the caller's hanging up, refusals, metrics."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.requests import Embedded

if TYPE_CHECKING:
    from embedmill_worker.gateway.service import EmbeddingService

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Positions of truncated texts that a header names.
MAX_POSITIONS: Final = 256

#: Status that access logs give a request whose client has hung up.
HUNG_UP: Final = 499

#: Characters of a Host header that is looked at; a name of DNS with its port has fewer.
MAX_HOST_CHARS: Final = 300

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as a route gets it."""

    service: EmbeddingService
    caller: Caller
    #: Headers by name, in lower case.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    request_id: str = ""
    #: What stands in the path in the place of names in braces.
    path: dict[str, str] = field(default_factory=dict, repr=False)
    query_string: bytes = field(default=b"", repr=False)
    #: Returns the next message of the body, where the route reads that itself.
    receive: Receive | None = field(default=None, repr=False)

    @property
    def query(self) -> dict[str, str]:
        """The parameters behind the path; of those that come several times, the last."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))

    def read(self, kind: type[T]) -> T:
        """Return the JSON body as a value of a type; fields that the type has not are ignored.

        Raises:
            RefusedError: it is not such a value. Names the place, never the value.
        """
        return read_json(self.body, kind)


def read_json(body: bytes, kind: type[T]) -> T:
    """Return a JSON body as a value of a type; fields that the type has not are ignored.

    Raises:
        RefusedError: it is not such a value. Names the place, never the value.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".") or None
        raise RefusedError(Kind.INVALID, f"'{param or 'body'}': {reason}", param=param) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RefusedError(Kind.INVALID, "The body is not valid JSON") from None


Work = Callable[[Call], Coroutine[Any, Any, Response]]

#: First how an answer begins, then its bytes. Closing it frees what it holds.
Streamed = AsyncGenerator[Any, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How an answer begins whose bytes follow one after the other."""

    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """How one family of routes speaks."""

    name: str
    #: Makes the API's own error.
    refuse: Callable[[RefusedError], Response]


@cache
def product_version() -> str:
    """Return the version of the installed embedmill."""
    return version("embedmill")


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; rows of numpy are lists of numbers."""
    data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, status_code=status, headers=headers, media_type="application/json")


def truncation_headers(embedded: Embedded) -> dict[str, str]:
    """Return what a response says of texts of which only the beginning was read."""
    positions = embedded.truncated
    if not positions:
        return {}
    shown = ",".join(map(str, positions[:MAX_POSITIONS]))
    return {"x-embedmill-truncated": shown, "x-embedmill-truncated-count": str(len(positions))}


class Endpoint:
    """The ASGI application of one route."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)


class Paths:
    """An ASGI application that finds a route by its path at once; others, and unknown paths, are Starlette's."""

    def __init__(self, routes: Sequence[Route], others: ASGIApp) -> None:
        self.routes = routes
        self._endpoints = {
            (method, route.path): route.app
            for route in routes
            if not route.param_convertors
            for method in route.methods or ()
        }
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get((scope.get("method", ""), scope.get("path", "")), self._others)
        await endpoint(scope, receive, send)


class Gate:
    """Turns the work of a route into an endpoint of Starlette."""

    def __init__(self, service: EmbeddingService, metrics: Metrics) -> None:
        self._service = service
        self._settings = service.settings
        self._metrics = metrics

    def route(
        self,
        api: Api,
        path: str,
        work: Work,
        *,
        method: str = "POST",
        is_open: bool = False,
        is_streamed: bool = False,
    ) -> Route:
        """Return a route whose endpoint is an ASGI application.

        Args:
            api: how it speaks.
            path: its path.
            work: makes the answer.
            method: its HTTP method.
            is_open: it asks for no key.
            is_streamed: it reads the body itself, as it arrives.
        """

        async def endpoint(request: Request) -> Response:
            began_s = time.perf_counter()
            headers = _headers(request)
            request_id = take_request_id(headers.get("x-request-id"))
            try:
                if is_streamed:
                    response = await self._answer_stream(request, headers, request_id, work)
                else:
                    response = await self._answer(request, headers, request_id, work, is_open=is_open)
            except RefusedError as error:
                self._metrics.refused(path, error.kind)
                response = refused(api, error)
            except ClientDisconnect:
                response = Response(status_code=HUNG_UP)
            except Exception as error:
                # Its message may hold a text, so only its kind and place are logged.
                log.error("request %s failed: %s", request_id, shown(error), extra=_FAILED)
                self._metrics.refused(path, Kind.FAILED)
                response = refused(api, RefusedError(Kind.FAILED, "The request failed; the server's log says more"))
            response.headers["x-request-id"] = request_id
            took_s = time.perf_counter() - began_s
            self._metrics.answered(path, response.status_code, took_s)
            log.debug(
                "request %s: %s %d in %.1f ms", request_id, path, response.status_code, took_s * 1000, extra=_DONE
            )
            return response

        return Route(path, Endpoint(endpoint), methods=[method])

    def stream(self, api: Api, path: str, work: Callable[[Call], Streamed]) -> Route:
        """Return a route whose answer is sent part by part. It is counted once, when its beginning is known.

        Whatever ends the answer closes the generator of ``work``: its last part, the client's hanging up, a fault.
        """

        async def begin(call: Call) -> Response:
            parts = work(call)
            try:
                head = await anext(parts)
            except BaseException:
                await parts.aclose()
                raise
            return _StreamedResponse(parts, head, call.request_id)

        route = self.route(api, path, begin, method="GET")
        (route.methods or set()).discard("HEAD")
        return route

    async def _answer(
        self, request: Request, headers: Mapping[str, str], request_id: str, work: Work, *, is_open: bool
    ) -> Response:
        self.check_origin(headers)
        caller = _OPEN if is_open else self._settings.keys.identify(_secret(headers))
        with self._service.admission.holding() as hold:
            body = await self._read_body(request.receive, headers, hold) if request.method == "POST" else b""
            call = Call(
                service=self._service,
                caller=caller,
                headers=headers,
                body=body,
                request_id=request_id,
                path=request.path_params,
                query_string=request.scope["query_string"],
            )
            return await until_hung_up(request, work(call))

    async def _answer_stream(
        self, request: Request, headers: Mapping[str, str], request_id: str, work: Work
    ) -> Response:
        """Answer a request whose body the work reads, by which it sees whether the client is still there."""
        self.check_origin(headers)
        return await work(
            Call(
                service=self._service,
                caller=self._settings.keys.identify(_secret(headers)),
                headers=headers,
                request_id=request_id,
                path=request.path_params,
                query_string=request.scope["query_string"],
                receive=request.receive,
            )
        )

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse what a web page sends that may not call, and names that were made to point at loopback."""
        is_trusted = not self._settings.is_local or self._settings.keys.callers
        if not is_trusted and not _is_local(headers.get("host", "")):
            raise RefusedError(Kind.FORBIDDEN, "Without API keys only requests to localhost are answered")
        origin = headers.get("origin")
        allowed = self._settings.cors_origins
        if origin is None or "*" in allowed or origin in allowed or origin.partition("://")[2] == headers.get("host"):
            return
        raise RefusedError(Kind.FORBIDDEN, "Web pages of this origin may not call; see EMBEDMILL_CORS_ORIGINS")

    async def _read_body(self, receive: Receive, headers: Mapping[str, str], hold: Callable[[int], None]) -> bytes:
        limit, limit_s = self._settings.max_body_bytes, self._settings.patience.body_s
        too_large = RefusedError(Kind.TOO_LARGE, f"The body may have at most {limit} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        parts, size, is_more = [], 0, True
        try:
            async with asyncio.timeout(limit_s):
                while is_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    parts.append(message.get("body", b""))
                    is_more = message.get("more_body", False)
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    hold(len(parts[-1]))
        except TimeoutError:
            raise RefusedError(Kind.SLOW_BODY, f"The body did not arrive within {limit_s:g} s") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _StreamedResponse(StreamingResponse):
    """An answer that closes its parts, even if none of them was asked for."""

    def __init__(self, parts: Streamed, head: Head, request_id: str) -> None:
        super().__init__(parts, headers=head.headers, media_type=head.media_type)
        self._parts = parts
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = time.perf_counter()
        try:
            await super().__call__(scope, receive, send)
        except Exception as error:
            # The answer has begun, so it can have no other status; uvicorn closes the connection before its end.
            log.error("request %s failed: %s", self._request_id, shown(error), extra=_FAILED)
        finally:
            await self._parts.aclose()
            took_s = time.perf_counter() - began_s
            log.debug("request %s: streamed for %.1f s", self._request_id, took_s, extra=_DONE)


_OPEN: Final = Caller(name="open")
_FAILED: Final = {"action": "gateway_failed"}
_DONE: Final = {"action": "gateway_request"}


def refused(api: Api, error: RefusedError) -> Response:
    """Return an API's error, with what tells clients whether and when to try again."""
    response = api.refuse(error)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        response.headers["retry-after-ms"] = str(max(1, round(error.retry_after_s * 1000)))
    response.headers["x-should-retry"] = "false" if error.retry_after_s is None else "true"
    return response


async def until_hung_up(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless the client hangs up first, which cancels it.

    Raises:
        ClientDisconnect: it has hung up.
    """
    watch = asyncio.ensure_future(_hung_up(request.receive))
    leave = _Leaving(asyncio.current_task())
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if leave.has_cancelled and leave.task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        leave.is_over = True
        watch.cancel()


class _Leaving:
    """What cancels the task of a request whose client has hung up, until its work is over."""

    __slots__ = ("has_cancelled", "is_over", "task")

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        assert task is not None
        self.task = task
        self.is_over = self.has_cancelled = False

    def __call__(self, watch: asyncio.Future[None]) -> None:
        if not self.is_over and not watch.cancelled():
            self.has_cancelled = True
            self.task.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(request: Request) -> dict[str, str]:
    """Return the headers as a plain dict, which is looked into several times."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}


def _is_local(host: str) -> bool:
    """Return whether a Host header names this machine's loopback."""
    return len(host) <= MAX_HOST_CHARS and _hostname(host) in _LOCAL_HOSTS


@lru_cache(maxsize=64)
def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # brackets that hold no address
        return None


def take_request_id(given: str | None) -> str:
    """Return the caller's name of a request if it can stand in a log, else a random one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def shown(error: Exception) -> str:
    """Return kind and place of an error, which may be logged, unlike its message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"


def _secret(headers: Mapping[str, str]) -> str | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key") or headers.get("api-key")


def option_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the options of ours that any API takes as headers: ``lane`` and ``input_type``."""
    names: Sequence[str] = ("lane", "input_type")
    found = {name: headers.get(f"x-embedmill-{name.replace('_', '-')}") for name in names}
    return {name: value for name, value in found.items() if value}
