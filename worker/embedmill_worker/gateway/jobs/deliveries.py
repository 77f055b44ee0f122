"""The loop of a gateway that sees jobs end and sends their webhooks. All gateways of a queue share the outbox."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import Final

from embedmill_worker.gateway.http import product_version, shown
from embedmill_worker.gateway.jobs import entries
from embedmill_worker.gateway.jobs.caller_jobs import CallerJobs
from embedmill_worker.gateway.jobs.entries import SeenJob
from embedmill_worker.gateway.jobs.ids import owner_in
from embedmill_worker.gateway.jobs.objects import body_of
from embedmill_worker.gateway.refusals import RefusedError
from embedmill_worker.webhooks import outbox
from embedmill_worker.webhooks.sender import Message, Outcome, Sender
from embedmill_worker.webhooks.settings import WebhookSettings

log = logging.getLogger(__name__)

#: Seconds between two looks into the outbox.
POLL_S: Final = 0.5

#: Jobs that one gateway looks at, or sends webhooks of, at a time; and those of one caller, so that receivers which do
#: not answer hold up no one else's.
MAX_AT_ONCE: Final = 64
MAX_OF_OWNER: Final = 8

#: Seconds until a job is looked at again whose caller has MAX_OF_OWNER under way.
WAIT_S: Final = 1.0

#: Seconds until a job that is not over is looked at again: a tenth of its age, within these.
SHORTEST_LOOK_S: Final = 0.5
LONGEST_LOOK_S: Final = 30.0

_ACTION: Final = {"action": "gateway_webhook"}


class Deliveries:
    """Sends what is due, for one gateway."""

    def __init__(self, jobs: CallerJobs, settings: WebhookSettings, sender: Sender) -> None:
        self._jobs = jobs
        self._settings = settings
        self._sender = sender
        self._under_way: set[asyncio.Task[None]] = set()
        self._of_owner: Counter[str] = Counter()

    async def run(self) -> None:
        """Send until cancelled. What is under way then is claimed again once its lease has passed."""
        try:
            while True:
                if not await self._begin():
                    await asyncio.sleep(POLL_S)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            await self._sender.close()

    async def _begin(self) -> bool:
        """Begin what is due, as far as there is room; return whether there may be more."""
        room = MAX_AT_ONCE - len(self._under_way)
        if room <= 0:
            return False
        try:
            due = await self._jobs.claim(room)
        except RefusedError:  # the service logs that Redis does not answer
            return False
        for job_id in due:
            task = asyncio.create_task(self._handle(job_id))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return len(due) == room

    async def _handle(self, job_id: str) -> None:
        try:
            await self._advance(job_id)
        except RefusedError:  # its time comes again when the lease has passed
            return
        except Exception as error:
            # Its message may hold a URL, so only its kind and place are logged.
            log.error("the webhook of job %s failed: %s", job_id, shown(error), extra=_ACTION)

    async def _advance(self, job_id: str) -> None:
        keys, seen = self._jobs.keys, await self._jobs.look(job_id)
        if seen is not None and not seen.is_over:
            age_s = seen.at_s - seen.entry.created_ms / 1000
            pause_s = min(max(age_s / 10, SHORTEST_LOOK_S), LONGEST_LOOK_S)
            await self._jobs.run(entries.keep(keys, job_id))
            await self._jobs.run(outbox.postpone(keys, {job_id: pause_s}))
        elif seen is None or not seen.entry.url or seen.entry.delivery:
            await self._jobs.run(outbox.remove(keys, job_id))
        else:
            await self._send(seen)

    async def _send(self, seen: SeenJob) -> None:
        entry, keys = seen.entry, self._jobs.keys
        owner = owner_in(entry.job_id)
        if self._of_owner[owner] >= MAX_OF_OWNER:
            await self._jobs.run(outbox.postpone(keys, {entry.job_id: WAIT_S}))
            return
        self._of_owner[owner] += 1
        try:
            outcome = await self._attempt(seen)
        finally:
            self._of_owner[owner] -= 1
        pause_s = self._settings.schedule.pause_s(entry.attempts + 1, random.random())  # noqa: S311  no secret
        is_last = outcome.is_delivered or not outcome.is_retryable or pause_s is None
        delivery = ("delivered" if outcome.is_delivered else "failed") if is_last else ""
        self._log(seen, outcome, None if is_last else pause_s)
        await self._jobs.run(entries.note_attempt(keys, entry, delivery))
        if is_last or pause_s is None:
            await self._jobs.run(outbox.remove(keys, entry.job_id))
        else:
            await self._jobs.run(outbox.postpone(keys, {entry.job_id: pause_s}))

    async def _attempt(self, seen: SeenJob) -> Outcome:
        secret = seen.entry.secret or self._settings.secret
        if not secret:
            return Outcome(is_delivered=False, reason="this gateway has no EMBEDMILL_WEBHOOK_SECRET")
        message = Message(event_id=seen.entry.event_id, url=seen.entry.url, secret=secret, body=body_of(seen))
        return await self._sender.send(message, f"embedmill/{product_version()}")

    def _log(self, seen: SeenJob, outcome: Outcome, pause_s: float | None) -> None:
        job_id, attempts = seen.entry.job_id, seen.entry.attempts + 1
        if outcome.is_delivered:
            log.debug("the webhook of job %s is delivered at attempt %d", job_id, attempts, extra=_ACTION)
        elif pause_s is not None:
            text = "the webhook of job %s failed at attempt %d: %s; it is tried again in %.0f s"
            log.info(text, job_id, attempts, outcome.reason, pause_s, extra=_ACTION)
        else:
            text = "the webhook of job %s failed at attempt %d: %s; it is given up"
            log.warning(text, job_id, attempts, outcome.reason, extra=_ACTION)
