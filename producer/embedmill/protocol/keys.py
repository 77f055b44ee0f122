"""The name of every Redis key of the project; no other module spells one.

All keys are in one namespace, by default ``embedmill``. Those whose meaning depends on the protocol version have it in
their prefix, ``{v}``, which is ``{ns}:v2``:

    {ns}:models                       hash    model name → card (JSON). Permanent.
    {ns}:workers                      zset    worker id → last heartbeat, ms
    {ns}:worker:{worker}              string  the worker's entry (JSON), which is its liveness key
    {ns}:rate:{caller}:{minute}       string  tokens that an API key of the gateway has used in a minute; two minutes
    {ns}:entry:{id}                   hash    what a gateway keeps of a job beside its record: its request's hash, its
                                              webhook with the secret, how it ended; 30 days: gateway/jobs/entries.py
    {ns}:entries:{owner}              zset    job id → submission time, ms, of an API key's jobs; the newest 10,000
    {ns}:outbox                       zset    job id → when, ms, a gateway next looks whether the job has ended, or
                                              next sends its webhook
    {ns}:dead                         stream  l: a dead letter; the newest 10,000, none older than 30 days
    {v}:lock                          string  worker id of the one reconciler
    {v}:lanes                         set     "model lane" of every lane in use; the reconciler removes a lane that is
                                              empty and whose model no worker serves.
    {v}:held                          hash    token → "job chunk texts tokens birth worker pid model lane tenant" of
                                              a chunk under work; "token:at" → position of the text that is alone

A lane's keys live as long as it does:

    {v}:lane:{model}:{lane}           hash    chunks, texts and tokens not yet committed, bytes of their vectors; open:
                                              chunks that nobody has claimed; clock and turn of its order; bells: rung
                                              ever; wanted: doorbells that its workers have use for; admitted and
                                              drained: tokens ever; rate: tokens/s at the last sweep
    {v}:active:{model}:{lane}         zset    job id → submission time, ms; unfinished jobs only
    {v}:turns:{model}:{lane}          zset    tenant with work → tokens that it was served, by its weight
    {v}:ring:{model}:{lane}:{tenant}  zset    job with chunks that nobody has claimed → its turn
    {v}:tenants:{model}:{lane}        zset    tenant → tokens not yet committed
    {v}:flights:{model}:{lane}        zset    tenant → tokens under work, where that has a limit

A job's keys live ``UNFINISHED_TTL_S`` until its end, renewed by claims, and ``ttl_s`` after it:

    {v}:job:{id}                      hash    the record: see submit.lua
    {v}:job:{id}:texts                hash    chunk → its weight and packed texts; deleted by the chunk's commit
    {v}:job:{id}:crashes              hash    "chunk" → crashes, "chunk:lost" → losses; "chunk:text…": of a text alone
    {v}:job:{id}:replies              hash    chunk → packed reply
    {v}:job:{id}:events               stream  c: number of a finished chunk, or s: the job's last state
    {v}:job:{id}:staged:{nonce}       hash    texts of a job being submitted; ten minutes

The embedding cache is in a Redis of its own, which evicts what is used least:

    {ns}:cache:{hash}                 string  a text's embedding: see cache_entry.py. The hash is of fingerprint,
                                              runtime, input type and text

Celery's own keys are in the namespace as well:

    {ns}.v2.{model}.{lane}            list    doorbells of a lane: messages that tell workers that it has work
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


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one namespace."""

    namespace: str

    @property
    def versioned(self) -> str:
        """Prefix of the keys that other protocol versions have for themselves."""
        return f"{self.namespace}:v{version.PROTOCOL_VERSION}"

    @property
    def models(self) -> str:
        """Key of the model cards."""
        return f"{self.namespace}:models"

    @property
    def lanes(self) -> str:
        """Key of the set of lanes in use."""
        return f"{self.versioned}:lanes"

    @property
    def workers(self) -> str:
        """Key of the worker ids and their last heartbeats."""
        return f"{self.namespace}:workers"

    @property
    def job_prefix(self) -> str:
        """Prefix of a job record's key, before the job's id."""
        return f"{self.versioned}:job:"

    @property
    def worker_prefix(self) -> str:
        """Prefix of a liveness key, before the worker's id."""
        return f"{self.namespace}:worker:"

    @property
    def reconciler_lock(self) -> str:
        """Key of the lock that one reconciler holds for this protocol version."""
        return f"{self.versioned}:lock"

    @property
    def held(self) -> str:
        """Key of the chunks under work, by the tokens of their doorbells."""
        return f"{self.versioned}:held"

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
        """Return the key of a lane's numbers."""
        return self._of_lane("lane", model, lane)

    def active(self, model: str, lane: str) -> str:
        """Return the key of a lane's unfinished jobs."""
        return self._of_lane("active", model, lane)

    def turns(self, model: str, lane: str) -> str:
        """Return the key of the order of a lane's tenants."""
        return self._of_lane("turns", model, lane)

    def ring_prefix(self, model: str, lane: str) -> str:
        """Return the prefix of the orders of tenants' jobs in a lane, before the tenant."""
        return self._of_lane("ring", model, lane) + ":"

    def tenants(self, model: str, lane: str) -> str:
        """Return the key of the tokens that wait in a lane, by tenant."""
        return self._of_lane("tenants", model, lane)

    def flights(self, model: str, lane: str) -> str:
        """Return the key of the tokens under work in a lane, by tenant."""
        return self._of_lane("flights", model, lane)

    def queue(self, model: str, lane: str) -> str:
        """Return the name of a lane's Celery queue, which holds its doorbells."""
        return f"{self.namespace}.v{version.PROTOCOL_VERSION}.{model}.{lane}"

    def _of_lane(self, what: str, model: str, lane: str) -> str:
        return f"{self.versioned}:{what}:{model}:{lane}"

    def job(self, job_id: str) -> str:
        """Return the key of a job's record."""
        return self.job_prefix + job_id

    def texts(self, job_id: str) -> str:
        """Return the key of a job's chunks that are not yet committed."""
        return f"{self.job(job_id)}:texts"

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

    def of_job(self, job_id: str, model: str, lane: str, tenant: str) -> tuple[str, ...]:
        """Return the KEYS of every job script, in the order of the names in ``lua/prelude.lua``."""
        return (
            self.job(job_id),
            self.texts(job_id),
            self.crashes(job_id),
            self.replies(job_id),
            self.events(job_id),
            self.held,
            self.lane(model, lane),
            self.active(model, lane),
            self.queue(model, lane),
            self.lanes,
            self.turns(model, lane),
            self.ring_prefix(model, lane) + tenant,
            self.tenants(model, lane),
            self.flights(model, lane),
        )
