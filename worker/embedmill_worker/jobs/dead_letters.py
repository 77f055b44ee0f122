"""Dead letters of the texts in a chunk that were rejected through a worker's fault."""

from __future__ import annotations

from typing import Any, Final

from embedmill.errors import MessageError
from embedmill.protocol import dead_letter
from embedmill.protocol.chunks import ChunkReply, unpack_chunk
from embedmill.protocol.options import EmbedOptions, unpack_options
from embedmill.reply import Reason
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import ChunkRef

#: Reasons that are a worker's fault and leave a dead letter. The caller's own faults are in the reply only.
_FAULTS: Final = (Reason.CRASHED, Reason.FAILED, Reason.WORKERS_LOST, Reason.NOT_FINITE)


def letters(ref: ChunkRef, work: claims.Work, reply: ChunkReply, *, worker: str, keep: bool) -> list[bytes]:
    """Return the packed dead letters of a chunk, with their texts if ``keep`` is set."""
    common: dict[str, Any] = {
        "job_id": ref.job_id,
        "chunk": ref.chunk,
        "model": ref.model,
        "lane": ref.lane,
        "worker": worker,
    }
    try:
        chunk, options = unpack_chunk(work.texts), unpack_options(work.options)
    except MessageError as error:
        return [_of_chunk(work.texts, str(error), common)]
    if reply.rejected and reply.rejected[0].reason == Reason.UNSUPPORTED:
        return [_of_chunk(work.texts, reply.rejected[0].detail, common | {"options": options})]
    positions = {int(index): position for position, index in enumerate(chunk.indices)}
    packed = []
    for rejected in reply.rejected:
        if rejected.reason not in _FAULTS:
            continue
        position = positions[rejected.index]
        letter = dead_letter.of_text(
            chunk.texts[position],
            keep=keep,
            index=rejected.index,
            reason=str(rejected.reason),
            detail=rejected.detail,
            attempts=_attempts(work, position, rejected.reason),
            options=options,
            **common,
        )
        packed.append(dead_letter.pack(letter))
    return packed


def _of_chunk(payload: bytes, detail: str, common: dict[str, Any]) -> bytes:
    options = common.get("options", EmbedOptions())
    known = common | {"reason": str(Reason.UNSUPPORTED), "detail": detail, "attempts": 0, "options": options}
    return dead_letter.pack(dead_letter.of_chunk(payload, **known))


def _attempts(work: claims.Work, position: int, reason: str) -> int:
    match reason:
        case Reason.CRASHED:
            return work.crashes_alone.get(position, 0)
        case Reason.WORKERS_LOST:
            return max(work.losses, work.losses_alone.get(position, 0))
    return 1
