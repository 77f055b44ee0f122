"""Every Redis key of the project. Nothing else spells one.

All under one namespace, by default ``embedmill``:

    {ns}:models                       hash    model name → card (JSON). Permanent.
    {ns}:lanes                        set     "model lane" of every lane that was used; a lane is forgotten by a sweep
                                              that finds it empty and its model served by nobody.
    {ns}:lane:{model}:{lane}          hash    chunks, texts, tokens not yet committed, bytes of their
                                              vectors. As long as its lane.
    {ns}:drain:{model}:{lane}         hash    tokens ever drained; drained and clock, ms, at the last sweep, and the
                                              rate, tokens/s, measured from sweep to sweep; how far a sweep under way
                                              is, and what it has counted. As long as its lane.
    {ns}:active:{model}:{lane}        zset    job id → submission time, ms; unfinished jobs only
    {ns}:workers                      zset    worker id → last beat, ms
    {ns}:worker:{worker}              string  what the worker says of itself (JSON); its liveness key
    {ns}:lock:reconciler              string  worker id of the one reconciler; .v2, … for later protocol versions
    {ns}:rate:{caller}:{minute}       string  tokens that an API key of the gateway has used in a minute; two minutes
    {ns}:dead                         stream  l: a dead letter; the newest 10,000, none older than 30 days

A job, living ``UNFINISHED_TTL_S`` until its last commit and ``ttl_s`` after it:

    {ns}:job:{id}                     hash    the record: see submit.lua
    {ns}:job:{id}:texts               hash    chunk → packed texts; deleted by the chunk's commit
    {ns}:job:{id}:weights             string  8 bytes a chunk: texts and tokens, uint32 little-endian
    {ns}:job:{id}:claims              hash    chunk → "worker token pid"; "chunk:at" → text under work
    {ns}:job:{id}:crashes             hash    "chunk" → crashes, "chunk:lost" → losses; "chunk:text…": alone
    {ns}:job:{id}:replies             hash    chunk → packed reply
    {ns}:job:{id}:events              stream  c: a chunk's number, or s: the job's last state
    {ns}:job:{id}:staged:{nonce}      hash    texts of a job being submitted, ten minutes

The embedding cache, in a Redis of its own that forgets what is used least:

    {ns}:cache:{hash}                 string  a text's embedding: see cache_entry.py. The hash is of fingerprint,
                                              runtime, input type and text

Celery's own, all under the namespace as well:

    {ns}.{model}.{lane}               list    doorbells of a lane; .v2, … for later protocol versions
    {ns}.embed                        list    messages of the task embedmill.embed
    {ns}.unacked, .unacked_index, .unacked_mutex      deliveries not yet acknowledged
    _kombu.binding.{ns}*              set     kombu's queue tables. Permanent.
    celery-task-meta-*                string  results of embedmill.embed, one hour
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from embedmill.protocol import version

#: The lanes, in the order in which a worker serves them.
Lane = Literal["interactive", "bulk"]

LANES: Final[tuple[Lane, ...]] = get_args(Lane)


def _of_version() -> str:
    """Return what tells the queues and the reconciler of this protocol version from those of the first."""
    return "" if version.PROTOCOL_VERSION == 1 else f".v{version.PROTOCOL_VERSION}"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one namespace."""

    namespace: str

    @property
    def models(self) -> str:
        """Model cards."""
        return f"{self.namespace}:models"

    @property
    def lanes(self) -> str:
        """Every lane that was used and is not forgotten."""
        return f"{self.namespace}:lanes"

    @property
    def workers(self) -> str:
        """Worker ids and their last beats."""
        return f"{self.namespace}:workers"

    @property
    def job_prefix(self) -> str:
        """What stands before a job's id in its record."""
        return f"{self.namespace}:job:"

    @property
    def worker_prefix(self) -> str:
        """What stands before a worker's id in its liveness key."""
        return f"{self.namespace}:worker:"

    @property
    def reconciler_lock(self) -> str:
        """Who reconciles the jobs of this protocol version."""
        return f"{self.namespace}:lock:reconciler{_of_version()}"

    @property
    def dead(self) -> str:
        """Dead letters."""
        return f"{self.namespace}:dead"

    @property
    def embed_queue(self) -> str:
        """Queue of the task ``embedmill.embed``."""
        return f"{self.namespace}.embed"

    @property
    def unacked(self) -> str:
        """Deliveries of ``embedmill.embed`` that are not yet acknowledged; Celery's own."""
        return f"{self.namespace}.unacked"

    def worker(self, worker_id: str) -> str:
        """A worker's liveness key."""
        return self.worker_prefix + worker_id

    def lane(self, model: str, lane: str) -> str:
        """What a lane has not yet committed."""
        return f"{self.namespace}:lane:{model}:{lane}"

    def drain(self, model: str, lane: str) -> str:
        """How fast a lane's work is done."""
        return f"{self.namespace}:drain:{model}:{lane}"

    def active(self, model: str, lane: str) -> str:
        """Unfinished jobs of a lane."""
        return f"{self.namespace}:active:{model}:{lane}"

    def queue(self, model: str, lane: str) -> str:
        """Doorbells of a lane: the name of its Celery queue. Each protocol version has its own."""
        return f"{self.namespace}.{model}.{lane}{_of_version()}"

    def job(self, job_id: str) -> str:
        """A job's record."""
        return self.job_prefix + job_id

    def texts(self, job_id: str) -> str:
        """Texts of chunks that are not committed."""
        return f"{self.job(job_id)}:texts"

    def claims(self, job_id: str) -> str:
        """Who works on which chunk."""
        return f"{self.job(job_id)}:claims"

    def crashes(self, job_id: str) -> str:
        """Crashes and losses under a chunk."""
        return f"{self.job(job_id)}:crashes"

    def replies(self, job_id: str) -> str:
        """Packed replies of committed chunks."""
        return f"{self.job(job_id)}:replies"

    def events(self, job_id: str) -> str:
        """What happened to a job, in order."""
        return f"{self.job(job_id)}:events"

    def staged(self, job_id: str, nonce: str) -> str:
        """Texts of a job that is not yet visible."""
        return f"{self.job(job_id)}:staged:{nonce}"

    def rate(self, caller: str, minute: int) -> str:
        """Return the key of the tokens that an API key of the gateway has used in a minute since 1970."""
        return f"{self.namespace}:rate:{caller}:{minute}"

    def cache_entry(self, hash: bytes) -> str:
        """A text's embedding, in the cache's own Redis."""
        return f"{self.namespace}:cache:{hash.hex()}"

    def of_job(self, job_id: str, model: str, lane: str) -> tuple[str, ...]:
        """Return KEYS of every job script: the names in ``lua/prelude.lua`` stand in this order."""
        job = self.job(job_id)
        return (
            job,
            self.texts(job_id),
            f"{job}:weights",
            self.claims(job_id),
            self.crashes(job_id),
            self.replies(job_id),
            self.events(job_id),
            self.lane(model, lane),
            self.active(model, lane),
            self.queue(model, lane),
            self.lanes,
            self.drain(model, lane),
        )
