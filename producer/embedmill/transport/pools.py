"""Connection pools for a URL of Redis: a server over TCP, TLS or a unix socket, or the master that sentinels watch."""

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

#: Seconds that one reply may take, besides the seconds that Redis was asked to block.
REPLY_S: Final = 5.0

#: Most connections of a client, as each waiting thread holds one. Redis allows 10,000 by default; redis-py only 100.
MAX_CONNECTIONS: Final = 10_000


class _Deadline(threading.local):
    """The deadline of the call that this thread is in, on the monotonic clock."""

    at_s: float = float("inf")

    def left_s(self, at_most: float) -> float:
        return max(0.001, min(at_most, self.at_s - time.monotonic()))


deadline: Final = _Deadline()


def _in_time(base: type[Any]) -> type[Any]:
    """Return a connection class that connects and reads within the deadline of the call that uses it."""

    def left_s(_: Any) -> float:
        return deadline.left_s(REPLY_S)

    def ignore(_: Any, value: float | None) -> None:
        """Ignore the value that redis-py sets: the deadline decides."""

    timeout = property(left_s, ignore)
    return type(f"InTime{base.__name__}", (base,), {"socket_timeout": timeout, "socket_connect_timeout": timeout})


_CONNECTIONS: Final = {
    "redis": _in_time(Connection),
    "rediss": _in_time(SSLConnection),
    "unix": _in_time(UnixDomainSocketConnection),
    "redis+sentinel": _in_time(SentinelManagedConnection),
    "rediss+sentinel": _in_time(SentinelManagedSSLConnection),
}

#: Timeout of one sentinel in seconds; the next one is asked after it.
SENTINEL_S: Final = 1.0


def make_pool(settings: ClientSettings) -> ConnectionPool:
    """Make an empty pool of connections that keep the caller's deadline.

    Raises:
        SettingsError: the URL has an option that redis-py does not know, or names a file that cannot be read.
    """
    with naming({"redis_url": settings.url_name}):
        return _make_pool(settings.redis_url)


def _make_pool(url: str) -> ConnectionPool:
    connection_class = _CONNECTIONS[url.partition(":")[0]]
    options = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "max_connections": MAX_CONNECTIONS}
    try:
        if is_sentinel(url):
            address = read_sentinel(url)
            parsed = _checked(url, parse_url(address.direct_url))
            sentinel = Sentinel(address.hosts, sentinel_kwargs=sentinel_options(address, parsed))
            pool: ConnectionPool = SentinelConnectionPool(
                address.master, sentinel, connection_class=connection_class, **master_options(parsed), **options
            )
        else:
            _checked(url, parse_url(url))
            pool = ConnectionPool.from_url(url, decode_responses=False, **options)
            pool.connection_class = connection_class
        pool.make_connection()  # does not connect, but raises TypeError for unknown options
    except SettingsError:
        raise
    except (ValueError, TypeError):
        reason = "an option after the ? is unknown, or its value cannot be read"
        raise SettingsError("redis_url", mask_url(url), reason) from None
    return pool


def master_options(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a connection to the master, all but its address."""
    return {name: value for name, value in parsed.items() if name not in ("host", "port", "connection_class")}


def sentinel_options(address: SentinelAddress, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a connection to a sentinel: its own login, the master's TLS, and a short timeout."""
    tls = {name: value for name, value in parsed.items() if name.startswith("ssl_")}
    timeouts = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    once = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    return {**address.sentinel_login, **tls, **timeouts, **once, **({"ssl": True} if address.tls else {})}


def _checked(url: str, parsed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a URL if the files that they name can be read."""
    for name in FILE_OPTIONS:
        if name in parsed and not (os.access(parsed[name], os.R_OK) and Path(parsed[name]).is_file()):
            reason = f"{name} is not a file that can be read: {parsed[name]}"
            raise SettingsError("redis_url", mask_url(url), reason)
    return parsed
