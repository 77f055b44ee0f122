"""URLs of Redis: parsed, checked, and shown without their passwords. No I/O.

    redis://[user:password@]host[:port][/db]               rediss:// for TLS
    unix://[user:password@]/path/of.sock[?db=0]
    redis+sentinel://[user:password@]host[:port][,host…]/master[/db]      rediss+sentinel:// for TLS

The query holds options of redis-py; ``sentinel_username`` and ``sentinel_password`` log in to the sentinels themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from embedmill.errors import SettingsError
from embedmill.safe.printable import kind, printable

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

EXAMPLE: Final = "redis://127.0.0.1:6379/0"

SENTINEL_EXAMPLE: Final = "redis+sentinel://host1:26379,host2:26379/mymaster/0"

SENTINEL_PORT: Final = 26_379

#: Options whose values are paths of files.
FILE_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def mask_url(url: str) -> str:
    """Return the URL with every password in it, those of the query included, replaced by ``***``."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    rest = re.sub(r"(?i)([?&][^=&]*password[^=&]*=)[^&]*", r"\1***", rest)
    # Split at the last @: a password that is not percent-encoded may hold one.
    userinfo, at, place = rest.rpartition("@")
    user = f"{userinfo.partition(':')[0]}:***" if at else ""
    return f"{scheme}{separator}{user}{at}{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelAddress:
    """The addresses of sentinels and the master that they watch."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    tls: bool
    #: Login for the sentinels themselves; ``username`` and ``password`` are for the master.
    sentinel_username: str | None = field(repr=False)
    sentinel_password: str | None = field(repr=False)
    #: All other options of the URL.
    options: Mapping[str, str] = field(repr=False)

    @property
    def sentinel_login(self) -> dict[str, Any]:
        """Arguments that log a connection in to a sentinel."""
        login = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in login.items() if value is not None}

    @property
    def direct_url(self) -> str:
        """A URL with the master's user, database, TLS and options, for parsing; its host is a placeholder."""
        scheme = "rediss" if self.tls else "redis"
        user = quote(self.username or "", safe="")
        login = f"{user}:{quote(self.password, safe='')}@" if self.password is not None else ""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.options.items())
        return f"{scheme}://{login}master/{self.db}{'?' if query else ''}{query}"


def is_sentinel(url: str) -> bool:
    """Return whether a URL names sentinels."""
    return url.partition("://")[0].endswith("+sentinel")


def check_url(url: str) -> str:
    """Return the URL if it has one of the forms that this module lists.

    Raises:
        SettingsError: it has not. The error's name is ``redis_url``; ``settings.naming`` changes it.
    """
    if not isinstance(url, str):
        raise SettingsError("redis_url", kind(url), f"not a URL; write {EXAMPLE}")
    if is_sentinel(url):
        read_sentinel(url)
        return url
    unreadable = _error(url, "it cannot be read as a URL; percent-encode special characters in its password")
    try:
        parts = urlsplit(url)
        has_form = parts.port is None or parts.port > 0
    except ValueError:
        if "," in url.rpartition("@")[2].partition("/")[0]:
            raise _error(url, f"a URL with several hosts must name sentinels: write {SENTINEL_EXAMPLE}") from None
        raise unreadable from None
    if parts.scheme not in SCHEMES:
        raise _error(url, f"its scheme must be one of {', '.join(SCHEMES)}, as in {EXAMPLE}")
    if not has_form or parts.fragment or (parts.scheme != "unix" and "@" in parts.path):
        raise unreadable
    if parts.scheme != "unix" and "," in (parts.hostname or ""):
        raise _error(url, f"a URL with several hosts must name sentinels: write {SENTINEL_EXAMPLE}")
    return url


def read_sentinel(url: str) -> SentinelAddress:
    """Parse a URL that names sentinels.

    Raises:
        SettingsError: the URL cannot be parsed; the error says which part is missing or wrong.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise _error(url, f"its scheme must be one of {', '.join(SCHEMES)}, as in {SENTINEL_EXAMPLE}")
    rest, _, query = rest.partition("?")
    userinfo, _, place = rest.rpartition("@")
    netloc, *path = place.split("/")
    found = [_HOST.fullmatch(host) for host in netloc.split(",")]
    hosts = tuple((match[1].strip("[]"), int(match[2] or SENTINEL_PORT)) for match in found if match)
    if not all(found) or not all(0 < port < 1 << 16 for _, port in hosts):
        raise _error(url, f"its hosts cannot be read; write {SENTINEL_EXAMPLE}")
    if not path or not path[0]:
        raise _error(url, f"it names no master; write {SENTINEL_EXAMPLE}")
    db = path[1] if len(path) > 1 and path[1] else "0"
    if len(path) > 2 or not (db.isascii() and db.isdecimal()):
        raise _error(url, f"only the number of a database may follow the master; write {SENTINEL_EXAMPLE}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    user, colon, password = userinfo.partition(":")
    return SentinelAddress(
        hosts=hosts,
        master=unquote(path[0]),
        db=int(db),
        username=unquote(user) or None,
        password=unquote(password) if colon else None,
        tls=scheme.startswith("rediss"),
        sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop("sentinel_password", None),
        options=options,
    )


def _error(url: str, reason: str) -> SettingsError:
    return SettingsError("redis_url", printable(mask_url(url)), reason)
