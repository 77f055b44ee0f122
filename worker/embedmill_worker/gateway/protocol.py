"""What uvicorn lacks as of 0.54: limits on how slowly and how much a connection may send or read."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from embedmill_worker.gateway.settings import Patience

#: Bytes in a row that are neither a body's nor the end of headers: more are a flood.
MAX_HEADER_BYTES: Final = 64 << 10

#: Bytes a second at which a client must read, on average, an answer that is written piece by piece, and what has been
#: read at least when asyncio asks for the next piece: the difference of its two water marks.
LEAST_BYTES_PER_S: Final = 16 << 10
DRAINED_BYTES: Final = 48 << 10

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain\r\n"
    b"content-length: 25\r\n\r\nThe headers are too large"
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which ends connections that take too long or send headers without end."""

    patience: ClassVar[Patience] = Patience()

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    #: When the first wait for the client to read this answer began, and the waits since.
    _stalled_at_s: float = 0.0
    _drains: int = 0
    #: Bytes since the last piece of a body or the last end of headers or of a request.
    _loose_bytes: int = 0
    _has_advanced: bool = False
    #: A request has begun and its last byte has not come.
    _is_open: bool = False
    #: What is answered now; uvicorn's own ``cycle`` is the newest of requests that came without waiting for answers.
    _served: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._wait(self.patience.headers_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers, whatever the reason."""
        for timer in (self._timer, self._stalled, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        self._timer = self._stalled = self.timeout_keep_alive_task = None
        self._give_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is not part of a body."""
        was_idle = self.timeout_keep_alive_task is not None
        self._has_advanced = False
        super().data_received(data)
        self._loose_bytes = 0 if self._has_advanced else self._loose_bytes + len(data)
        if self._loose_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_TOO_LARGE)
            self.transport.close()
            self._wait(self.patience.body_s)
        elif was_idle and not self._is_open and self.cycle.response_complete:
            self._wait(self.patience.headers_s)  # line ends without a request have ended uvicorn's own wait

    def on_message_begin(self) -> None:
        """Begin to wait for headers of one more request."""
        self._is_open = True
        self._wait(self.patience.headers_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting: a body has a time of its own."""
        self._has_advanced = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that the body goes on."""
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting for the rest of a body that nobody reads."""
        self._has_advanced, self._is_open = True, False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for what of the request is still to come, and for the answer to be read."""
        super().on_response_complete()
        self._drains = 0
        if self.transport.is_closing():
            self._wait(self.patience.answer_s)
        elif self._is_open and not self.pipeline and (self.cycle is None or self.cycle.response_complete):
            self._wait(self.patience.body_s)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read its answer."""
        super().pause_writing()
        if self._stalled is None:
            if not self._drains:
                self._stalled_at_s = self.loop.time()
            limit_s = self._stalled_at_s + self.patience.answer_s + self._drains * DRAINED_BYTES / LEAST_BYTES_PER_S
            self._stalled = self.loop.call_at(limit_s, self._abort)

    def resume_writing(self) -> None:
        """Stop waiting: the answer is out, or a part of one that is written piece by piece, which buys time for more.

        A client that reads an answer a little at a time gains none.
        """
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
            self._drains = 0 if self.cycle is None or self.cycle.response_complete else self._drains + 1

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, though not all of its last answer was read."""
        self._abort()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _abort(self) -> None:
        self._give_up()
        self.transport.abort()

    def _give_up(self) -> None:
        """Report to the request under way that nobody waits for it: its answer must not be written any more."""
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
