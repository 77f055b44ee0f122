"""The name of every Redis key of the project; no other module spells one.

All keys are in one namespace, by default ``embedmill``:

    {ns}:models                       hash    model name → card (JSON). Permanent.
    {ns}:lanes                        set     "model lane" of every lane in use; the reconciler removes a lane that is
                                              empty and whose model no worker serves.
    {ns}:lane:{model}:{lane}          hash    chunks, texts and tokens not yet committed, bytes of their
                                              vectors. Lives as long as its lane.
    {ns}:drain:{model}:{lane}         hash    tokens ever drained; tokens and clock, ms, at the last sweep, and the
                                              rate, tokens/s, between two sweeps; the position of a running sweep
                                              and what it has counted. Lives as long as its lane.
    {ns}:active:{model}:{lane}        zset    job id → submission time, ms; unfinished jobs only
    {ns}:workers                      zset    worker id → last heartbeat, ms
    {ns}:worker:{worker}              string  the worker's entry (JSON), which is its liveness key
    {ns}:lock:reconciler              string  worker id of the one reconciler; .v2, … for later protocol versions
    {ns}:rate:{caller}:{minute}       string  tokens that an API key of the gateway has used in a minute; two minutes
    {ns}:entry:{id}                   hash    what a gateway keeps of a job beside its record: its request's hash, its
                                              webhook with the secret, how it ended; 30 days: gateway/jobs/entries.py
    {ns}:entries:{owner}              zset    job id → submission time, ms, of an API key's jobs; the newest 10,000
    {ns}:outbox                       zset    job id → when, ms, a gateway next looks whether the job has ended, or
                                              next sends its webhook
    {ns}:dead                         stream  l: a dead letter; the newest 10,000, none older than 30 days

A job's keys live ``UNFINISHED_TTL_S`` until its last commit and ``ttl_s`` after it:

    {ns}:job:{id}                     hash    the record: see submit.lua
    {ns}:job:{id}:texts               hash    chunk → packed texts; deleted by the chunk's commit
    {ns}:job:{id}:weights             string  8 bytes a chunk: texts and tokens, uint32 little-endian
    {ns}:job:{id}:claims              hash    chunk → "worker token pid"; "chunk:at" → text being embedded
    {ns}:job:{id}:crashes             hash    "chunk" → crashes, "chunk:lost" → losses; "chunk:text…": of a text alone
    {ns}:job:{id}:replies             hash    chunk → packed reply
    {ns}:job:{id}:events              stream  c: number of a finished chunk, or s: the job's last state
    {ns}:job:{id}:staged:{nonce}      hash    texts of a job being submitted; ten minutes

The embedding cache is in a Redis of its own, which evicts what is used least:

    {ns}:cache:{hash}                 string  a text's embedding: see cache_entry.py. The hash is of fingerprint,
                                              runtime, input type and text

Celery's own keys are in the namespace as well:

    {ns}.{model}.{lane}               list    doorbells of a lane, the messages that tell workers of a chunk; .v2, …
                                              for later protocol versions
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
    """Return the suffix of keys that each protocol version has for itself; empty for the first version."""
    return "" if version.PROTOCOL_VERSION == 1 else f".v{version.PROTOCOL_VERSION}"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one namespace."""

    namespace: str

    @property
    def models(self) -> str:
        """Key of the model cards."""
        return f"{self.namespace}:models"

    @property
    def lanes(self) -> str:
        """Key of the set of lanes in use."""
        return f"{self.namespace}:lanes"

    @property
    def workers(self) -> str:
        """Key of the worker ids and their last heartbeats."""
        return f"{self.namespace}:workers"

    @property
    def job_prefix(self) -> str:
        """Prefix of a job record's key, before the job's id."""
        return f"{self.namespace}:job:"

    @property
    def worker_prefix(self) -> str:
        """Prefix of a liveness key, before the worker's id."""
        return f"{self.namespace}:worker:"

    @property
    def reconciler_lock(self) -> str:
        """Key of the lock that one reconciler holds for this protocol version."""
        return f"{self.namespace}:lock:reconciler{_of_version()}"

    @property
    def dead(self) -> str:
        """Key of the dead letters."""
        return f"{self.namespace}:dead"

    @property
    def outbox(self) -> str:
        """Key of the jobs whose end, or whose webhook, gateways wait for."""
        return f"{self.namespace}:outbox"

    @property
    def embed_queue(self) -> str:
        """Queue of the task ``embedmill.embed``."""
        return f"{self.namespace}.embed"

    @property
    def unacked(self) -> str:
        """Celery's key of the deliveries of ``embedmill.embed`` that are not yet acknowledged."""
        return f"{self.namespace}.unacked"

    def worker(self, worker_id: str) -> str:
        """Return the liveness key of a worker."""
        return self.worker_prefix + worker_id

    def lane(self, model: str, lane: str) -> str:
        """Return the key of a lane's counters of work that is not yet committed."""
        return f"{self.namespace}:lane:{model}:{lane}"

    def drain(self, model: str, lane: str) -> str:
        """Return the key of a lane's drain rate."""
        return f"{self.namespace}:drain:{model}:{lane}"

    def active(self, model: str, lane: str) -> str:
        """Return the key of a lane's unfinished jobs."""
        return f"{self.namespace}:active:{model}:{lane}"

    def queue(self, model: str, lane: str) -> str:
        """Return the name of a lane's Celery queue, which holds its doorbells. Each protocol version has its own."""
        return f"{self.namespace}.{model}.{lane}{_of_version()}"

    def job(self, job_id: str) -> str:
        """Return the key of a job's record."""
        return self.job_prefix + job_id

    def texts(self, job_id: str) -> str:
        """Return the key of a job's chunks that are not yet committed."""
        return f"{self.job(job_id)}:texts"

    def claims(self, job_id: str) -> str:
        """Return the key of the claims: which worker processes which chunk."""
        return f"{self.job(job_id)}:claims"

    def crashes(self, job_id: str) -> str:
        """Return the key of the crashes and losses of a job's chunks."""
        return f"{self.job(job_id)}:crashes"

    def replies(self, job_id: str) -> str:
        """Return the key of the replies to committed chunks."""
        return f"{self.job(job_id)}:replies"

    def events(self, job_id: str) -> str:
        """Return the key of a job's event stream."""
        return f"{self.job(job_id)}:events"

    def staged(self, job_id: str, nonce: str) -> str:
        """Return the key of the texts of a job that is being submitted."""
        return f"{self.job(job_id)}:staged:{nonce}"

    def rate(self, caller: str, minute: int) -> str:
        """Return the key of the tokens that an API key of the gateway has used in a minute since 1970."""
        return f"{self.namespace}:rate:{caller}:{minute}"

    def entry(self, job_id: str) -> str:
        """Return the key of what a gateway keeps of a job beside its record."""
        return f"{self.namespace}:entry:{job_id}"

    def entries(self, owner: str) -> str:
        """Return the key of the jobs of an API key of the gateway."""
        return f"{self.namespace}:entries:{owner}"

    def cache_entry(self, hash: bytes) -> str:
        """Return the key of a text's embedding in the cache's own Redis."""
        return f"{self.namespace}:cache:{hash.hex()}"

    def of_job(self, job_id: str, model: str, lane: str) -> tuple[str, ...]:
        """Return the KEYS of every job script, in the order of the names in ``lua/prelude.lua``."""
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
