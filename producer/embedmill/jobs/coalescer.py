"""The asyncio client's calls of ``embed``: those of ``coalescing.py`` sent, waited for and cleaned up."""

from __future__ import annotations

import asyncio
import copy
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from embedmill.errors import (
    BrokerUnavailableError,
    ClientClosedError,
    EmbedError,
    ResultExpiredError,
    ResultTimeoutError,
)
from embedmill.jobs import chunking
from embedmill.jobs.coalescing import Batch, BatchKey, Call, Capacity, PendingCalls
from embedmill.jobs.operations import CLEAN_UP_S, LAST_MOMENT_S, JobOperations
from embedmill.jobs.request import SubmitOptions, check_texts, new_job_id
from embedmill.limits import MAX_CHUNK_TEXTS
from embedmill.reply import EmbeddingReply
from embedmill.transport.aio import AsyncRedisTransport

#: Seconds by which a job outlasts its callers' timeouts, each of which is kept by the call itself.
AFTER_THE_LAST_S: Final = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Caller:
    """Who waits for a call's rows."""

    call: Call
    deadline_s: float
    reply: asyncio.Future[EmbeddingReply]
    #: None: it has not gone out.
    job: _Job | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A batch in flight."""

    job_id: str
    batch: Batch
    #: Those who still wait.
    callers: set[_Caller]
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _CallQueue:
    """The calls of one kind and who waits for them."""

    kind: BatchKey
    gathering: PendingCalls = field(default_factory=PendingCalls)
    callers: dict[Call, _Caller] = field(default_factory=dict)
    is_sending: bool = False


@dataclass(slots=True, kw_only=True)
class _LoopState:
    """What one event loop in one process has under way."""

    pid: int
    lines: dict[BatchKey, _CallQueue] = field(default_factory=dict)
    tasks: set[asyncio.Task[None] | asyncio.Task[EmbeddingReply]] = field(default_factory=set)
    is_closed: bool = False


class Coalescer:
    """Embeds texts for many callers at once, few round trips for many small calls."""

    def __init__(self, calls: JobOperations, link: AsyncRedisTransport) -> None:
        self._calls = calls
        self._link = link
        #: As the link's pools: by event loop, and the process in which the loop runs.
        self._desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = WeakKeyDictionary()

    async def embed(self, texts: Sequence[str], kind: BatchKey, timeout_s: float, *, label: str = "") -> EmbeddingReply:
        """Embed one caller's texts; cancelling it cancels the work, unless others wait for the same job.

        Args:
            texts: the texts.
            kind: what calls share jobs with.
            timeout_s: seconds until it gives up.
            label: what the job's id begins with, unless an older call has given the job its own.

        Raises:
            ClientClosedError: the client was closed, before or meanwhile.
            QueueFullError: more waits in this client than one job may hold, and the caller does not ``block``.
            others: see ``EmbeddingClient.embed``, but for rejected texts, which are in the reply.
        """
        if self._link.is_closed:
            raise ClientClosedError
        values = check_texts(texts)
        card, children = self._calls.outlook.expect(kind.model)
        if 0 < len(values) <= MAX_CHUNK_TEXTS:
            costs = chunking.estimate_costs([len(text) for text in values], card)
            call = Call(texts=values, tokens=math.ceil(costs.sum()), label=label)
            if Capacity.of(card, children).holds(call):
                return await self._together(call, kind, timeout_s)
        return await self._alone(values, kind, timeout_s, label)

    async def close(self) -> None:
        """End what the running event loop has under way."""
        desk = self._desks.pop(asyncio.get_running_loop(), None)
        if desk is None or desk.pid != os.getpid():
            return
        desk.is_closed = True
        for line in desk.lines.values():
            _fail(_withdrawn(line), ClientClosedError())
        for task in desk.tasks:
            task.cancel()
        if desk.tasks:
            await asyncio.wait(set(desk.tasks))

    async def _alone(self, values: list[str], kind: BatchKey, timeout_s: float, label: str) -> EmbeddingReply:
        desk = self._desk()
        how = SubmitOptions(model=kind.model, lane=kind.lane, label=label, block=kind.block)
        task = asyncio.create_task(self._run(values, kind, how, timeout_s))
        desk.tasks.add(task)
        task.add_done_callback(desk.tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if desk.is_closed and not (caller and caller.cancelling()):
                raise ClientClosedError from None
            raise

    async def _together(self, call: Call, kind: BatchKey, timeout_s: float) -> EmbeddingReply:
        desk, loop = self._desk(), asyncio.get_running_loop()
        line = desk.lines.setdefault(kind, _CallQueue(kind=kind))
        if not kind.block:
            line.gathering.check_room(call, self._calls.outlook.tokens_per_s(kind.model))
        caller = _Caller(call=call, deadline_s=loop.time() + timeout_s, reply=loop.create_future())
        line.callers[call] = caller
        line.gathering.add(call)
        if not line.is_sending:  # with all the calls of this turn of the event loop
            line.is_sending = True
            loop.call_soon(self._send, desk, line)
        try:
            await asyncio.wait([caller.reply], timeout=timeout_s)
            if not caller.reply.done():
                await self._raise_late(line, caller, timeout_s)
            return caller.reply.result()
        finally:
            await _leave(line, caller)

    def _send(self, desk: _LoopState, line: _CallQueue) -> None:
        """Let go out what may."""
        line.is_sending = False
        capacity = Capacity.of(*self._calls.outlook.expect(line.kind.model))
        while batch := line.gathering.next_batch(capacity):
            callers = {line.callers.pop(call) for call in batch.calls}
            job = _Job(job_id=new_job_id(batch.label), batch=batch, callers=callers)
            for caller in callers:
                caller.job = job
            job.task = asyncio.create_task(self._work(desk, line, job))
            desk.tasks.add(job.task)
            job.task.add_done_callback(desk.tasks.discard)
        if line.gathering.is_idle and desk.lines.get(line.kind) is line:
            desk.lines.pop(line.kind)

    async def _work(self, desk: _LoopState, line: _CallQueue, job: _Job) -> None:
        """Have a batch embedded and give each caller its own."""
        last_s = max(caller.deadline_s for caller in job.callers) - asyncio.get_running_loop().time()
        how = SubmitOptions(
            model=line.kind.model,
            lane=line.kind.lane,
            job_id=job.job_id,
            in_one_chunk=len(job.batch.calls) > 1,
            block=line.kind.block,
        )
        try:
            reply = await self._run(job.batch.texts, line.kind, how, last_s + AFTER_THE_LAST_S)
            shares = dict(zip(job.batch.calls, job.batch.share_out(reply), strict=True))
            for caller in job.callers:
                caller.reply.set_result(shares[caller.call])
        except asyncio.CancelledError:  # nobody waits any more, or the client is closed
            _fail(job.callers, ClientClosedError())
            raise
        except BrokerUnavailableError as error:  # what waits behind it would meet the same
            _fail([*job.callers, *_withdrawn(line)], error)
        except Exception as error:
            _fail(job.callers, error)
        finally:
            job.callers = set()
            line.gathering.end_batch()
            self._send(desk, line)

    async def _run(self, values: list[str], kind: BatchKey, how: SubmitOptions, timeout_s: float) -> EmbeddingReply:
        flow = self._calls.embed(values, kind.options, how, timeout_s)
        return await self._link.run(flow, timeout_s=timeout_s + LAST_MOMENT_S)

    async def _raise_late(self, line: _CallQueue, caller: _Caller, timeout_s: float) -> None:
        """Raise ResultTimeoutError with the reason why a call is late, unless it was done meanwhile."""
        job = caller.job
        if job is None:
            hint = self._calls.outlook.hint_unsent(line.kind.model, line.gathering.in_flight)
            raise ResultTimeoutError("", timeout_s, hint)
        hint = "Its job had not reached Redis."
        with suppress(ResultExpiredError):
            hint = await self._link.run(self._calls.why_late(job.job_id), timeout_s=CLEAN_UP_S)
        if caller.reply.done():
            return
        raise ResultTimeoutError(job.job_id, timeout_s, hint if len(job.callers) > 1 else f"{hint} It was cancelled.")

    def _desk(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None or desk.pid != os.getpid():
            desk = self._desks[loop] = _LoopState(pid=os.getpid())
        return desk


async def _leave(line: _CallQueue, caller: _Caller) -> None:
    """Stop waiting. The last caller of a job ends it."""
    if line.gathering.withdraw(caller.call):
        line.callers.pop(caller.call)
    job = caller.job
    if job is None or job.task is None or caller not in job.callers:
        return
    job.callers.discard(caller)
    if not job.callers:
        job.task.cancel()
        await asyncio.wait([job.task])


def _withdrawn(line: _CallQueue) -> list[_Caller]:
    """Take back all that waits."""
    callers = list(line.callers.values())
    line.callers.clear()
    for caller in callers:
        line.gathering.withdraw(caller.call)
    return callers


def _fail(callers: Sequence[_Caller] | set[_Caller], error: Exception) -> None:
    """Set an error of its own for each caller: one that is raised in several tasks mixes up their tracebacks."""
    for caller in callers:
        if not caller.reply.done():
            caller.reply.set_exception(copy.copy(error) if isinstance(error, EmbedError) else error)
