"""Runs a batch to its end: lines in, windows through the queue, lines out, and each step committed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from embedmill.errors import JobTooLargeError, QueueError, RequestError, ResultError, ResultExpiredError
from embedmill.protocol.cards import ModelCard
from embedmill.reply import EmbeddingReply
from embedmill_worker.batches.lines import ResultLine, answered, parse_line, read_lines, unanswered
from embedmill_worker.batches.objects import Progress
from embedmill_worker.batches.result_files import ResultFiles
from embedmill_worker.batches.threads import in_thread
from embedmill_worker.batches.windows import Entry, RequestReader, Window, WindowReader
from embedmill_worker.gateway.apis.openai import error_body, reply_body
from embedmill_worker.gateway.refusals import RETRYABLE, RefusedError, refusal_of, refusal_of_texts

log = logging.getLogger(__name__)

#: Windows in flight, and the texts that they may have in all: what this process holds in memory.
MAX_WINDOWS: Final = 8
MAX_FLIGHT_CHARS: Final = 8 << 20

#: Seconds between two looks at a job: the first pause, which doubles up to the longest.
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.5

#: Seconds until a queue that is full or away is tried again.
RETRY_S: Final = 2.0

#: Times that a window is submitted again whose texts were rejected for a reason that passes.
MAX_ATTEMPTS: Final = 3

#: Lines that are written at a time when a batch ends early.
PIECE_LINES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a batch ends before all its lines are done, as those lines say it."""

    code: str
    message: str


CANCELLED: Final = Ending(code="batch_cancelled", message="This request was not run because the batch was cancelled.")
EXPIRED: Final = Ending(
    code="batch_expired", message="This request could not be executed before the completion window expired."
)


class Journal(Protocol):
    """Where a batch's progress is kept."""

    def save(self, progress: Progress, /) -> None:
        """Store the progress; it is on disk when this returns. Blocks."""
        ...

    def ending(self) -> Ending | None:
        """Return why the batch ends now; None: it goes on. Blocks."""
        ...


class Jobs(Protocol):
    """The jobs of a batch; see ``WindowQueue``."""

    async def submit(self, window: Window, /) -> None:
        """Submit a window; if its job exists, do nothing."""
        ...

    async def poll(self, window: Window, /) -> EmbeddingReply | RefusedError | None:
        """Return the reply if it is there, or why there will be none."""
        ...

    async def discard(self, window: Window, /) -> None:
        """Delete the job."""
        ...


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A window on its way."""

    window: Window
    #: Why there will be no job.
    refusal: RefusedError | None = None
    has_job: bool = False
    is_charged: bool = False
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The input of a batch."""

    batch_id: str
    path: Path
    requests: RequestReader
    max_line_bytes: int

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        return self.requests.card


class BatchRun:
    """One run of a batch, from its progress on."""

    def __init__(
        self,
        source: Source,
        queue: Jobs,
        results: ResultFiles,
        journal: Journal,
        *,
        progress: Progress,
        charge: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Take what a run needs.

        Args:
            source: the input.
            queue: the jobs.
            results: the files to write, cut to ``progress``.
            journal: where progress is kept.
            progress: what is done.
            charge: counts tokens against the caller's limit, and raises RefusedError if they must wait.
        """
        self._source = source
        self._queue = queue
        self._results = results
        self._journal = journal
        self.progress = progress
        self._charge = charge
        self._flights: deque[_Flight] = deque()
        #: Windows that were read and could not be submitted yet.
        self._waiting: deque[_Flight] = deque()
        self._is_read = False
        self._pause_s = FIRST_PAUSE_S
        self._has_warned = False

    async def run(self) -> Ending | None:
        """Run until every line stands in one of the files; return why some of them were not run.

        Raises:
            OSError: a file cannot be read or written.
            RefusedError: the progress cannot be stored now.
        """
        reader = await in_thread(self._open)
        try:
            while (ending := await asyncio.to_thread(self._journal.ending)) is None:
                await self._fill(reader)
                if not self._flights and not self._waiting:  # every line is written
                    return None
                if self._flights:
                    await self._advance()
                else:
                    await asyncio.sleep(RETRY_S)
        finally:
            reader.close()
        return ending if await self._end(ending) else None

    def _open(self) -> WindowReader:
        source = self._source
        return WindowReader(source.path, self.progress, source.requests, max_line_bytes=source.max_line_bytes)

    async def _fill(self, reader: WindowReader) -> None:
        """Submit windows until enough are on their way, or the queue takes no more."""
        while len(self._flights) < MAX_WINDOWS and self._chars() < MAX_FLIGHT_CHARS:
            if not self._waiting:
                window = None if self._is_read else await in_thread(reader.next)
                if window is None:
                    self._is_read = True
                    return
                self._waiting.append(_Flight(window=window))
            if not await self._submit(self._waiting[0]):
                return

    def _chars(self) -> int:
        return sum(len(text) for flight in self._flights for entry in flight.window.entries for text in entry.texts)

    async def _submit(self, flight: _Flight) -> bool:
        """Submit the first window that waits; return False if it must wait longer."""
        window = flight.window
        try:
            if window.texts:
                if self._charge is not None and not flight.is_charged:
                    await self._charge(window.tokens)
                    flight.is_charged = True
                await self._queue.submit(window)
                flight.has_job = True
        except JobTooLargeError as error:
            if len(window.entries) > 1:
                self._waiting.popleft()
                halves = (replace(flight, window=half) for half in reversed(window.halves()))
                self._waiting.extendleft(halves)
                return True
            flight.refusal = refusal_of(error)
        except RequestError as error:
            flight.refusal = refusal_of(error)
        except (QueueError, RefusedError) as error:
            self._warn(error)
            return False
        self._flights.append(self._waiting.popleft())
        return True

    async def _advance(self) -> None:
        """Write the first window if its vectors are there; else wait a little."""
        flight = self._flights[0]
        reply: EmbeddingReply | RefusedError | None = flight.refusal
        try:
            if flight.has_job:
                reply = await self._queue.poll(flight.window)
                if reply is None:
                    await asyncio.sleep(self._pause_s)
                    self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                    return
                if self._is_passing(reply) and flight.attempts < MAX_ATTEMPTS:
                    flight.attempts += 1
                    await self._queue.discard(flight.window)
                    self._submit_again()
                    return
        except ResultExpiredError:  # Redis has lost this job, and so perhaps the others
            self._submit_again()
            return
        except (QueueError, ResultError) as error:
            self._warn(error)
            await asyncio.sleep(RETRY_S)
            return
        await self._write(flight.window, reply)
        self._flights.popleft()
        self._pause_s = FIRST_PAUSE_S
        if flight.has_job:
            await self._queue.discard(flight.window)

    def _is_passing(self, reply: EmbeddingReply | RefusedError) -> bool:
        """Return whether another try may give vectors that this reply lacks."""
        if isinstance(reply, RefusedError) or not reply.rejected:
            return False
        return any(refusal_of_texts([one]).kind in RETRYABLE for one in reply.rejected)

    def _submit_again(self) -> None:
        """Move all windows on their way back, to be submitted again in order; jobs that exist stay as they are."""
        for flight in self._flights:
            flight.has_job = False
        self._waiting.extendleft(reversed(self._flights))
        self._flights.clear()

    def _warn(self, error: Exception) -> None:
        """Report once why the batch waits."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("batch %s waits: %s", self._source.batch_id, error, extra={"action": "batch_waits"})

    async def _write(self, window: Window, reply: EmbeddingReply | RefusedError | None) -> None:
        last = window.entries[-1]
        lines = self._lines(window, reply)
        self.progress = await in_thread(self._commit, lines, last.end, last.number)

    def _commit(self, lines: Iterator[ResultLine], offset: int, line: int) -> Progress:
        progress = replace(self._results.append(lines, self.progress), offset=offset, line=line)
        self._journal.save(progress)
        return progress

    def _lines(self, window: Window, reply: EmbeddingReply | RefusedError | None) -> Iterator[ResultLine]:
        start = 0
        for entry in window.entries:
            stop = start + len(entry.texts)
            if entry.refusal is not None or isinstance(reply, RefusedError) or reply is None:
                found = entry.refusal or reply
                assert isinstance(found, RefusedError)
                yield self._refused(entry, found)
            else:
                yield self._embedded(entry, reply, start, stop)
            start = stop

    def _embedded(self, entry: Entry, reply: EmbeddingReply, start: int, stop: int) -> ResultLine:
        rejected = [replace(one, index=one.index - start) for one in reply.rejected if start <= one.index < stop]
        if rejected:
            return self._refused(entry, refusal_of_texts(rejected))
        card = self._source.card
        tokens = sum(min(count, card.max_tokens) for count in reply.token_counts[start:stop].tolist())
        body = reply_body(reply.vectors[start:stop], entry.encoding, model=card.name, tokens=tokens)
        return answered(self._source.batch_id, entry.number, entry.custom_id, 200, body, tokens=tokens)

    def _refused(self, entry: Entry, error: RefusedError) -> ResultLine:
        return answered(self._source.batch_id, entry.number, entry.custom_id, error.status, error_body(error))

    async def _end(self, ending: Ending) -> bool:
        """Keep the windows that are done, drop the others, and write why the other lines were not run; False: none."""
        while self._flights:
            flight = self._flights[0]
            try:
                reply = await self._queue.poll(flight.window) if flight.has_job else flight.refusal
            except (QueueError, ResultError):
                break
            if reply is None and flight.has_job:
                break
            await self._write(flight.window, reply)
            self._flights.popleft()
            if flight.has_job:
                await self._queue.discard(flight.window)
        for flight in self._flights:
            if flight.has_job:
                await self._queue.discard(flight.window)
        has_rest = False
        while await in_thread(self._write_rest, ending):
            has_rest = True
        return has_rest

    def _write_rest(self, ending: Ending) -> bool:
        """Write the next lines that were not run; return whether there were any."""
        with self._source.path.open("rb") as file:
            file.seek(self.progress.offset)
            lines = read_lines(file, number=self.progress.line, max_bytes=self._source.max_line_bytes)
            # Lines may be large, and what is written of one is not.
            found = [(raw.number, raw.end, parse_line(raw).custom_id) for raw in islice(lines, PIECE_LINES)]
        if not found:
            return False
        batch_id = self._source.batch_id
        rest = (unanswered(batch_id, number, name, ending.code, ending.message) for number, _, name in found)
        number, end, _ = found[-1]
        self.progress = self._commit(rest, end, number)
        return True
