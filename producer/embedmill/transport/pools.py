"""Connections to Redis as a URL names it: one server, by socket or behind TLS, or the master that sentinels watch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from embedmill.errors import SettingsError
from embedmill.settings import ClientSettings, naming
from embedmill.urls import FILE_OPTIONS, SentinelAddress, is_sentinel, mask_url, read_sentinel

#: Seconds one reply may take beyond what was asked of Redis itself.
REPLY_S: Final = 5.0

#: Connections a client: each thread that waits holds one. What a Redis takes by default; redis-py would take 100.
MAX_CONNECTIONS: Final = 10_000


class _Deadline(threading.local):
    """When the call that this thread is in must be over, on the monotonic clock."""

    at_s: float = float("inf")

    def left_s(self, at_most: float) -> float:
        return max(0.001, min(at_most, self.at_s - time.monotonic()))


deadline: Final = _Deadline()


def _in_time(base: type[Any]) -> type[Any]:
    """Return a connection class that connects and reads within the deadline of the call that uses it."""

    def left_s(_: Any) -> float:
        return deadline.left_s(REPLY_S)

    def ignore(_: Any, value: float | None) -> None:
        """The deadline decides."""

    timeout = property(left_s, ignore)
    return type(f"InTime{base.__name__}", (base,), {"socket_timeout": timeout, "socket_connect_timeout": timeout})


_CONNECTIONS: Final = {
    "redis": _in_time(Connection),
    "rediss": _in_time(SSLConnection),
    "unix": _in_time(UnixDomainSocketConnection),
    "redis+sentinel": _in_time(SentinelManagedConnection),
    "rediss+sentinel": _in_time(SentinelManagedSSLConnection),
}

#: Seconds that one sentinel is waited for; there are others.
SENTINEL_S: Final = 1.0


def make_pool(settings: ClientSettings) -> ConnectionPool:
    """Make an empty pool of connections that keep the caller's deadline.

    Raises:
        SettingsError: the URL has an option that redis-py does not take, or names a file that is not there.
    """
    with naming({"redis_url": settings.url_name}):
        return _make_pool(settings.redis_url)


def _make_pool(url: str) -> ConnectionPool:
    connection_class = _CONNECTIONS[url.partition(":")[0]]
    options = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "max_connections": MAX_CONNECTIONS}
    try:
        if is_sentinel(url):
            address = read_sentinel(url)
            told = _checked(url, parse_url(address.direct_url))
            sentinel = Sentinel(address.hosts, sentinel_kwargs=sentinel_options(address, told))
            pool: ConnectionPool = SentinelConnectionPool(
                address.master, sentinel, connection_class=connection_class, **master_options(told), **options
            )
        else:
            _checked(url, parse_url(url))
            pool = ConnectionPool.from_url(url, decode_responses=False, **options)
            pool.connection_class = connection_class
        pool.make_connection()  # connects to nothing, but refuses what it does not know
    except SettingsError:
        raise
    except (ValueError, TypeError):
        reason = "an option after its ? is unknown or has an unreadable value"
        raise SettingsError("redis_url", mask_url(url), reason) from None
    return pool


def master_options(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a connection to the master is made with, whatever its address."""
    return {name: value for name, value in told.items() if name not in ("host", "port", "connection_class")}


def sentinel_options(address: SentinelAddress, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a connection to a sentinel is made with: its own login, the master's TLS, and little patience."""
    tls = {name: value for name, value in told.items() if name.startswith("ssl_")}
    timeouts = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    once = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    return {**address.sentinel_login, **tls, **timeouts, **once, **({"ssl": True} if address.tls else {})}


def _checked(url: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options if the files that they name can be read."""
    for name in FILE_OPTIONS:
        if name in told and not (os.access(told[name], os.R_OK) and Path(told[name]).is_file()):
            reason = f"{name} names no file that can be read: {told[name]}"
            raise SettingsError("redis_url", mask_url(url), reason)
    return told
