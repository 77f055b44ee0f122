"""Celery's settings for a Redis URL: Celery and kombu spell unix sockets, TLS and Sentinel differently. No I/O."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.connection import parse_url

from embedmill.transport.pools import SENTINEL_S
from embedmill.urls import SentinelAddress, is_sentinel, read_sentinel

#: Timeout of one attempt to connect, in seconds.
CONNECT_S: Final = 5

#: Options of kombu for every URL. A connection that a firewall has dropped silently is detected within BRPOP's 1 s plus
#: twice the health check interval; a write to it meanwhile waits no longer than the timeout.
TRANSPORT_OPTIONS: Final = {
    "socket_keepalive": True,
    "socket_connect_timeout": CONNECT_S,
    "socket_timeout": CONNECT_S,
    "health_check_interval": 8,
}


def broker_settings(redis_url: str) -> dict[str, Any]:
    """Return Celery's settings of broker and result backend for a URL."""
    transport_options: dict[str, Any] = dict(TRANSPORT_OPTIONS)
    backend_options: dict[str, Any] = {}
    tls = tls_options(redis_url)
    if is_sentinel(redis_url):
        address = read_sentinel(redis_url)
        named = {"master_name": address.master, "sentinel_kwargs": _sentinel_options(address, tls)}
        transport_options |= named
        backend_options |= named
    url = broker_url(redis_url)
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": transport_options,
        "result_backend_transport_options": backend_options,
        **({"broker_use_ssl": tls, "redis_backend_use_ssl": tls} if tls else {}),
    }


def broker_url(redis_url: str) -> str:
    """Return the URL in kombu's spelling, without the options that go into other settings."""
    if is_sentinel(redis_url):
        address = read_sentinel(redis_url)
        user = quote(address.username or "", safe="")
        login = f"{user}:{quote(address.password, safe='')}@" if address.password is not None else ""
        hosts = ((f"[{host}]" if ":" in host else host, port) for host, port in address.hosts)
        return ";".join(f"sentinel://{login}{host}:{port}/{address.db}" for host, port in hosts)
    parts = urlsplit(redis_url)
    options = parse_qsl(parts.query)
    if parts.scheme == "unix":
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return f"redis+socket://{login}{parts.path}?virtual_host={dict(options).get('db', '0')}"
    kept = [(name, value) for name, value in options if not name.startswith("ssl_")]
    return parts._replace(query=urlencode(kept)).geturl()


def tls_options(redis_url: str) -> dict[str, Any]:
    """Return the TLS options of a URL; empty if it does not use TLS.

    Certificates and host names are verified unless the URL's ``ssl_…`` options turn that off.
    """
    if not redis_url.startswith("rediss"):
        return {}
    url = read_sentinel(redis_url).direct_url if is_sentinel(redis_url) else redis_url
    options = {name: value for name, value in parse_url(url).items() if name.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": options.get("ssl_cert_reqs") != "none", **options}


def _sentinel_options(address: SentinelAddress, tls: dict[str, Any]) -> dict[str, Any]:
    timeouts = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    return {**address.sentinel_login, **timeouts, **tls, **({"ssl": True} if address.tls else {})}
