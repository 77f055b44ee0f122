"""The embedding cache: a Redis of its own that all workers share, and an engine that asks it first.

It may never harm the work: a worker does without it whenever it does not answer at once, and for half a minute after
that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from embedmill.errors import EmbedError, SettingsError
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.safe.utf8 import is_unicode
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Flow, RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill.urls import mask_url
from embedmill_worker.cache import cache_entry
from embedmill_worker.cache.cache_entry import CacheEntry
from embedmill_worker.engine.engine import Embeddings, Engine

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that one round trip may take; a forward pass is not worth more.
REPLY_S: Final = 0.25

#: Seconds for the look at start.
CHECK_S: Final = 5.0

#: Seconds for which a cache that did not answer is left alone.
QUIET_S: Final = 30.0

POLICY: Final = "allkeys-lfu"

#: Tokens a second of a core above which computing takes no longer than asking: tables of word vectors.
TABLE_TOKENS_PER_S: Final = 200_000.0


class EmbeddingCache:
    """Entries by the hash of fingerprint, runtime, input type and text. Usable on both sides of a fork."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url_masked = mask_url(url)
        self._link = RedisTransport(ClientSettings(redis_url=url, url_name="EMBEDMILL_CACHE_URL", namespace=namespace))
        self._keys = Keyspace(namespace)
        self._quiet_until_s = 0.0
        self._queue: dict[str, str] = {}
        self._is_checked = False

    def check(self, queue: dict[str, str]) -> None:
        """Look at the server; one that does not answer is a warning, and is looked at before its first use.

        Args:
            queue: what ``read_info`` tells of the queue's server.

        Raises:
            SettingsError: it is the queue's own server, or it would not forget what is used least.
        """
        self._queue = queue
        try:
            found = self._link.run(read_info(), timeout_s=CHECK_S, outage_s=0.0)
        except EmbedError as error:
            log.warning("the embedding cache is left out for now: %s", error, extra={"action": "cache"})
            return
        if fault := fault_of(found, queue):
            raise SettingsError("EMBEDMILL_CACHE_URL", self._url_masked, fault)
        self._is_checked = True

    def read(self, hashes: Sequence[bytes], dimension: int) -> list[CacheEntry | None]:
        """Return the entries of these hashes, None for those that are not there or damaged."""
        keys = [self._keys.cache_entry(hash) for hash in hashes]
        values = self._run(_read(keys)) if keys else []
        if not isinstance(values, list) or len(values) != len(hashes):
            return [None] * len(hashes)
        pairs = zip(values, hashes, strict=True)
        return [cache_entry.unpack(value, hash, dimension=dimension) for value, hash in pairs]

    def write(self, entries: Sequence[tuple[bytes, CacheEntry]]) -> None:
        """Put entries, in the place of older or damaged ones."""
        if entries:
            packed = [(self._keys.cache_entry(hash), cache_entry.pack(entry, hash)) for hash, entry in entries]
            self._run(_write(packed))

    def _run(self, flow: Flow[T]) -> T | None:
        if time.monotonic() < self._quiet_until_s:
            return None
        try:
            if not self._is_checked and not self._is_fit():
                return None
            return self._link.run(flow, timeout_s=REPLY_S, outage_s=0.0)
        except EmbedError as error:
            self._quiet_until_s = time.monotonic() + QUIET_S
            log.warning("the embedding cache is left out for %.0f s: %s", QUIET_S, error, extra={"action": "cache"})
            return None

    def _is_fit(self) -> bool:
        """Look at a server that was away at the start."""
        if fault := fault_of(self._link.run(read_info(), timeout_s=REPLY_S, outage_s=0.0), self._queue):
            self._quiet_until_s = float("inf")
            log.error("the embedding cache at %s is left out: %s", self._url_masked, fault, extra={"action": "cache"})
            return False
        self._is_checked = True
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEngine:
    """An engine that asks the cache first; to those who use it, an engine."""

    engine: Engine
    cache: EmbeddingCache
    #: One text at a time, whatever the model's class: see ``EMBEDMILL_EXACT``.
    is_exact: bool = False

    @property
    def card(self) -> ModelCard:
        """See ``Engine``."""
        return self.engine.card

    @property
    def runtime(self) -> str:
        """See ``Engine``."""
        return self.engine.runtime

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """Embed texts; see ``Engine.embed``. What the cache has is not computed, and the rest is put into it."""
        began_s = time.perf_counter()
        hashes = [self._hash(text, input_type) for text in texts]
        found = self._find(hashes, truncate=truncate)
        missing = [i for i, entry in enumerate(found) if entry is None]
        looked_ms = (time.perf_counter() - began_s) * 1000
        log.debug("cache: %d of %d texts found", len(texts) - len(missing), len(texts), extra={"action": "cache"})
        parts = []
        if len(missing) < len(texts):
            parts.append(([i for i, entry in enumerate(found) if entry is not None], _embeddings(found, looked_ms)))
        if missing or not texts:
            made = self.engine.embed([texts[i] for i in missing], input_type=input_type, truncate=truncate)
            self._keep([hashes[i] for i in missing], made)
            parts.append((missing, made))
        return Embeddings.join(parts)

    def _hash(self, text: str, input_type: str | None) -> bytes | None:
        if not is_unicode(text):
            return None
        card = self.card
        bits = "exact" if self.is_exact else card.batch_class
        return cache_entry.hash_of(
            text, fingerprint=card.fingerprint, runtime=self.runtime, bits=bits, input_type=input_type
        )

    def _find(self, hashes: Sequence[bytes | None], *, truncate: bool) -> list[CacheEntry | None]:
        wanted = list(dict.fromkeys(hash for hash in hashes if hash is not None))
        read = dict(zip(wanted, self.cache.read(wanted, self.card.dimension), strict=True))
        found = [read.get(hash) if hash is not None else None for hash in hashes]
        # The engine rejects texts that are too long, if it is to.
        return [entry if entry is not None and (truncate or not entry.is_truncated) else None for entry in found]

    def _keep(self, hashes: Sequence[bytes | None], made: Embeddings) -> None:
        rejected = {one.index for one in made.rejected}
        entries = {
            hash: CacheEntry(
                vector=made.vectors[i],
                token_count=int(made.token_counts[i]),
                is_truncated=bool(made.truncated[i]),
            )
            for i, hash in enumerate(hashes)
            if hash is not None and i not in rejected
        }
        self.cache.write(list(entries.items()))


def _embeddings(found: Sequence[CacheEntry | None], looked_ms: float) -> Embeddings:
    """Return the entries that were found, at least one, in their order."""
    entries = [entry for entry in found if entry is not None]
    return Embeddings(
        vectors=np.stack([entry.vector for entry in entries]),
        token_counts=np.array([entry.token_count for entry in entries], dtype=np.uint32),
        truncated=np.array([entry.is_truncated for entry in entries], dtype=np.bool_),
        tokenize_ms=looked_ms,
    )


def fault_of(found: dict[str, str], queue: dict[str, str]) -> str:
    """Return why a server cannot be the cache, by what it and the queue's say of themselves; "": it can."""
    if found.get("run_id") and found.get("run_id") == queue.get("run_id"):
        return "it is the queue's own server, which must forget nothing; start another one for the cache"
    if found.get("maxmemory", "0") == "0":
        return "its maxmemory is 0, so it would grow for ever; give it one, as in CONFIG SET maxmemory 1gb"
    policy = found.get("maxmemory_policy", "unknown")
    if policy != POLICY:
        way_out = f"CONFIG SET maxmemory-policy {POLICY}"
        return f"its maxmemory-policy is {policy}; it must forget what is used least: {way_out}"
    return ""


def read_info() -> Flow[dict[str, str]]:
    """Read what a server says of itself: ``run_id``, ``maxmemory``, ``maxmemory_policy`` and more."""
    replies = yield RoundTrip([("INFO", "server"), ("INFO", "memory")])
    texts = [reply.decode("utf-8", "replace") for reply in replies if isinstance(reply, bytes)]
    lines = [line for text in texts for line in text.splitlines()]
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _read(keys: Sequence[str]) -> Flow[Any]:
    (values,) = yield RoundTrip([("MGET", *keys)])
    return values


def _write(entries: Sequence[tuple[str, bytes]]) -> Flow[None]:
    yield RoundTrip([("SET", key, value) for key, value in entries])
