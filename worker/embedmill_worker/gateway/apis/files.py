"""OpenAI's ``/v1/files``: uploads go to the disk as they arrive, and come back from there."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from embedmill_worker.batches.objects import INPUT_PURPOSE, StoredFile
from embedmill_worker.batches.store import FileStore, check_quota, new_id
from embedmill_worker.batches.threads import in_thread
from embedmill_worker.gateway.apis.multipart import FileForm
from embedmill_worker.gateway.apis.openai import API
from embedmill_worker.gateway.http import Call, Gate, json_response
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.settings import FileLimits

#: Bytes of an upload that are handed to a thread at a time.
PIECE_BYTES: Final = 512 << 10

#: Bytes of a download that are read at a time: small, as each piece must be sent within the patience for answers.
READ_BYTES: Final = 64 << 10

#: Bytes a second that an upload must come to on average, beyond the patience that every body has.
LEAST_BYTES_PER_S: Final = 16 << 10

#: Most uploads at a time in one gateway, and of one API key.
MAX_UPLOADS: Final = 32
MAX_OWN_UPLOADS: Final = 8

#: Bytes that a form may have besides its file.
FORM_BYTES: Final = 64 << 10

#: Seconds that a file may be asked to live, as OpenAI has them.
LEAST_S, MOST_S = 3_600, 2_592_000

#: Most files of one page.
MAX_PAGE: Final = 10_000

ORDERS: Final = ("asc", "desc")


@dataclass(slots=True)
class Arrivals:
    """The uploads under way in this gateway, by owner."""

    count: Counter[str] = field(default_factory=Counter)
    #: Bytes that have arrived.
    n_bytes: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one(self, owner: str) -> Iterator[Callable[[int], int]]:
        """Count an upload until the block ends; return what counts its bytes and returns those of all its owner's.

        Raises:
            RefusedError: there are too many.
        """
        if self.count.total() >= MAX_UPLOADS or self.count[owner] >= MAX_OWN_UPLOADS:
            limits = f"{MAX_UPLOADS} files, {MAX_OWN_UPLOADS} of one API key"
            raise RefusedError(Kind.OVERLOADED, f"At most {limits}, are uploaded at a time")
        own = 0

        def add(n_bytes: int) -> int:
            nonlocal own
            own += n_bytes
            self.n_bytes[owner] += n_bytes
            return self.n_bytes[owner]

        self.count[owner] += 1
        try:
            yield add
        finally:
            self.count[owner] -= 1
            self.n_bytes[owner] -= own
            if not self.count[owner]:
                del self.count[owner], self.n_bytes[owner]


def routes(gate: Gate, store: FileStore | None, limits: FileLimits) -> list[Route]:
    """Return the routes; ``store`` None: this gateway has no folder for files, and says so."""
    arrivals = Arrivals()

    async def upload(call: Call) -> Response:
        return json_response((await _upload(call, required(store), limits, arrivals)).shown())

    async def list_files(call: Call) -> Response:
        order = call.query.get("order", "desc")
        if order not in ORDERS:
            raise RefusedError(Kind.INVALID, f"'order' must be one of {', '.join(ORDERS)}", param="order")
        page, has_more = await asyncio.to_thread(
            required(store).files,
            call.caller.name,
            time.time(),
            after=call.query.get("after"),
            limit=read_limit(call.query, MAX_PAGE, MAX_PAGE),
            order=order,
            purpose=call.query.get("purpose"),
        )
        return json_response(page_of([file.shown() for file in page], has_more=has_more))

    async def get(call: Call) -> Response:
        return json_response((await _find(call)).shown())

    async def content(call: Call) -> Response:
        file = await _find(call)
        try:
            opened = await asyncio.to_thread(required(store).path(file.id).open, "rb", 0)
        except FileNotFoundError:  # deleted since
            raise RefusedError(Kind.NOT_FOUND, "No such File object", param="id") from None
        return _Download(opened, file.n_bytes)

    async def delete(call: Call) -> Response:
        name = call.path["file_id"]
        await asyncio.to_thread(required(store).delete_file, name, call.caller.name)
        return json_response({"id": name, "object": "file", "deleted": True})

    async def _find(call: Call) -> StoredFile:
        return await asyncio.to_thread(required(store).file, call.path["file_id"], call.caller.name, time.time())

    return [
        gate.route(API, "/v1/files", upload, is_streamed=True),
        gate.route(API, "/v1/files", list_files, method="GET"),
        gate.route(API, "/v1/files/{file_id}", get, method="GET"),
        gate.route(API, "/v1/files/{file_id}", delete, method="DELETE"),
        gate.route(API, "/v1/files/{file_id}/content", content, method="GET"),
    ]


def required(store: FileStore | None) -> FileStore:
    """Return the store.

    Raises:
        RefusedError: this gateway has none.
    """
    if store is None:
        raise RefusedError(Kind.UNAVAILABLE, "This gateway cannot store files; its log says why")
    return store


def read_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """Return the number of objects that a page may have.

    Raises:
        RefusedError: it is not one from 1 to ``most``.
    """
    value = query.get("limit", str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 9 and 1 <= int(value) <= most):
        raise RefusedError(Kind.INVALID, f"'limit' must be a whole number from 1 to {most}", param="limit")
    return int(value)


def page_of(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page of a list."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}


def lifetime(limits: FileLimits, seconds: int | None) -> int:
    """Return the seconds that a file lives: as many as are wished, up to the limit."""
    return min(limits.max_age_s, seconds or limits.max_age_s)


_EXPIRES: Final = re.compile(r"expires_after\[(anchor|seconds)\]")


async def _upload(call: Call, store: FileStore, limits: FileLimits, arrivals: Arrivals) -> StoredFile:
    length = call.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.max_file_bytes + FORM_BYTES:
        message = f"The file may have at most {limits.max_file_bytes} bytes"
        raise RefusedError(Kind.TOO_LARGE, message, param="file")
    owner, max_bytes = call.caller.name, limits.bytes_of(call.caller)
    with arrivals.one(owner) as count:
        held = await asyncio.to_thread(store.held_bytes, owner)
        check_quota(held + 1, max_bytes)
        with await in_thread(store.new_upload) as upload:
            form = FileForm(call.headers.get("content-type", ""), upload.write, max_bytes=limits.max_file_bytes)
            async for piece in _pieces(call, limits.max_file_bytes + FORM_BYTES):
                before = upload.n_bytes
                await in_thread(form.feed, piece)
                check_quota(held + count(upload.n_bytes - before), max_bytes)
            form.finish()
            seconds = _read_fields(form)
            now_s = int(time.time())
            file = StoredFile(
                id=new_id("file-"),
                owner=owner,
                filename=form.filename or "file",
                purpose=INPUT_PURPOSE,
                n_bytes=upload.n_bytes,
                created_at=now_s,
                expires_at=now_s + lifetime(limits, seconds),
            )
            await in_thread(partial(store.add_file, upload, file, max_bytes=max_bytes))
            return file


async def _pieces(call: Call, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces worth a thread.

    Raises:
        ClientDisconnect: the client has hung up.
        RefusedError: the body comes too slowly, or has more than ``max_bytes``.
    """
    assert call.receive is not None
    patience_s = call.service.settings.patience.body_s
    began_s = asyncio.get_running_loop().time()
    piece, total, is_more = bytearray(), 0, True
    try:
        while is_more:
            async with asyncio.timeout_at(began_s + patience_s + total / LEAST_BYTES_PER_S):
                message = await call.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body = message.get("body", b"")
            is_more = message.get("more_body", False)
            total += len(body)
            if total > max_bytes:
                raise RefusedError(Kind.TOO_LARGE, f"The form may have at most {max_bytes} bytes", param="file")
            piece += body
            if len(piece) >= PIECE_BYTES or not is_more:
                yield bytes(piece)
                piece.clear()
    except TimeoutError:
        reason = (
            f"The body did not arrive: {patience_s:g} s and a second for each {LEAST_BYTES_PER_S} bytes have passed"
        )
        raise RefusedError(Kind.SLOW_BODY, reason) from None


def _read_fields(form: FileForm) -> int | None:
    """Return the seconds after which the file is to expire; None: the form has none.

    Raises:
        RefusedError: a field is missing or wrong.
    """
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise RefusedError(Kind.INVALID, "'purpose' is a required property", param="purpose")
    if purpose != INPUT_PURPOSE:
        raise RefusedError(Kind.INVALID, f"'purpose' must be '{INPUT_PURPOSE}'", param="purpose")
    expires = {found[1]: value for name, value in form.fields.items() if (found := _EXPIRES.fullmatch(name))}
    return check_expires(expires.get("anchor"), expires.get("seconds")) if expires else None


def check_expires(anchor: object, seconds: object, param: str = "expires_after") -> int:
    """Return the seconds of an ``expires_after``.

    Raises:
        RefusedError: it cannot be served.
    """
    if anchor != "created_at":
        raise RefusedError(Kind.INVALID, f"'{param}.anchor' must be 'created_at'", param=f"{param}.anchor")
    text = str(seconds)
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and LEAST_S <= int(text) <= MOST_S):
        reason = f"'{param}.seconds' must be a whole number from {LEAST_S} to {MOST_S}"
        raise RefusedError(Kind.INVALID, reason, param=f"{param}.seconds")
    return int(text)


class _Download(StreamingResponse):
    """A file, read piece by piece; it is open, so deleting it does not cut it off."""

    def __init__(self, file: IO[bytes], n_bytes: int) -> None:
        self._file = file
        headers = {"content-length": str(n_bytes), "x-content-type-options": "nosniff"}
        super().__init__(self._read(n_bytes), media_type="application/octet-stream", headers=headers)

    async def __call__(self, *args: Any) -> None:
        """Send the file and close it, whatever happens."""
        try:
            await super().__call__(*args)
        finally:
            self._file.close()

    async def _read(self, n_bytes: int) -> AsyncIterator[bytes]:
        at = 0
        while at < n_bytes:
            piece = await asyncio.to_thread(os.pread, self._file.fileno(), min(READ_BYTES, n_bytes - at), at)
            if not piece:
                return
            at += len(piece)
            yield piece
