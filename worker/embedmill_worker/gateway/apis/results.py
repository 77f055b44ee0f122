"""A job's vectors as JSON, as raw numbers or as a stream of Arrow, a part at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import numpy as np
import orjson

from embedmill.reply import EmbeddingReply
from embedmill_worker.gateway.http import MAX_POSITIONS, Head
from embedmill_worker.gateway.refusals import Kind, RefusedError

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"
ARROW: Final = "application/vnd.apache.arrow.stream"

#: Forms of a result, the usual one first.
FORMS: Final = (JSON, RAW, ARROW)

#: Rows that are made into bytes at a time: a part of a megabyte or so.
PART_ROWS: Final = 512

#: Ranges of an Accept header that are read.
_MAX_RANGES: Final = 64


def choose(accept: str | None) -> str:
    """Return the form that an Accept header likes best; of those that it likes the same, the one it names first.

    Raises:
        RefusedError: it accepts none of them.
    """
    ranges = [_read_range(part) for part in (accept or "*/*").split(",", _MAX_RANGES)[:_MAX_RANGES]]
    for name, quality in sorted(ranges, key=lambda one: -one[1]):
        refused = {other for other, its in ranges if its <= 0}
        for form in FORMS:
            if quality > 0 and form not in refused and name in (form, f"{form.partition('/')[0]}/*", "*/*"):
                return form
    raise RefusedError(Kind.NOT_ACCEPTABLE, f"A result is one of {', '.join(FORMS)}")


def _read_range(part: str) -> tuple[str, float]:
    name, *parameters = (each.strip().lower() for each in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return name, quality if 0 <= quality <= 1 else 0.0


def head(reply: EmbeddingReply, form: str) -> Head:
    """Return how a result begins: its form, and what raw numbers do not tell themselves."""
    count, columns = reply.vectors.shape
    is_packed = reply.vectors.dtype == np.uint8
    headers = {
        "x-embedmill-count": str(count),
        "x-embedmill-dimensions": str(columns * 8 if is_packed else columns),
        "x-embedmill-dtype": "binary" if is_packed else reply.vectors.dtype.name,
        "x-embedmill-rejected-count": str(len(reply.rejected)),
        "vary": "accept",
    }
    if reply.rejected:
        shown = reply.rejected[:MAX_POSITIONS]
        headers["x-embedmill-rejected"] = ",".join(f"{one.index}:{one.reason}" for one in shown)
    if form == RAW:
        headers["content-length"] = str(reply.vectors.nbytes)
    return Head(media_type=form, headers=headers)


async def parts(reply: EmbeddingReply, form: str, tokens: int) -> AsyncIterator[bytes]:
    """Yield the bytes of a result.

    Args:
        reply: the vectors. Rows of rejected texts are left out of JSON, and are null in Arrow and NaN (or zeros, if
            they hold integers) in raw numbers.
        form: one of ``FORMS``.
        tokens: tokens that the model has read.
    """
    made = {JSON: _json, RAW: _raw, ARROW: _arrow}[form](reply, tokens)
    while (part := await asyncio.to_thread(next, made, None)) is not None:
        if part:
            yield part


def _blocks(reply: EmbeddingReply) -> Iterator[tuple[int, int]]:
    count = len(reply.vectors)
    for start in range(0, count, PART_ROWS):
        yield start, min(start + PART_ROWS, count)


def _json(reply: EmbeddingReply, tokens: int) -> Iterator[bytes]:
    rejected = {one.index for one in reply.rejected}
    rows = reply.vectors.astype(np.float32) if reply.vectors.dtype == np.float16 else reply.vectors
    yield b'{"object":"list","data":['
    comma = b""
    for start, stop in _blocks(reply):
        cells = [
            {"object": "embedding", "index": index, "embedding": rows[index]}
            for index in range(start, stop)
            if index not in rejected
        ]
        if cells:
            yield comma + orjson.dumps(cells, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            comma = b","
    errors = [{"index": one.index, "reason": one.reason, "detail": one.detail} for one in reply.rejected]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b"]," + orjson.dumps({"rejected": errors, "model": reply.model, "usage": usage})[1:]


def _raw(reply: EmbeddingReply, _tokens: int) -> Iterator[bytes]:
    rows = reply.vectors.astype(reply.vectors.dtype.newbyteorder("<"), copy=False)
    for start, stop in _blocks(reply):
        yield rows[start:stop].tobytes()


def _arrow(reply: EmbeddingReply, _tokens: int) -> Iterator[bytes]:
    arrow = arrow_library()
    columns = reply.vectors.shape[1]
    values = arrow.from_numpy_dtype(reply.vectors.dtype.newbyteorder("="))
    schema = arrow.schema(
        [
            arrow.field("index", arrow.uint32(), nullable=False),
            arrow.field("embedding", arrow.list_(values, columns)),
            arrow.field("reason", arrow.string()),
            arrow.field("detail", arrow.string()),
            arrow.field("token_count", arrow.uint32(), nullable=False),
            arrow.field("truncated", arrow.bool_(), nullable=False),
        ],
        metadata={"model": reply.model, "fingerprint": reply.fingerprint},
    )
    rejected = {one.index: one for one in reply.rejected}
    sink = _Sink()
    with arrow.ipc.new_stream(arrow.PythonFile(sink, mode="w"), schema) as writer:
        yield sink.take()
        for start, stop in _blocks(reply):
            places = range(start, stop)
            has_none = np.array([index in rejected for index in places])
            flat = arrow.array(np.ascontiguousarray(reply.vectors[start:stop]).reshape(-1))
            mask = arrow.array(has_none) if has_none.any() else None
            batch = [
                arrow.array(np.arange(start, stop, dtype=np.uint32)),
                arrow.FixedSizeListArray.from_arrays(flat, columns, mask=mask),
                arrow.array([rejected[i].reason if i in rejected else None for i in places], arrow.string()),
                arrow.array([rejected[i].detail if i in rejected else None for i in places], arrow.string()),
                arrow.array(reply.token_counts[start:stop]),
                arrow.array(reply.truncated[start:stop]),
            ]
            writer.write_batch(arrow.record_batch(batch, schema=schema))
            yield sink.take()
    yield sink.take()


def arrow_library() -> Any:
    """Return pyarrow.

    Raises:
        RefusedError: it is not installed where the gateway runs.
    """
    try:
        import pyarrow  # noqa: PLC0415  takes a fifth of a second, and a gateway without it serves all else
        import pyarrow.ipc  # noqa: PLC0415
    except ImportError:
        reason = f"This gateway has no pyarrow (extra reindex) and sends no {ARROW}; accept {JSON} or {RAW}"
        raise RefusedError(Kind.NOT_ACCEPTABLE, reason) from None
    return pyarrow


class _Sink:
    """A file that hands over what was written to it."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        """Keep a copy of the data."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: what was written is still to be taken."""

    def take(self) -> bytes:
        """Return what was written since the last time."""
        data, self._parts = b"".join(self._parts), []
        return data


def usage(reply: EmbeddingReply, max_tokens: int) -> int:
    """Return the tokens that the model has read: what was cut off does not count."""
    return int(np.minimum(reply.token_counts, max_tokens).sum())
