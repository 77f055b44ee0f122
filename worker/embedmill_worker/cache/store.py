"""The embedding cache: a Redis of its own that all workers share.

It may never harm the work: a worker does without it whenever it does not answer at once, and for half a minute after
that.
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

#: Seconds that one round trip may take; a forward pass is not worth more.
REPLY_S: Final = 0.25

#: Seconds for the look at start.
CHECK_S: Final = 5.0

#: Seconds for which a cache that did not answer is left alone.
QUIET_S: Final = 30.0

POLICY: Final = "allkeys-lfu"


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
