"""The batches that this gateway runs: it takes those that no other process of the host runs, also after a kill."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from embedmill.protocol.cards import UNKNOWN_CARD, ModelCard
from embedmill_worker.batches.lines import InvalidLineError
from embedmill_worker.batches.objects import Batch, LineFault, Progress, Status
from embedmill_worker.batches.queue import WindowQueue
from embedmill_worker.batches.result_files import DamagedFileError, ResultFiles
from embedmill_worker.batches.runner import CANCELLED, EXPIRED, BatchRun, Ending, Source
from embedmill_worker.batches.store import FileLock, FileStore, check_quota, ended
from embedmill_worker.batches.threads import in_thread
from embedmill_worker.batches.validation import check_file
from embedmill_worker.batches.windows import RequestReader
from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.http import shown
from embedmill_worker.gateway.refusals import Kind, RefusedError

if TYPE_CHECKING:
    from embedmill_worker.gateway.apis.tokens import Detokenizer
    from embedmill_worker.gateway.service import EmbeddingService

log = logging.getLogger(__name__)

#: Batches that one gateway runs at a time, and of one API key.
MAX_RUNNING: Final = 8
MAX_OWN_RUNNING: Final = 2

#: Seconds between two looks for batches that nobody runs.
POLL_S: Final = 1.0

#: Seconds between two looks for files that have expired.
SWEEP_S: Final = 60.0

#: Seconds between two looks whether a running batch is to end.
ENDING_S: Final = 0.5

#: Batches that wait for their turn and are looked at, whether they have been cancelled or have expired.
MAX_LOOKED_AT: Final = 100

#: Times that a database is tried that another gateway is about to open, and seconds between them.
OPEN_TRIES: Final = 50
OPEN_PAUSE_S: Final = 0.1

#: Seconds until a batch that failed is tried again: at first, and at most.
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0


class BatchScheduler:
    """Runs batches in one gateway."""

    def __init__(self, store: FileStore, service: EmbeddingService, detokenizer: Detokenizer) -> None:
        self._store = store
        self._service = service
        self._detokenizer = detokenizer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._owners: dict[str, str] = {}
        #: Failures of a batch in a row, and when it may be tried again.
        self._failures: Counter[str] = Counter()
        self._retry_at_s: dict[str, float] = {}
        self._swept_at_s = float("-inf")
        self._is_awake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for batches."""
        self._loop = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look for batches now."""
        self._is_awake.set()

    async def close(self) -> None:
        """Leave all batches as they are; another gateway, or the next one, goes on with them."""
        tasks = [*self._tasks.values(), *([self._loop] if self._loop is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                log.error("looking for batches failed: %s", shown(error), extra={"action": "batch_failed"})
            self._is_awake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_awake.wait(), POLL_S)

    async def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._swept_at_s >= SWEEP_S:
            self._swept_at_s = now_s
            count = await asyncio.to_thread(self._store.sweep, time.time(), self._service.settings.files.max_age_s)
            if count:
                log.info("%d files have expired and were deleted", count, extra={"action": "files_expired"})
        waiting = [
            each
            for each in await asyncio.to_thread(self._store.unfinished)
            if each[0] not in self._tasks and self._retry_at_s.get(each[0], 0.0) <= now_s
        ]
        looked_at = 0
        for batch_id, owner in waiting:
            owns = list(self._owners.values()).count(owner)
            if len(self._tasks) >= MAX_RUNNING or owns >= MAX_OWN_RUNNING:
                looked_at += 1  # to end a batch takes no turn
                if looked_at > MAX_LOOKED_AT:
                    return
                if not await asyncio.to_thread(self._store.is_ending, batch_id, time.time()):
                    continue
            lock = await asyncio.to_thread(self._store.lock, batch_id)
            if lock is not None:
                self._owners[batch_id] = owner
                self._tasks[batch_id] = asyncio.create_task(self._process(batch_id, lock))

    async def _process(self, batch_id: str, lock: FileLock) -> None:
        try:
            await self._take(batch_id)
            self._failures.pop(batch_id, None)
        except Exception as error:
            self._failures[batch_id] += 1
            wait_s = min(FIRST_RETRY_S * 2 ** (self._failures[batch_id] - 1), LONGEST_RETRY_S)
            self._retry_at_s[batch_id] = time.monotonic() + wait_s
            reason = error.message if isinstance(error, RefusedError) else getattr(error, "strerror", None)
            reason = reason or shown(error)
            text = "batch %s is tried again in %.0f s: %s"
            log.error(text, batch_id, wait_s, reason, extra={"action": "batch_failed"})
        finally:
            lock.release()
            del self._tasks[batch_id], self._owners[batch_id]
            self.wake()

    async def _take(self, batch_id: str) -> None:
        batch = await asyncio.to_thread(self._store.batch, batch_id)
        if batch.status.is_over:  # another process has just ended it
            return
        journal = StoreJournal(self._store, batch)
        if not batch.n_done and await asyncio.to_thread(journal.ending) is None:
            limit = self._service.settings.files.bytes_of(self._caller(batch.owner))
            check_quota(await asyncio.to_thread(self._store.held_bytes, batch.owner), limit)
        try:
            if not batch.total:
                batch = await self._validate(batch, journal)
            if batch.status.is_over:
                log.info("batch %s has %s", batch.id, batch.status, extra={"action": "batch_ended"})
                return
            ending = None
            if batch.n_done < batch.total:
                ending = await self._embed(batch, await self._card(batch.model, journal), journal)
        except (FileNotFoundError, DamagedFileError, InvalidLineError) as error:
            log.error("batch %s has failed: its files were changed on disk", batch_id, extra={"action": "batch_failed"})
            message = f"The files of this batch were changed on the gateway's disk: {type(error).__name__}."
            await self._fail(batch, [LineFault(code="file_damaged", message=message)])
            return
        await self._finish(batch, ending)

    # --- validation -----------------------------------------------------------------------------------------------

    async def _validate(self, batch: Batch, journal: StoreJournal) -> Batch:
        """Check the input file and the model; return the batch, which is in progress, failed or being cancelled."""
        path = self._store.path(batch.input_file_id)
        check = await check_file(path, max_line_bytes=self._max_line_bytes)
        if check.faults:
            return await self._fail(batch, check.faults)
        try:
            card = await self._card(check.model, journal, is_new=True)
        except RefusedError as error:
            return await self._fail(
                batch, [LineFault(code="model_not_found", message=error.message, param="body.model")]
            )

        def accept(found: Batch) -> Batch:
            found = replace(found, total=check.n_lines, model=card.name if card is not None else check.model)
            if found.status is not Status.VALIDATING:  # cancelled meanwhile
                return found
            return ended(found, Status.IN_PROGRESS, int(time.time()))

        return await asyncio.to_thread(self._store.update, batch.id, accept)

    async def _fail(self, batch: Batch, faults: Sequence[LineFault]) -> Batch:
        def fail(found: Batch) -> Batch:
            failed = ended(found, Status.FAILED, int(time.time()))
            return replace(failed, faults=tuple(faults), progress=Progress())

        batch = await asyncio.to_thread(self._store.update, batch.id, fail)
        await asyncio.to_thread(self._store.clean_up, batch)
        return batch

    async def _card(self, model: str | None, journal: StoreJournal, *, is_new: bool = False) -> ModelCard | None:
        """Return the card of the model, once a worker has announced it; None: the batch ends before.

        Raises:
            RefusedError: workers serve other models, and the batch ``is_new``.
        """
        while await asyncio.to_thread(journal.ending) is None:
            try:
                return self._service.card(model)
            except RefusedError as error:
                if is_new and error.kind is not Kind.UNAVAILABLE:
                    raise
            await asyncio.sleep(POLL_S)
        return None

    # --- embedding ------------------------------------------------------------------------------------------------

    async def _embed(self, batch: Batch, card: ModelCard | None, journal: StoreJournal) -> Ending | None:
        card = card or UNKNOWN_CARD
        source = Source(
            batch_id=batch.id,
            path=self._store.path(batch.input_file_id),
            requests=RequestReader(card=card, tokens=self._detokenizer, limits=self._service),
            max_line_bytes=self._max_line_bytes,
        )
        caller = self._caller(batch.owner)

        async def charge(tokens: int) -> None:
            await self._service.charge(caller, tokens)

        results = await in_thread(self._open, batch)
        try:
            run = BatchRun(
                source,
                WindowQueue(self._service.client, batch.id, card.name, caller.tenant),
                results,
                journal,
                progress=batch.progress,
                charge=charge if caller.tokens_per_minute else None,
            )
            return await run.run()
        finally:
            results.close()

    def _open(self, batch: Batch) -> ResultFiles:
        return ResultFiles(self._store.path(batch.output_id), self._store.path(batch.error_id), batch.progress)

    async def _finish(self, batch: Batch, ending: Ending | None) -> None:
        now_s = int(time.time())

        def finalize(found: Batch) -> Batch:
            is_running = found.status is Status.IN_PROGRESS
            return ended(found, Status.FINALIZING, now_s) if is_running and ending is None else found

        def end(found: Batch) -> Batch:
            if ending is EXPIRED:
                return ended(found, Status.EXPIRED, now_s)
            is_cancelled = found.status is Status.CANCELLING
            return ended(found, Status.CANCELLED if is_cancelled else Status.COMPLETED, now_s)

        await asyncio.to_thread(self._store.update, batch.id, finalize)
        most_s = self._service.settings.files.max_age_s
        expires_at = now_s + min(most_s, batch.output_expires_s or most_s)
        batch = await asyncio.to_thread(self._store.update, batch.id, end, files=expires_at)
        await asyncio.to_thread(self._store.clean_up, batch)
        done = batch.progress
        text = "batch %s has %s: %d requests with vectors, %d without"
        log.info(text, batch.id, batch.status, done.completed, done.failed, extra={"action": "batch_ended"})

    @property
    def _max_line_bytes(self) -> int:
        return self._service.settings.max_body_bytes

    def _caller(self, owner: str) -> Caller:
        """Return the holder of a key; if the key has gone, one without limits."""
        callers = self._service.settings.keys.callers
        return next((each for each in callers if each.name == owner), Caller(name=owner))


class StoreJournal:
    """The progress of a batch in the store."""

    def __init__(self, store: FileStore, batch: Batch) -> None:
        self._store = store
        self._batch = batch
        self._looked_at_s = float("-inf")

    def save(self, progress: Progress) -> None:
        """Store the progress, and note whether the batch is to end."""
        self._batch = self._store.update(self._batch.id, lambda batch: replace(batch, progress=progress))
        self._looked_at_s = time.monotonic()

    def ending(self) -> Ending | None:
        """Return why the batch ends now; None: it goes on."""
        if time.monotonic() - self._looked_at_s >= ENDING_S:
            self._batch = self._store.batch(self._batch.id)
            self._looked_at_s = time.monotonic()
        if self._batch.status is Status.CANCELLING:
            return CANCELLED
        return EXPIRED if time.time() >= self._batch.expires_at else None


def open_store(folder: Path) -> FileStore | None:
    """Return the store in a folder; None if it cannot be used, and then the log says why."""
    for left in reversed(range(OPEN_TRIES)):
        try:
            return FileStore(folder)
        except (OSError, sqlite3.Error, RefusedError) as error:
            is_busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if is_busy and left:  # SQLite does not wait for another gateway that begins to use the file
                time.sleep(OPEN_PAUSE_S)
                continue
            reason = getattr(error, "strerror", None) or error
            text = "files and batches are off: %s cannot be used: %s"
            log.warning(text, folder, reason, extra={"action": "files_off"})
            return None
    return None
