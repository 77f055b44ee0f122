"""The choice of ``embed`` calls that share a job, and the split of its reply between them. No I/O and no clock.

Calls of the same kind are submitted at once while few jobs of this kind are in flight. Beyond that they wait, and
whenever a job ends, the oldest of them are submitted together as one job. So an idle queue adds no delay, and a busy
one needs one round trip for many calls.
"""

from __future__ import annotations

import math
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

#: Jobs in flight per child process before calls wait: one that is being processed, and half of the next one. With two,
#: jobs are smaller, and each text costs more.
JOBS_A_CHILD: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """The arguments that calls must have in common to share a job."""

    #: Model that the caller named; None: the client's.
    model: str | None
    lane: str
    options: EmbedOptions
    #: Whether the calls wait for room when the queue is full.
    block: bool = False
    #: Who the calls are for; None: the client's tenant.
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The amount of work of one kind that may be in flight."""

    #: Number of child processes that serve the model.
    children: int
    #: Tokens of one chunk.
    budget_tokens: float

    @classmethod
    def of(cls, card: ModelCard, children: int) -> Capacity:
        """Return the capacity for a model that ``children`` processes serve."""
        return cls(children=children, budget_tokens=chunking.chunk_budget(card))

    @property
    def jobs(self) -> int:
        """Number of jobs in flight from which on calls wait."""
        return math.ceil(JOBS_A_CHILD * self.children)

    def holds(self, call: Call) -> bool:
        """Return whether a call is small enough to share a job."""
        return len(call.texts) <= MAX_CHUNK_TEXTS and call.tokens <= self.budget_tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One caller's texts."""

    texts: Sequence[str] = field(repr=False)
    #: Estimated tokens.
    tokens: int
    #: What the id of its job begins with if it is the first one there.
    label: str = ""

    @property
    def chars(self) -> int:
        """Number of characters in the texts."""
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Calls that share one job."""

    calls: tuple[Call, ...]

    @property
    def texts(self) -> list[str]:
        """The texts of the job, call after call."""
        return [text for call in self.calls for text in call.texts]

    @property
    def label(self) -> str:
        """What the job's id begins with: its oldest call's."""
        return self.calls[0].label

    def share_out(self, reply: EmbeddingReply) -> list[EmbeddingReply]:
        """Return each call's part of the job's reply, in order; timings are those of the whole job."""
        if len(self.calls) == 1:
            return [reply]
        shares, start = [], 0
        for call in self.calls:
            stop = start + len(call.texts)
            shares.append(assembly.excerpt(reply, start, stop))
            start = stop
        return shares


class PendingCalls:
    """The waiting calls of one kind, and the number of its jobs in flight."""

    def __init__(self) -> None:
        self.in_flight = 0
        #: Waiting calls, oldest first.
        self._waiting: dict[Call, None] = {}
        self._tokens = self._texts = self._chars = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.in_flight and not self._waiting

    def check_room(self, call: Call, tokens_per_s: float) -> None:
        """Raise QueueFullError if more texts would wait than one job may hold, which is minutes of work."""
        limits = (
            (self._texts, len(call.texts), MAX_JOB_TEXTS, "texts"),
            (self._chars, call.chars, MAX_WINDOW_CHARS, "characters"),
        )
        for waiting, asked, limit, unit in limits:
            if waiting and waiting + asked > limit:
                retry_after_s = self._tokens / tokens_per_s if tokens_per_s else None
                raise QueueFullError("this client", waiting, limit, unit, retry_after_s)

    def add(self, call: Call) -> None:
        """Add a call to those that wait."""
        self._waiting[call] = None
        self._count(call, 1)

    def withdraw(self, call: Call) -> bool:
        """Remove a call and return whether it was waiting."""
        if call not in self._waiting:
            return False
        del self._waiting[call]
        self._count(call, -1)
        return True

    def next_batch(self, capacity: Capacity) -> Batch | None:
        """Take the calls to submit as the next job; None if no call waits, or enough jobs are in flight."""
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
        """Note that a batch has ended, with or without success."""
        self.in_flight -= 1

    def _count(self, call: Call, sign: int) -> None:
        self._tokens += sign * call.tokens
        self._texts += sign * len(call.texts)
        self._chars += sign * call.chars

    def _share_tokens(self, capacity: Capacity) -> float:
        """Return the tokens of the next batch: an equal share of what waits for each free slot.

        While child processes may be idle, calls are spread among them. Later, a batch smaller than the smallest chunk
        would not be worth its round trip.
        """
        share = self._tokens / (capacity.jobs - self.in_flight)
        if self.in_flight >= capacity.children:
            share = max(share, MIN_CHUNK_SHARE * capacity.budget_tokens)
        return min(share, capacity.budget_tokens)
