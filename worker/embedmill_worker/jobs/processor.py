"""Processing of one doorbell: claim a chunk, embed it, commit the reply, and go on with the next one."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from embedmill.errors import InvalidRequestError, KeyConflictError, MessageError, QueueError
from embedmill.jobs.discovery import look_around
from embedmill.limits import MAX_LOSSES, MAX_TEXT_CRASHES
from embedmill.protocol import vectors
from embedmill.protocol.chunks import Chunk, ChunkReply, pack_reply, unpack_chunk
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions, unpack_options
from embedmill.reply import Reason, Rejected
from embedmill.safe.native import STOPS
from embedmill.transport.flow import Command, Flow, RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill_worker.engine.engine import Embedder, Embeddings
from embedmill_worker.jobs import claims, dead_letters, isolation
from embedmill_worker.jobs.claims import Bell, ChunkRef, Claimant, Nothing, Policy

log = logging.getLogger(__name__)

#: Timeout of a claim or commit in seconds; if one is lost, the reconciler finds its chunk.
REDIS_TIMEOUT_S: Final = 10.0

#: Pause in seconds after a claim that found only work of another fingerprint, so that it is not asked for at once.
OTHER_FINGERPRINT_PAUSE_S: Final = 0.2


#: Seconds for which a child goes on with the next chunk of a lane by one doorbell. It saves the round trips of a
#: message through Redis and Celery. Messages in other queues, and a stop of the worker, end it with the chunk under
#: work.
GOING_ON_S: Final = 2.0


class ClaimGoneError(Exception):
    """The chunk is no longer claimed by this worker: its job was cancelled, or it was given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkProcessor:
    """Processor of chunks in a child process."""

    link: RedisTransport
    keys: Keyspace
    worker_id: str
    #: Whether dead letters store their texts.
    keeps_texts: bool = False
    policy: Policy = field(default_factory=Policy)
    #: All queues of this worker.
    queues: tuple[str, ...] = ()
    is_stopping: Callable[[], bool] = bool

    def work(self, bell: Bell, engine: Embedder) -> None:
        """Process the next chunks of the lane that has rung; do nothing if there is none.

        Raises:
            QueueError: Redis did not answer, or gave an unexpected answer; the reconciler re-queues the chunk.
        """
        claim = self._claim(bell, engine.card.fingerprint)
        if isinstance(claim, claims.OtherFingerprint):
            self._reject_if_unserved(bell, engine, claim)
            return
        if isinstance(claim, Nothing):
            log.debug("doorbell %s found no work", bell.token, extra={"action": "no_work"})
        until_s = time.monotonic() + GOING_ON_S
        while isinstance(claim, claims.Work | claims.Late):
            # Where nothing waited, no more is asked for: what comes meanwhile rings by itself.
            has_more = isinstance(claim, claims.Late) or claim.n_open > 0
            claim = self._process(claim, engine, until_s=until_s if has_more else 0.0)

    def _reject_if_unserved(self, bell: Bell, engine: Embedder, other: claims.OtherFingerprint) -> None:
        claim: claims.Claim = other
        if not self._is_served(bell.model, other.pinned):
            claim = self._claim(bell, other.raw, wants_pinned=True)
        if isinstance(claim, claims.Work | claims.Late):
            self._process(claim, engine, pinned=other.pinned)
        elif isinstance(claim, claims.OtherFingerprint):
            time.sleep(OTHER_FINGERPRINT_PAUSE_S)  # the lane has been rung for its workers

    def _claim(self, bell: Bell, fingerprint: str | bytes, *, wants_pinned: bool = False) -> claims.Claim:
        claimant = Claimant(
            bell=bell,
            worker_id=self.worker_id,
            fingerprint=fingerprint,
            policy=self.policy,
            wants_pinned=wants_pinned,
        )
        return self.link.run(claims.claim(self.keys, claimant), timeout_s=REDIS_TIMEOUT_S)

    def _process(
        self, claim: claims.Work | claims.Late, engine: Embedder, *, pinned: str = "", until_s: float = 0.0
    ) -> claims.Claim:
        """Process a claimed chunk, and claim the next one unless ``until_s`` is past.

        A failure is counted for the chunk like a lost worker, so that retries end.
        """
        try:
            return self._embed_and_commit(claim, engine, pinned, until_s)
        except (*STOPS, QueueError):
            raise
        except BaseException as error:  # its message may hold a text and is not logged
            log.error(
                "processing of chunk %s failed (%s); chunk re-queued, at most %d times",
                claim.ref,
                type(error).__name__,
                MAX_LOSSES,
                extra={"action": "failed"},
            )
            self._give_back(claim.ref, "lost")
            return Nothing()

    def _embed_and_commit(
        self, claim: claims.Work | claims.Late, engine: Embedder, pinned: str, until_s: float
    ) -> claims.Claim:
        ref = claim.ref
        log.debug("chunk %s claimed by doorbell %s", ref, ref.token, extra={"action": "claimed"})
        if pinned:
            reply = _of_another_model(claim, engine, pinned)
        elif isinstance(claim, claims.Late):
            waited, deadline = f"{claim.waited_ms / 1000:.3f} s", f"{claim.deadline_ms / 1000:.3f} s"
            detail = f"work began {waited} after submission, limit {deadline}"
            reply = _reject_all(claim.texts, claim.options, engine, Reason.DEADLINE, detail)
        else:
            try:
                with alarm(claim.limit_s):
                    reply = self._embed(ref, engine, claim)
            except ClaimGoneError:
                log.debug("chunk %s dropped: this worker no longer holds it", ref, extra={"action": "claim_gone"})
                self._give_back(ref, "refused")  # frees the token; a job that is over gets nothing back
                return Nothing()
        letters: list[bytes] = []
        is_unreadable = not len(reply.indices)
        # A chunk whose rejection has failed before leaves no dead letters.
        is_tried = isinstance(claim, claims.Work) and not pinned and claim.losses <= MAX_LOSSES
        if isinstance(claim, claims.Work) and is_tried and (reply.rejected or is_unreadable):
            letters = dead_letters.letters(ref, claim, reply, worker=self.worker_id, keep=self.keeps_texts)
        is_wanted, following = self._commit(ref, reply, letters, engine.card.fingerprint, until_s)
        if is_wanted and letters:
            log.warning(
                "chunk %s left %d dead letters: see embedmill dead list",
                ref,
                len(letters),
                extra={"action": "dead_letter"},
            )
        return following

    def _commit(
        self, ref: ChunkRef, reply: ChunkReply, letters: list[bytes], fingerprint: str, until_s: float
    ) -> tuple[bool, claims.Claim]:
        bell = Bell(model=ref.model, lane=ref.lane, token=ref.token)
        own = self.keys.queue(ref.model, ref.lane)
        claimant = Claimant(
            bell=bell,
            worker_id=self.worker_id,
            fingerprint=fingerprint,
            policy=self.policy,
            yields_to=tuple(queue for queue in self.queues if queue != own),
        )
        packed = pack_reply(reply)
        following: claims.Claim = Nothing()
        try:
            if time.monotonic() < until_s and not self.is_stopping():
                both = claims.commit_and_claim(self.keys, ref, packed, letters, claimant)
                is_wanted, following = self.link.run(both, timeout_s=REDIS_TIMEOUT_S, outage_s=REDIS_TIMEOUT_S)
            else:
                commit = claims.commit(self.keys, ref, packed, letters, max_flight=self.policy.max_flight)
                is_wanted = self.link.run(commit, timeout_s=REDIS_TIMEOUT_S, outage_s=REDIS_TIMEOUT_S)
        except KeyConflictError:  # not counted against the chunk: none of its texts caused it
            self._give_back(ref, "refused")
            raise
        if is_wanted:
            log.debug("chunk %s is done: %d texts", ref, len(reply.indices), extra={"action": "committed"})
        return is_wanted, following

    def _give_back(self, ref: ChunkRef, why: str) -> None:
        self.link.run(_one(claims.give_back(self.keys, ref, why)), timeout_s=REDIS_TIMEOUT_S)

    def _embed(self, ref: ChunkRef, engine: Embedder, work: claims.Work) -> ChunkReply:
        if work.losses >= MAX_LOSSES:
            detail = (
                f"its chunk was tried {work.losses} times, limit {MAX_LOSSES}, and each time failed or lost its process"
            )
            return _reject_all(work.texts, work.options, engine, Reason.WORKERS_LOST, detail)
        try:
            options = unpack_options(work.options)
            chunk = unpack_chunk(work.texts)
            engine.card.check(options)
        except (MessageError, InvalidRequestError) as error:
            return _reject_all(work.texts, work.options, engine, Reason.UNSUPPORTED, str(error))
        embeddings = None if work.is_suspect else isolation.embed_together(engine, chunk.texts, options)
        if embeddings is None:

            def before(position: int) -> Rejected | None:
                rejected = _given_up(work, position)
                if rejected is None:
                    self._note(ref, position)
                return rejected

            embeddings = isolation.embed_alone(engine, chunk.texts, options, before)
            self._note(ref, None)  # failures from here on are not a single text's fault
        return to_reply(embeddings, chunk, options, engine, work.waited_ms)

    def _note(self, ref: ChunkRef, position: int | None) -> None:
        if not self.link.run(claims.note_position(self.keys, ref, position), timeout_s=REDIS_TIMEOUT_S):
            raise ClaimGoneError

    def _is_served(self, model: str, fingerprint: str) -> bool:
        landscape = self.link.run(look_around(self.keys), timeout_s=REDIS_TIMEOUT_S)
        return any(worker.models.get(model) == fingerprint for worker in landscape.workers)


def _one(command: Command) -> Flow[Any]:
    (reply,) = yield RoundTrip([command])
    return reply


@contextmanager
def alarm(limit_s: float) -> Iterator[None]:
    """End this process, by the kernel, if the block takes longer than ``limit_s``, even in native code; 0: never.

    The main process sees a child that crashed. Celery's own limit, which does not know the chunk, is longer.
    """
    before = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def _given_up(work: claims.Work, position: int) -> Rejected | None:
    """Return the rejection of a text that is not tried again; None if it is tried."""
    crashes, losses = work.crashes_alone.get(position, 0), work.losses_alone.get(position, 0)
    if crashes >= MAX_TEXT_CRASHES:
        detail = f"its process died {crashes} times while it was embedded alone, limit {MAX_TEXT_CRASHES}"
        return Rejected(index=position, reason=Reason.CRASHED, detail=detail)
    if losses >= MAX_LOSSES:
        detail = f"it was embedded alone {losses} times, limit {MAX_LOSSES}, and each time failed or lost its process"
        return Rejected(index=position, reason=Reason.WORKERS_LOST, detail=detail)
    return None


def to_reply(
    embeddings: Embeddings, chunk: Chunk, options: EmbedOptions, engine: Embedder, waited_ms: float
) -> ChunkReply:
    """Return the reply for embeddings whose rows are cut as the job asked."""
    return ChunkReply(
        indices=chunk.indices,
        vectors=vectors.to_bytes(embeddings.vectors, options.dtype),
        dtype=options.dtype,
        dimension=embeddings.vectors.shape[1],
        token_counts=embeddings.token_counts,
        truncated=embeddings.truncated,
        rejected=tuple(replace(one, index=int(chunk.indices[one.index])) for one in embeddings.rejected),
        fingerprint=engine.card.fingerprint,
        runtime=engine.runtime,
        timings_ms={
            "queue": waited_ms,
            "tokenization": embeddings.tokenize_ms,
            "inference": embeddings.inference_ms,
        },
    )


def _of_another_model(claim: claims.Work | claims.Late, engine: Embedder, pinned: str) -> ChunkReply:
    """Reject a chunk whose job is pinned to a fingerprint that no live worker serves."""
    detail = f"its job was begun with fingerprint {pinned}, which no worker serves any more; submit it again"
    reply = _reject_all(claim.texts, claim.options, engine, Reason.MODEL_CHANGED, detail)
    return replace(reply, fingerprint=pinned)


def _reject_all(texts: bytes, options: bytes, engine: Embedder, reason: Reason, detail: str) -> ChunkReply:
    """Reject a chunk without a forward pass. If it is unreadable, the client rejects the rows that are missing."""
    try:
        wanted = unpack_options(options)
    except MessageError:
        wanted = EmbedOptions()
    try:
        chunk = unpack_chunk(texts)
    except MessageError:
        chunk = Chunk(indices=np.zeros(0, dtype=np.uint32), texts=())
    count, dimension = len(chunk.texts), wanted.dimensions or engine.card.dimension
    return ChunkReply(
        indices=chunk.indices,
        vectors=vectors.blank(count, wanted.dtype, dimension).tobytes(),
        dtype=wanted.dtype,
        dimension=dimension,
        token_counts=np.zeros(count, dtype=np.uint32),
        truncated=np.zeros(count, dtype=np.bool_),
        rejected=tuple(Rejected(index=int(i), reason=reason, detail=detail) for i in chunk.indices),
        fingerprint=engine.card.fingerprint,
        runtime=engine.runtime,
        timings_ms={},
    )
