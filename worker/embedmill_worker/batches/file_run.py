"""A batch without a gateway: from one file into another, with its progress beside the output."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from embedmill.errors import BrokerUnavailableError, InvalidRequestError, SourceError
from embedmill.jobs.discovery import look_around
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.safe.atomic_file import replacing, sync_folder
from embedmill_worker.batches.objects import LineFault, Progress
from embedmill_worker.batches.queue import WindowQueue
from embedmill_worker.batches.result_files import ResultFiles
from embedmill_worker.batches.runner import BatchRun, Ending, Source
from embedmill_worker.batches.store import FileLock
from embedmill_worker.batches.threads import in_thread
from embedmill_worker.batches.validation import check_file
from embedmill_worker.batches.windows import RequestReader
from embedmill_worker.gateway.refusals import Kind, RefusedError

if TYPE_CHECKING:
    from embedmill_worker.gateway.apis.tokens import Detokenizer
    from embedmill_worker.gateway.service import EmbeddingService

#: Seconds between two looks for a worker.
POLL_S: Final = 1.0

#: Seconds in which Redis must answer before anything was read.
CALL_S: Final = 10.0


class InvalidFileError(Exception):
    """An input file that is refused as a whole. Argument: its faults."""

    def __init__(self, faults: list[LineFault]) -> None:
        super().__init__(faults)
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the progress file holds."""

    #: Names the jobs in the queue.
    batch_id: str
    #: SHA-256 of the input.
    digest: str
    model: str
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where a run writes."""

    output: Path

    @property
    def progress(self) -> Path:
        """File of the progress, which a run leaves only if it was ended early."""
        return self.output.with_name(f"{self.output.name}.progress")

    @property
    def partial(self) -> Path:
        """File of the lines that are done; it becomes the output at the end."""
        return self.output.with_name(f"{self.output.name}.partial")

    def read(self) -> Record | None:
        """Return what an earlier run has left; None: nothing.

        Raises:
            InvalidRequestError: the progress file cannot be read.
        """
        try:
            return msgspec.json.decode(self.progress.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            reason = f"{self.progress} cannot be read; delete it to begin again"
            raise InvalidRequestError("--output", reason) from None

    def write(self, record: Record) -> None:
        """Store the progress; it is on disk when this returns."""
        with replacing(self.progress) as file:
            file.write(msgspec.json.encode(record))

    def finish(self, progress: Progress) -> None:
        """Rename the output, unless it has its name already, and remove the progress."""
        if self.partial.stat().st_size == progress.output_bytes:
            self.partial.replace(self.output)
        else:  # a run was killed behind the renaming, and this one's lock has made an empty file
            self.partial.unlink()
        sync_folder(self.output.parent)
        self.progress.unlink(missing_ok=True)


class FileJournal:
    """The progress of a run in its file."""

    def __init__(self, outputs: Outputs, record: Record, report: Callable[[int], None]) -> None:
        self._outputs = outputs
        self._record = record
        self._report = report

    def save(self, progress: Progress) -> None:
        """Store the progress."""
        self._record = replace(self._record, progress=progress)
        self._outputs.write(self._record)
        self._report(progress.completed + progress.failed)

    def ending(self) -> Ending | None:
        """Return None: such a run ends with its last line."""
        return None


async def run_file(
    path: Path,
    outputs: Outputs,
    service: EmbeddingService,
    detokenizer: Detokenizer,
    *,
    report: Callable[[int], None],
    warn: Callable[[str], None],
) -> Progress:
    """Run the requests of a file, from where an earlier run was ended; return what was done in all.

    Args:
        path: the input.
        outputs: where to write.
        service: the queue.
        detokenizer: what reads arrays of tokens.
        report: is called with the number of requests that are done.
        warn: is called with why the run waits.

    Raises:
        InvalidFileError: the input is refused as a whole; nothing was embedded.
        InvalidRequestError: another run writes this output, or has left it for another input.
        SourceError: a file cannot be read or written.
        BrokerUnavailableError: Redis does not answer.
    """
    try:
        lock = await asyncio.to_thread(partial(FileLock, outputs.partial, mode=0o666))
    except BlockingIOError:
        raise InvalidRequestError("--output", f"another run writes {outputs.output}; wait for its end") from None
    except OSError as error:
        raise SourceError(str(outputs.output), f"cannot be written: {error.strerror}") from None
    try:
        check = await check_file(path, max_line_bytes=service.settings.max_body_bytes)
        if check.faults:
            raise InvalidFileError(check.faults)
        card = await _card(service, check.model, warn)
        record = await _begin(path, outputs, card)
        if record.progress.completed + record.progress.failed < check.n_lines:
            requests = RequestReader(card=card, tokens=detokenizer, limits=service)
            record = await _run(path, outputs, record, requests=requests, service=service, report=report)
        await in_thread(outputs.finish, record.progress)
        return record.progress
    except OSError as error:
        if isinstance(error, BrokerUnavailableError):
            raise
        reason = f"the run ended early: {error.strerror or error}; run the same command again"
        raise SourceError(str(outputs.output), reason) from None
    finally:
        if not outputs.progress.exists():  # nothing was begun, or all is done
            outputs.partial.unlink(missing_ok=True)
        lock.release()


async def _begin(path: Path, outputs: Outputs, card: ModelCard) -> Record:
    """Return the record of an earlier run of this input, or a new one, which is on disk.

    Raises:
        InvalidRequestError: an earlier run had another input or model.
    """
    digest = await in_thread(_digest, path)
    record = await in_thread(outputs.read)
    if record is None:
        record = Record(batch_id=f"batch-{secrets.token_hex(16)}", digest=digest, model=card.name)
        await in_thread(outputs.write, record)
    if (record.digest, record.model) != (digest, card.name):
        reason = f"{outputs.progress} is of a run with another input or model; delete it to begin again"
        raise InvalidRequestError("--output", reason)
    return record


async def _run(
    path: Path,
    outputs: Outputs,
    record: Record,
    *,
    requests: RequestReader,
    service: EmbeddingService,
    report: Callable[[int], None],
) -> Record:
    max_line_bytes = service.settings.max_body_bytes
    source = Source(batch_id=record.batch_id, path=path, requests=requests, max_line_bytes=max_line_bytes)
    results = ResultFiles(outputs.partial, None, record.progress)
    try:
        jobs = WindowQueue(service.client, record.batch_id, source.card.name)
        journal = FileJournal(outputs, record, report)
        run = BatchRun(source, jobs, results, journal, progress=record.progress)
        await run.run()
        return replace(record, progress=run.progress)
    finally:
        results.close()


async def _card(service: EmbeddingService, model: str | None, warn: Callable[[str], None]) -> ModelCard:
    """Return the card of the model, once a worker has announced it."""
    has_warned = False
    while True:
        try:
            return service.card(model)
        except RefusedError as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise InvalidRequestError("FILE", error.message) from None
            if not service.is_reachable:  # find out why not
                keys = Keyspace(service.settings.client.namespace)
                await service.client.transport.run(look_around(keys), timeout_s=CALL_S)
            if not has_warned:
                has_warned = True
                warn(f"waiting: {error.message}")
        await asyncio.sleep(POLL_S)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
