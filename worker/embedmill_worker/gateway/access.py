"""API keys: who calls, in which lane, and how many tokens a minute. Keys are kept as their SHA-256 alone. No I/O.

A key is written as ``SECRET`` or ``sha256:HEX``, followed by any of ``name=NAME``, ``tenant=NAME``, ``lane=bulk``,
``tokens_per_minute=N`` and ``max_stored_mib=N``, with spaces between.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from embedmill.errors import SettingsError
from embedmill.protocol.keys import LANES, Lane
from embedmill.settings import is_tenant
from embedmill_worker.gateway.refusals import Kind, RefusedError

#: Characters of a secret below which guessing it is feasible.
MIN_SECRET_CHARS: Final = 16

_HASHED: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a key, or everybody where no keys are set."""

    name: str
    #: SHA-256 of the key; empty: no key is needed.
    digest: bytes = field(default=b"", repr=False)
    #: Used where a request names none, and ``bulk`` allows no other.
    lane: Lane = "interactive"
    #: 0: any number.
    tokens_per_minute: int = 0
    #: Most bytes of stored files, 0: any number; None: as the gateway's settings say.
    max_stored_bytes: int | None = None
    #: Who the work is for: workers take turns between tenants. None: the gateway's own tenant.
    tenant: str | None = None

    def check_lane(self, asked: str | None) -> Lane:
        """Return the lane of a request.

        Raises:
            RefusedError: there is no such lane, or the key may not use it.
        """
        if asked is None:
            return self.lane
        if asked not in LANES:
            raise RefusedError(Kind.INVALID, f"lane must be one of {', '.join(LANES)}", param="lane")
        if asked != self.lane and self.lane == "bulk":
            raise RefusedError(Kind.FORBIDDEN, "This API key may use the lane bulk only", param="lane")
        return asked


#: Everybody, where no keys are set.
ANYBODY: Final = Caller(name="anybody")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeys:
    """The keys that are accepted; none: everybody is."""

    callers: Sequence[Caller] = ()

    def identify(self, secret: str | None) -> Caller:
        """Return who a request comes from; takes as long for a wrong key as for a right one.

        Raises:
            RefusedError: the key is missing or unknown.
        """
        if not self.callers:
            return ANYBODY
        if not secret:
            raise RefusedError(Kind.UNAUTHENTICATED, "You didn't provide an API key: send Authorization: Bearer KEY")
        digest = _digest(secret)
        found = [caller for caller in self.callers if hmac.compare_digest(caller.digest, digest)]
        if not found:
            raise RefusedError(Kind.UNAUTHENTICATED, "Incorrect API key provided")
        return found[0]

    @classmethod
    def parse(cls, lines: Sequence[str], source: str) -> ApiKeys:
        """Read keys, one a line; empty lines and those that begin with ``#`` are skipped.

        Args:
            lines: the keys.
            source: the variable or file that they come from, for errors.

        Raises:
            SettingsError: one of them cannot be read; its secret is not part of the message.
        """
        callers: list[Caller] = []
        for number, line in enumerate(lines, 1):
            words = line.split()
            if words and not line.lstrip().startswith("#"):
                callers.append(_caller(words, f"key {number} of {source}"))
        for what in ("name", "digest"):
            if len({getattr(caller, what) for caller in callers}) != len(callers):
                raise SettingsError(source, "***", f"two keys have the same {what}")
        return cls(callers=tuple(callers))


def _caller(words: Sequence[str], where: str) -> Caller:
    secret, *options = words
    if not (secret.isascii() and secret.isprintable()):
        raise SettingsError(where, "***", "give a secret of ASCII characters: headers hold no others")
    hashed = _HASHED.fullmatch(secret)
    if hashed is None and (secret.startswith("sha256:") or len(secret) < MIN_SECRET_CHARS):
        reason = f"give a secret of at least {MIN_SECRET_CHARS} characters, or sha256: and 64 hexadecimal digits"
        raise SettingsError(where, "***", reason)
    digest = bytes.fromhex(hashed[1]) if hashed else _digest(secret)
    values = dict.fromkeys(("tenant", "max_stored_mib"), "")
    values |= {"name": f"key-{digest.hex()[:8]}", "lane": "interactive", "tokens_per_minute": "0"}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator or name not in values:
            raise SettingsError(where, "***", f"an option after the key is one of {', '.join(values)}, as in lane=bulk")
        values[name] = value
    tenant = values["tenant"] or values["name"]
    if not _NAME.fullmatch(values["name"]) or not is_tenant(tenant):
        raise SettingsError(where, "***", "a name has 1 to 64 letters, digits, dots, dashes or underscores")
    if values["lane"] not in LANES:
        raise SettingsError(where, "***", f"lane must be one of {', '.join(LANES)}")
    limit = values["tokens_per_minute"]
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 16):
        raise SettingsError(where, "***", "tokens_per_minute is a whole number; 0 allows any number")
    stored = values["max_stored_mib"]
    if stored and not (stored.isascii() and stored.isdecimal() and len(stored) < 16):
        raise SettingsError(where, "***", "max_stored_mib is a whole number; 0 allows any number")
    return Caller(
        name=values["name"],
        digest=digest,
        lane=values["lane"],
        tokens_per_minute=int(limit),
        tenant=tenant,
        max_stored_bytes=int(stored) << 20 if stored else None,
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
