"""Which calls of ``embed`` share a job, and which of its rows are whose. No I/O and no clock.

Calls of one kind go out at once while few of the kind's jobs are in flight. Beyond that they gather, and each job that
ends lets the oldest of them go out together. So an idle queue adds nothing, and a busy one costs a round trip for many
texts instead of one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from embedmill.errors import QueueFullError
from embedmill.jobs import assembly, chunking
from embedmill.jobs.chunking import MIN_CHUNK_SHARE
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_JOB_TEXTS, MAX_WINDOW_CHARS
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import EmbeddingReply

#: Jobs in flight for each serving child before calls gather: one under work, and the next at hand when it is done.
JOBS_A_CHILD: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """What calls must have in common to share a job."""

    #: As asked for; None: the client's.
    model: str | None
    lane: str
    options: EmbedOptions
    #: Whether they wait for room when the queue is full.
    block: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much of a kind may be in flight."""

    children: int
    #: Of one chunk.
    budget_tokens: float

    @classmethod
    def of(cls, card: ModelCard, children: int) -> Capacity:
        """Return the capacity of the processes that serve a model."""
        return cls(children=children, budget_tokens=chunking.chunk_budget(card))

    @property
    def jobs(self) -> int:
        """Jobs in flight from which on calls gather."""
        return JOBS_A_CHILD * self.children

    def holds(self, call: Call) -> bool:
        """Return whether a call is small enough to share a job."""
        return len(call.texts) <= MAX_CHUNK_TEXTS and call.tokens <= self.budget_tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One caller's texts."""

    texts: Sequence[str] = field(repr=False)
    #: Estimated.
    tokens: int
    #: What the id of its job begins with if it is the first one there.
    label: str = ""

    @property
    def chars(self) -> int:
        """Characters of the texts."""
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Calls that share one job: their texts, one call after another."""

    calls: tuple[Call, ...]

    @property
    def texts(self) -> list[str]:
        """The job's texts."""
        return [text for call in self.calls for text in call.texts]

    @property
    def label(self) -> str:
        """What the job's id begins with: its oldest call's."""
        return self.calls[0].label

    def share_out(self, reply: EmbeddingReply) -> list[EmbeddingReply]:
        """Return each call's own rows of the job's reply, in order; timings are the job's."""
        if len(self.calls) == 1:
            return [reply]
        shares, start = [], 0
        for call in self.calls:
            stop = start + len(call.texts)
            shares.append(assembly.excerpt(reply, start, stop))
            start = stop
        return shares


class PendingCalls:
    """The calls of one kind: how many jobs are in flight, and what waits behind them."""

    def __init__(self) -> None:
        self.in_flight = 0
        #: Oldest first.
        self._waiting: dict[Call, None] = {}
        self._tokens = self._texts = self._chars = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.in_flight and not self._waiting

    def check_room(self, call: Call, tokens_per_s: float) -> None:
        """Raise QueueFullError if more would wait than one job may hold: all workers' work for a minute and more."""
        limits = (
            (self._texts, len(call.texts), MAX_JOB_TEXTS, "texts"),
            (self._chars, call.chars, MAX_WINDOW_CHARS, "characters"),
        )
        for waiting, asked, limit, unit in limits:
            if waiting and waiting + asked > limit:
                retry_after_s = self._tokens / tokens_per_s if tokens_per_s else None
                raise QueueFullError("this client", waiting, limit, unit, retry_after_s)

    def add(self, call: Call) -> None:
        """Let a call wait."""
        self._waiting[call] = None
        self._count(call, 1)

    def withdraw(self, call: Call) -> bool:
        """Take back a call; False: it does not wait any more."""
        if call not in self._waiting:
            return False
        del self._waiting[call]
        self._count(call, -1)
        return True

    def next_batch(self, capacity: Capacity) -> Batch | None:
        """Take the calls that go out together now; None: nothing waits, or enough is in flight."""
        if not self._waiting or self.in_flight >= capacity.jobs:
            return None
        share = self._share_tokens(capacity)
        calls: list[Call] = []
        texts = tokens = 0
        for call in self._waiting:
            texts += len(call.texts)
            tokens += call.tokens
            if calls and (texts > MAX_CHUNK_TEXTS or tokens > share):
                break
            calls.append(call)
        for call in calls:
            self.withdraw(call)
        self.in_flight += 1
        return Batch(calls=tuple(calls))

    def end_batch(self) -> None:
        """Note that a batch is over, however it ended."""
        self.in_flight -= 1

    def _count(self, call: Call, sign: int) -> None:
        self._tokens += sign * call.tokens
        self._texts += sign * len(call.texts)
        self._chars += sign * call.chars

    def _share_tokens(self, capacity: Capacity) -> float:
        """Return the tokens of the next batch: an equal share of what waits for each free place, or for each child.

        While a child may be without work, calls spread; beyond that a batch below the smallest chunk does not pay.
        """
        free = capacity.jobs - self.in_flight
        share = self._tokens / max(free, capacity.children)
        if free <= capacity.children:
            share = max(share, MIN_CHUNK_SHARE * capacity.budget_tokens)
        return min(share, capacity.budget_tokens)
