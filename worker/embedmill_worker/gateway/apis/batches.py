"""OpenAI's ``/v1/batches``, for embeddings."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final, Protocol

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from embedmill_worker.batches.objects import ENDPOINT, INPUT_PURPOSE, Batch, Status
from embedmill_worker.batches.store import FileStore, check_quota, ended, new_id
from embedmill_worker.gateway.apis.files import check_expires, page_of, read_limit, required
from embedmill_worker.gateway.apis.openai import API
from embedmill_worker.gateway.http import Call, Gate, json_response
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.settings import FileLimits

#: Batches of a page, as OpenAI has them.
DEFAULT_PAGE, MAX_PAGE = 20, 100

#: Pairs of metadata, and characters of a key and a value.
MAX_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512

#: Longest completion window, in seconds.
MAX_WINDOW_S: Final = 30 * 86_400

_WINDOW: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Scheduler(Protocol):
    """What runs the batches."""

    def start(self) -> None:
        """Begin to look for batches."""
        ...

    def wake(self) -> None:
        """Look for batches now."""
        ...

    async def close(self) -> None:
        """Leave all batches as they are."""
        ...


class ExpiresAfter(msgspec.Struct, kw_only=True):
    """When the files of a batch expire."""

    anchor: str
    seconds: int


class CreateBatch(msgspec.Struct, kw_only=True):
    """Body of ``POST /v1/batches``. What OpenAI has not: windows other than ``24h``."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


def routes(gate: Gate, store: FileStore | None, limits: FileLimits, scheduler: Scheduler | None) -> list[Route]:
    """Return the routes; ``store`` None: this gateway has no folder for files, and says so."""

    def wake() -> None:
        if scheduler is not None:
            scheduler.wake()

    async def create(call: Call) -> Response:
        asked, now_s, owner = call.read(CreateBatch), time.time(), call.caller.name
        batch = _batch(asked, owner, int(now_s))
        try:
            file = await asyncio.to_thread(required(store).file, asked.input_file_id, owner, now_s)
        except RefusedError as error:
            if error.kind is Kind.NOT_FOUND:
                raise RefusedError(Kind.NOT_FOUND, "No such File object", param="input_file_id") from None
            raise
        if file.purpose != INPUT_PURPOSE:
            reason = f"The input file must have been uploaded with the purpose '{INPUT_PURPOSE}'"
            raise RefusedError(Kind.INVALID, reason, param="input_file_id")
        check_quota(await asyncio.to_thread(required(store).held_bytes, owner), limits.bytes_of(call.caller))
        await asyncio.to_thread(required(store).add_batch, batch)
        wake()
        return json_response(batch.shown())

    async def list_batches(call: Call) -> Response:
        page, has_more = await asyncio.to_thread(
            required(store).batches,
            call.caller.name,
            after=call.query.get("after"),
            limit=read_limit(call.query, DEFAULT_PAGE, MAX_PAGE),
        )
        return json_response(page_of([batch.shown() for batch in page], has_more=has_more))

    async def get(call: Call) -> Response:
        batch = await asyncio.to_thread(required(store).batch, call.path["batch_id"], call.caller.name)
        return json_response(batch.shown())

    async def cancel(call: Call) -> Response:
        batch = await asyncio.to_thread(
            required(store).update, call.path["batch_id"], _cancelled, owner=call.caller.name
        )
        wake()
        return json_response(batch.shown())

    return [
        gate.route(API, "/v1/batches", create),
        gate.route(API, "/v1/batches", list_batches, method="GET"),
        gate.route(API, "/v1/batches/{batch_id}", get, method="GET"),
        gate.route(API, "/v1/batches/{batch_id}/cancel", cancel),
    ]


def _batch(asked: CreateBatch, owner: str, now_s: int) -> Batch:
    """Return a new batch.

    Raises:
        RefusedError: it cannot be served.
    """
    if asked.endpoint != ENDPOINT:
        raise RefusedError(Kind.INVALID, f"'endpoint' must be '{ENDPOINT}'", param="endpoint")
    found = _WINDOW.fullmatch(asked.completion_window)
    window_s = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 1 <= window_s <= MAX_WINDOW_S:
        reason = "'completion_window' must be '24h', or another number of s, m, h or d up to 30d"
        raise RefusedError(Kind.INVALID, reason, param="completion_window")
    _check_metadata(asked.metadata or {})
    expires = asked.output_expires_after
    seconds = check_expires(expires.anchor, expires.seconds, "output_expires_after") if expires else None
    return Batch(
        id=new_id("batch_"),
        owner=owner,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        metadata=asked.metadata,
        output_expires_s=seconds,
        output_id=new_id("file-"),
        error_id=new_id("file-"),
        created_at=now_s,
        expires_at=now_s + window_s,
    )


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > MAX_PAIRS:
        raise RefusedError(Kind.INVALID, f"'metadata' may have at most {MAX_PAIRS} pairs", param="metadata")
    if any(len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS for key, value in metadata.items()):
        reason = f"'metadata': a key may have {MAX_KEY_CHARS} characters, a value {MAX_VALUE_CHARS}"
        raise RefusedError(Kind.INVALID, reason, param="metadata")


def _cancelled(batch: Batch) -> Batch:
    """Return the batch as it is once somebody wants its end.

    Raises:
        RefusedError: it has ended, or is about to.
    """
    if batch.status is Status.CANCELLING:
        return batch
    if batch.status not in (Status.VALIDATING, Status.IN_PROGRESS):
        raise RefusedError(Kind.CONFLICT, f"Cannot cancel a batch with status '{batch.status}'.")
    return ended(batch, Status.CANCELLING, int(time.time()))
