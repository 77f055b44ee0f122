"""The jobs of a caller: each sees its own, whichever gateway it asks, because all is in Redis."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from embedmill.errors import JobCancelledError, MessageError, ResultExpiredError
from embedmill.jobs.operations import CALL_TIMEOUT_S, PartReader
from embedmill.jobs.request import SubmitOptions
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import EmbeddingReply
from embedmill.transport.flow import Flow, T
from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.jobs import entries
from embedmill_worker.gateway.jobs.entries import CANCELLED, COMPLETED, EXPIRED, FAILED, Entry, SeenJob
from embedmill_worker.gateway.jobs.ids import check_id, internal_id, is_id, owner_of
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.webhooks import outbox

if TYPE_CHECKING:
    from embedmill_worker.gateway.service import EmbeddingService

#: Seconds to read all vectors of a job.
RESULT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """A job that a caller asks for."""

    #: The caller's name of it; None: a new one.
    job_id: str | None
    #: Hash of all that the request asks for.
    request: str
    texts: Sequence[str] = field(repr=False)
    card: ModelCard
    options: EmbedOptions
    lane: str
    ttl_s: float
    #: Where to report the job's end, and what signs the report; empty: nowhere, and with the gateway's own secret.
    url: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    #: Estimated tokens of the texts.
    tokens: int = 0


class CallerJobs:
    """Submits, reads, lists and cancels jobs."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service
        self.keys = Keyspace(service.settings.client.namespace)

    async def submit(self, order: JobOrder, caller: Caller) -> SeenJob:
        """Submit a job, or find the one that the same request has made before; that one costs nothing.

        Raises:
            RefusedError: the id is taken by another request, or the job cannot be stored.
        """
        owner = owner_of(caller)
        job_id = internal_id(owner, order.job_id or f"job-{uuid.uuid4().hex}")
        found = await self.look(job_id) if order.job_id else None
        if found is not None and found.entry.request != order.request:
            raise _taken()
        if found is not None and found.status != EXPIRED:
            return found
        await self._service.charge(caller, order.tokens)
        how = SubmitOptions(
            model=order.card.name, lane=order.lane, tenant=caller.tenant, job_id=job_id, ttl_s=order.ttl_s
        )
        flow = self._service.operations.submit(list(order.texts), order.options, how)
        await self._service.run(flow, CALL_TIMEOUT_S)
        entry = Entry(
            job_id=job_id,
            request=order.request,
            model=order.card.name,
            lane=order.lane,
            n_texts=len(order.texts),
            url=order.url,
            secret=order.secret,
        )
        if not await self._service.run(entries.enter(self.keys, owner, entry)):
            raise _taken()
        seen = await self.look(job_id)
        if seen is None:
            raise RefusedError(Kind.UNAVAILABLE, "Redis has lost the job; try again")
        return seen

    async def find(self, job_id: str, caller: Caller) -> SeenJob:
        """Return a caller's job.

        Raises:
            RefusedError: the caller has no such job.
        """
        seen = None
        if is_id(job_id):
            seen = await self.look(internal_id(owner_of(caller), job_id))
        if seen is None:
            raise RefusedError(Kind.NOT_FOUND, "There is no such job")
        return seen

    async def list_newest(self, caller: Caller, limit: int, after: str | None) -> tuple[list[SeenJob], bool]:
        """Return a caller's newest jobs, and whether there are older ones.

        Raises:
            RefusedError: the caller has no job ``after``.
        """
        owner = owner_of(caller)
        start = None if after is None else internal_id(owner, check_id(after, "after"))
        ids = await self._service.run(entries.newest(self.keys, owner, limit + 1, start))
        if ids is None:
            raise RefusedError(Kind.INVALID, "There is no such job to list from", param="after")
        found = await self._service.run(entries.look(self.keys, ids[:limit]))
        gone = [job_id for job_id, seen in zip(ids, found, strict=False) if seen is None]
        if gone:
            await self._service.run(entries.unlist(self.keys, owner, gone))
        return [await self._with_end(seen) for seen in found if seen is not None], len(ids) > limit

    async def cancel(self, job_id: str, caller: Caller) -> SeenJob:
        """Cancel a job and return it. One that is over stays as it is.

        Raises:
            RefusedError: the caller has no such job.
        """
        seen = await self.find(job_id, caller)
        if seen.is_over:
            return seen
        await self._service.run(_or_none(self._service.operations.cancel(seen.entry.job_id)))
        await self._service.run(entries.hasten(self.keys, seen.entry.job_id))
        return await self.find(job_id, caller)

    async def result(self, seen: SeenJob) -> EmbeddingReply:
        """Return the vectors of a job that is done.

        Raises:
            RefusedError: it is not done, was cancelled or has expired.
        """
        if seen.status in (CANCELLED, EXPIRED):
            raise RefusedError(Kind.NOT_FOUND, f"The job has no result: it is {seen.status}")
        if not seen.is_over:
            raise RefusedError(Kind.CONFLICT, f"The job is {seen.status}; its result is not there yet", retry_after_s=1)
        flow = self._service.operations.result(seen.entry.job_id, RESULT_S)
        reply = await self._service.run(_or_none(flow), RESULT_S)
        if reply is None:
            raise RefusedError(Kind.NOT_FOUND, "The job has no result: it is expired")
        return reply

    async def look(self, job_id: str) -> SeenJob | None:
        """Read a job by its id in Redis, and note its end if nobody has; None: there is no such job.

        Raises:
            RefusedError: Redis does not answer.
        """
        (seen,) = await self._service.run(entries.look(self.keys, [job_id]))
        return None if seen is None else await self._with_end(seen)

    async def _with_end(self, seen: SeenJob) -> SeenJob:
        """Return a job as it is, with its end noted: texts without a vector are counted once."""
        if not seen.is_over or seen.entry.status or seen.status == EXPIRED:
            return seen
        status, n_failed = seen.status, 0
        if status == COMPLETED:
            n_failed = await self._count_failed(seen)
            status = FAILED if n_failed == seen.entry.n_texts else COMPLETED
        await self._service.run(entries.note_end(self.keys, seen, status, n_failed))
        (noted,) = await self._service.run(entries.look(self.keys, [seen.entry.job_id]))
        return seen if noted is None else noted

    async def _count_failed(self, seen: SeenJob) -> int:
        """Return how many texts of a job that is done have no vector; all of them, if its vectors cannot be read."""
        reader, n_failed = PartReader(self._service.operations, seen.entry.job_id), 0
        while not reader.is_over:
            try:
                parts = await self._service.run(_or_none(reader.next_parts()), CALL_TIMEOUT_S)
            except MessageError:
                return seen.entry.n_texts
            if parts is None:
                return 0
            n_failed += sum(len(part.rejected) for part in parts)
        return n_failed

    async def claim(self, limit: int) -> list[str]:
        """Claim jobs that are due in the outbox."""
        return await self._service.run(outbox.claim(self.keys, limit))

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow over entries or the outbox."""
        return await self._service.run(flow)


def _or_none(flow: Flow[T]) -> Flow[T | None]:
    """Run a flow to None if its job is not in Redis any more, or is cancelled."""
    try:
        return (yield from flow)
    except (ResultExpiredError, JobCancelledError):
        return None


def _taken() -> RefusedError:
    return RefusedError(Kind.CONFLICT, "A job with this id was made by another request; use another id")
