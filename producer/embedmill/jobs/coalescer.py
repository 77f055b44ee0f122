"""The part of the asyncio client that submits calls of ``embed`` together and waits for their replies."""

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

#: Seconds that a job has beyond the last of its callers' timeouts; each call keeps its own timeout.
AFTER_THE_LAST_S: Final = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Caller:
    """A caller that waits for the reply to its call."""

    call: Call
    deadline_s: float
    reply: asyncio.Future[EmbeddingReply]
    #: Job that holds the call; None: it is not submitted yet.
    job: _Job | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A batch in flight."""

    job_id: str
    batch: Batch
    #: Callers that still wait.
    callers: set[_Caller]
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _CallQueue:
    """The calls of one kind and their callers."""

    kind: BatchKey
    gathering: PendingCalls = field(default_factory=PendingCalls)
    callers: dict[Call, _Caller] = field(default_factory=dict)
    is_sending: bool = False


@dataclass(slots=True, kw_only=True)
class _LoopState:
    """The calls and tasks of one event loop in one process."""

    pid: int
    queues: dict[BatchKey, _CallQueue] = field(default_factory=dict)
    tasks: set[asyncio.Task[None] | asyncio.Task[EmbeddingReply]] = field(default_factory=set)
    is_closed: bool = False


class Coalescer:
    """A submitter of many small concurrent calls in few jobs, by the rules of ``coalescing.py``."""

    def __init__(self, calls: JobOperations, link: AsyncRedisTransport) -> None:
        self._calls = calls
        self._link = link
        #: State of each event loop; like the transport's pools, it belongs to one process too.
        self._states: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = WeakKeyDictionary()

    async def embed(self, texts: Sequence[str], kind: BatchKey, timeout_s: float, *, label: str = "") -> EmbeddingReply:
        """Embed one caller's texts; cancelling the call cancels the work, unless others wait for the same job.

        Rejected texts are in the reply.

        Args:
            texts: the texts.
            kind: what calls share jobs with.
            timeout_s: seconds until it gives up.
            label: what the job's id begins with, unless an older call has given the job its own.

        Raises:
            ClientClosedError: the client was closed, before the call or during it.
            QueueFullError: more texts wait in this client than one job may hold, and the call does not ``block``.
            EmbedError: see ``EmbeddingClient.embed``.
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
        """End all calls of the running event loop."""
        state = self._states.pop(asyncio.get_running_loop(), None)
        if state is None or state.pid != os.getpid():
            return
        state.is_closed = True
        for queue in state.queues.values():
            _fail(_withdrawn(queue), ClientClosedError())
        for task in state.tasks:
            task.cancel()
        if state.tasks:
            await asyncio.wait(set(state.tasks))

    async def _alone(self, values: list[str], kind: BatchKey, timeout_s: float, label: str) -> EmbeddingReply:
        state = self._state()
        how = SubmitOptions(model=kind.model, lane=kind.lane, tenant=kind.tenant, label=label, block=kind.block)
        task = asyncio.create_task(self._run(values, kind, how, timeout_s))
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if state.is_closed and not (caller and caller.cancelling()):
                raise ClientClosedError from None
            raise

    async def _together(self, call: Call, kind: BatchKey, timeout_s: float) -> EmbeddingReply:
        state, loop = self._state(), asyncio.get_running_loop()
        queue = state.queues.setdefault(kind, _CallQueue(kind=kind))
        if not kind.block:
            queue.gathering.check_room(call, self._calls.outlook.tokens_per_s(kind.model))
        caller = _Caller(call=call, deadline_s=loop.time() + timeout_s, reply=loop.create_future())
        queue.callers[call] = caller
        queue.gathering.add(call)
        # Scheduled, so that all calls of this iteration of the event loop are submitted together.
        if not queue.is_sending:
            queue.is_sending = True
            loop.call_soon(self._send, state, queue)
        try:
            await asyncio.wait([caller.reply], timeout=timeout_s)
            if not caller.reply.done():
                await self._raise_late(queue, caller, timeout_s)
            return caller.reply.result()
        finally:
            await _leave(queue, caller)

    def _send(self, state: _LoopState, queue: _CallQueue) -> None:
        """Submit pending batches while there is capacity."""
        queue.is_sending = False
        capacity = Capacity.of(*self._calls.outlook.expect(queue.kind.model))
        while batch := queue.gathering.next_batch(capacity):
            callers = {queue.callers.pop(call) for call in batch.calls}
            job = _Job(job_id=new_job_id(batch.label), batch=batch, callers=callers)
            for caller in callers:
                caller.job = job
            job.task = asyncio.create_task(self._work(state, queue, job))
            state.tasks.add(job.task)
            job.task.add_done_callback(state.tasks.discard)
        if queue.gathering.is_idle and state.queues.get(queue.kind) is queue:
            state.queues.pop(queue.kind)

    async def _work(self, state: _LoopState, queue: _CallQueue, job: _Job) -> None:
        """Embed a batch and hand each caller its part of the reply."""
        last_s = max(caller.deadline_s for caller in job.callers) - asyncio.get_running_loop().time()
        how = SubmitOptions(
            model=queue.kind.model,
            tenant=queue.kind.tenant,
            lane=queue.kind.lane,
            job_id=job.job_id,
            in_one_chunk=len(job.batch.calls) > 1,
            block=queue.kind.block,
        )
        try:
            reply = await self._run(job.batch.texts, queue.kind, how, last_s + AFTER_THE_LAST_S)
            shares = dict(zip(job.batch.calls, job.batch.share_out(reply), strict=True))
            for caller in job.callers:
                caller.reply.set_result(shares[caller.call])
        except asyncio.CancelledError:  # all callers have left, or the client is closed
            _fail(job.callers, ClientClosedError())
            raise
        except BrokerUnavailableError as error:  # calls that wait would fail in the same way, only later
            _fail([*job.callers, *_withdrawn(queue)], error)
        except Exception as error:
            _fail(job.callers, error)
        finally:
            job.callers = set()
            queue.gathering.end_batch()
            self._send(state, queue)

    async def _run(self, values: list[str], kind: BatchKey, how: SubmitOptions, timeout_s: float) -> EmbeddingReply:
        flow = self._calls.embed(values, kind.options, how, timeout_s)
        return await self._link.run(flow, timeout_s=timeout_s + LAST_MOMENT_S)

    async def _raise_late(self, queue: _CallQueue, caller: _Caller, timeout_s: float) -> None:
        """Raise ResultTimeoutError with a hint why the call is late, unless its reply has come meanwhile."""
        job = caller.job
        if job is None:
            hint = self._calls.outlook.hint_unsent(queue.kind.model, queue.gathering.in_flight)
            raise ResultTimeoutError("", timeout_s, hint)
        hint = "Its job had not reached Redis."
        with suppress(ResultExpiredError):
            hint = await self._link.run(self._calls.why_late(job.job_id), timeout_s=CLEAN_UP_S)
        if caller.reply.done():
            return
        raise ResultTimeoutError(job.job_id, timeout_s, hint if len(job.callers) > 1 else f"{hint} It was cancelled.")

    def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is None or state.pid != os.getpid():
            state = self._states[loop] = _LoopState(pid=os.getpid())
        return state


async def _leave(queue: _CallQueue, caller: _Caller) -> None:
    """Stop waiting; the last caller of a job cancels it."""
    if queue.gathering.withdraw(caller.call):
        queue.callers.pop(caller.call)
    job = caller.job
    if job is None or job.task is None or caller not in job.callers:
        return
    job.callers.discard(caller)
    if not job.callers:
        job.task.cancel()
        await asyncio.wait([job.task])


def _withdrawn(queue: _CallQueue) -> list[_Caller]:
    """Remove all waiting calls and return their callers."""
    callers = list(queue.callers.values())
    queue.callers.clear()
    for caller in callers:
        queue.gathering.withdraw(caller.call)
    return callers


def _fail(callers: Sequence[_Caller] | set[_Caller], error: Exception) -> None:
    """Set a copy of the error for each caller, as one error raised in several tasks would mix their tracebacks."""
    for caller in callers:
        if not caller.reply.done():
            caller.reply.set_exception(copy.copy(error) if isinstance(error, EmbedError) else error)
