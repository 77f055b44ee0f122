"""How much may wait, and when to come back: bounds what the gateway takes on. No I/O; time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from embedmill_worker.gateway.refusals import Kind, RefusedError

Clock = Callable[[], float]

#: Seconds over which the drain rate is measured, and how many of them must have passed before it counts.
WINDOW_S: Final = 10.0
FIRST_S: Final = 2.0

#: Bounds of the seconds after which a client is asked to come back, highest and lowest.
LONGEST_S: Final = 600.0
SHORTEST_S: Final = 0.05


@dataclass(slots=True)
class Drain:
    """The tokens of one model and lane that are under way, and how fast they have been done lately."""

    #: Estimated tokens of the requests under way.
    tokens: int = 0
    #: When the last moment without work was.
    busy_since_s: float = 0.0
    #: (time, tokens) of what was done within the window.
    done: deque[tuple[float, int]] = field(default_factory=deque)
    done_tokens: int = 0

    def begin(self, tokens: int, now_s: float) -> None:
        """Count a request in."""
        if not self.tokens:
            self.busy_since_s = now_s
            self.done.clear()
            self.done_tokens = 0
        self.tokens += tokens

    def end(self, tokens: int, now_s: float, *, is_done: bool) -> None:
        """Count a request out; ``is_done``: it was embedded."""
        self.tokens -= tokens
        if is_done:
            self.done.append((now_s, tokens))
            self.done_tokens += tokens
        while self.done and self.done[0][0] < now_s - WINDOW_S:
            self.done_tokens -= self.done.popleft()[1]

    def tokens_per_s(self, expected: float, now_s: float) -> float:
        """Return the measured rate, or what the workers announce while there is none yet."""
        busy_s = min(now_s - self.busy_since_s, WINDOW_S)
        if busy_s < FIRST_S or not self.done_tokens:
            return expected
        return self.done_tokens / busy_s


class Admission:
    """Refuses a request whose answer would take longer than ``max_wait_s``, as what waits before it shows."""

    def __init__(self, *, max_wait_s: float, max_requests: int, max_bytes: int) -> None:
        self._max_wait_s = max_wait_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._drains: dict[tuple[str, str], Drain] = {}
        #: Requests under way.
        self.requests = 0
        #: Bytes of the bodies that they hold.
        self.held_bytes = 0

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Return what counts bytes of a body in, until the block ends; it raises RefusedError if all hold too many."""
        held = 0

        def hold(n_bytes: int) -> None:
            nonlocal held
            if self.held_bytes + n_bytes > self._max_bytes:
                raise RefusedError(Kind.OVERLOADED, "Requests under way hold too many bytes")
            held += n_bytes
            self.held_bytes += n_bytes

        try:
            yield hold
        finally:
            self.held_bytes -= held

    @contextmanager
    def admitted(self, key: tuple[str, str], tokens: int, expected_tokens_per_s: float, clock: Clock) -> Iterator[None]:
        """Count a request while the block runs. An idle lane takes any.

        Args:
            key: model and lane.
            tokens: the request's, estimated.
            expected_tokens_per_s: of all workers of the model, as they announce it; 0: unknown.
            clock: returns the time in seconds.

        Raises:
            RefusedError: too much waits; says when to come back.
        """
        now_s = clock()
        drain = self._drains.setdefault(key, Drain())
        rate = drain.tokens_per_s(expected_tokens_per_s, now_s)
        wait_s = drain.tokens / rate if rate else 0.0
        if self.requests >= self._max_requests or (drain.tokens and wait_s > self._max_wait_s):
            message = f"More waits than is done in {self._max_wait_s:g} s"
            away_s = min(max(wait_s - self._max_wait_s / 2, SHORTEST_S), LONGEST_S)
            raise RefusedError(Kind.OVERLOADED, message, retry_after_s=away_s)
        self.requests += 1
        drain.begin(tokens, now_s)
        is_done = False
        try:
            yield
            is_done = True
        finally:
            self.requests -= 1
            drain.end(tokens, clock(), is_done=is_done)
