"""The embedding cache: a separate Redis that all workers share.

It must not slow the work down: if it does not answer at once, a worker does without it for half a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from embedmill.errors import EmbedError, SettingsError
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Flow, RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill.urls import mask_url
from embedmill_worker.cache import cache_entry
from embedmill_worker.cache.cache_entry import CacheEntry

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Timeout of one round trip, in seconds; waiting longer costs more than a forward pass.
REPLY_S: Final = 0.25

#: Timeout of the check at start, in seconds.
CHECK_S: Final = 5.0

#: Seconds for which a cache that did not answer is not used.
QUIET_S: Final = 30.0

POLICY: Final = "allkeys-lfu"


class EmbeddingCache:
    """Cache entries by hash of fingerprint, runtime, input type and text; usable before and after a fork."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url_masked = mask_url(url)
        self._link = RedisTransport(ClientSettings(redis_url=url, url_name="EMBEDMILL_CACHE_URL", namespace=namespace))
        self._keys = Keyspace(namespace)
        self._quiet_until_s = 0.0
        self._queue: dict[str, str] = {}
        self._is_checked = False

    def check(self, queue: dict[str, str]) -> None:
        """Check that the server can be the cache; if it does not answer, warn and check it before its first use.

        Args:
            queue: result of ``read_info`` for the queue's server.

        Raises:
            SettingsError: it is the queue's own server, or it does not evict the least used entries.
        """
        self._queue = queue
        try:
            found = self._link.run(read_info(), timeout_s=CHECK_S, outage_s=0.0)
        except EmbedError as error:
            log.warning("the embedding cache is not used for now: %s", error, extra={"action": "cache"})
            return
        if fault := fault_of(found, queue):
            raise SettingsError("EMBEDMILL_CACHE_URL", self._url_masked, fault)
        self._is_checked = True

    def read(self, hashes: Sequence[bytes], dimension: int) -> list[CacheEntry | None]:
        """Return the entries of these hashes, with None for each that is missing or damaged."""
        keys = [self._keys.cache_entry(hash) for hash in hashes]
        values = self._run(_read(keys)) if keys else []
        if not isinstance(values, list) or len(values) != len(hashes):
            return [None] * len(hashes)
        pairs = zip(values, hashes, strict=True)
        return [cache_entry.unpack(value, hash, dimension=dimension) for value, hash in pairs]

    def write(self, entries: Sequence[tuple[bytes, CacheEntry]]) -> None:
        """Store entries; they replace older or damaged ones."""
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
            log.warning("the embedding cache is not used for %.0f s: %s", QUIET_S, error, extra={"action": "cache"})
            return None

    def _is_fit(self) -> bool:
        """Check a server that did not answer at the start."""
        if fault := fault_of(self._link.run(read_info(), timeout_s=REPLY_S, outage_s=0.0), self._queue):
            self._quiet_until_s = float("inf")
            log.error("the embedding cache at %s is not used: %s", self._url_masked, fault, extra={"action": "cache"})
            return False
        self._is_checked = True
        return True


def fault_of(found: dict[str, str], queue: dict[str, str]) -> str:
    """Return why a server cannot be the cache, from its INFO and that of the queue's server; "" if it can."""
    if found.get("run_id") and found.get("run_id") == queue.get("run_id"):
        return "it is the queue's own server, which must not evict keys; start another server for the cache"
    if found.get("maxmemory", "0") == "0":
        return "its maxmemory is 0, so it would grow without limit; set one, for example: CONFIG SET maxmemory 1gb"
    policy = found.get("maxmemory_policy", "unknown")
    if policy != POLICY:
        hint = f"CONFIG SET maxmemory-policy {POLICY}"
        return f"its maxmemory-policy is {policy}; it must evict the least used keys: {hint}"
    return ""


def read_info() -> Flow[dict[str, str]]:
    """Return a server's INFO: ``run_id``, ``maxmemory``, ``maxmemory_policy`` and more."""
    replies = yield RoundTrip([("INFO", "server"), ("INFO", "memory")])
    texts = [reply.decode("utf-8", "replace") for reply in replies if isinstance(reply, bytes)]
    lines = [line for text in texts for line in text.splitlines()]
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _read(keys: Sequence[str]) -> Flow[Any]:
    (values,) = yield RoundTrip([("MGET", *keys)])
    return values


def _write(entries: Sequence[tuple[str, bytes]]) -> Flow[None]:
    yield RoundTrip([("SET", key, value) for key, value in entries])
