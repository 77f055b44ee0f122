"""Which addresses and URLs webhooks may be sent to. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from embedmill.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Most characters of a webhook's URL.
MAX_URL_CHARS: Final = 2_048

#: Ports below 1024 that may be connected to; the others are those of mail, shells and similar services.
LOW_PORTS: Final = (80, 443)

_PORTS: Final = {"http": 80, "https": 443}

#: Names as DNS has them; and ends of names that resolvers read as numbers of an address, as in 127.1 or 0x7f000001.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NUMBER: Final = re.compile(r"(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)\.?$", re.IGNORECASE)

#: Networks that ``ipaddress`` takes for public in some version of Python, and that lead to the gateway's own machine or
#: network, or into a tunnel whose end is not seen: see IANA's registries of special-purpose addresses.
NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.64.0.0/10",  # carrier-grade NAT
            "168.63.129.16/32",  # the host of an Azure machine
            "192.0.0.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",
            "2001::/23",  # Teredo, ORCHID and other protocols
            "2001:db8::/32",
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",
        ),
    )
)

#: The only IPv6 network of which public addresses are given out: mapped, NAT64, local and multicast ones are outside.
GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")


class UnsafeAddressError(Exception):
    """A URL or address that no webhook is sent to. Its message holds nothing of the URL but its host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """The addresses that webhooks may be sent to: all public ones, and networks that the operator allows."""

    allowed: Sequence[Network] = ()

    @classmethod
    def parse(cls, value: str, source: str) -> AddressRules:
        """Read networks, separated by commas, as in ``10.0.0.0/8,fd00::/8``.

        Raises:
            SettingsError: one of them is not a network.
        """
        allowed: list[Network] = []
        for name in filter(None, map(str.strip, value.split(","))):
            try:
                allowed.append(ipaddress.ip_network(name))
            except ValueError as error:
                raise SettingsError(source, name, f"{error}; write networks as in 10.0.0.0/8,fd00::/8") from None
        return cls(allowed=tuple(allowed))

    def allows(self, address: Address) -> bool:
        """Return whether a webhook may be sent to an address."""
        return is_public(address) or any(address in network for network in self.allowed)

    def check(self, addresses: Sequence[str]) -> list[str]:
        """Return the addresses of a host if all of them are allowed.

        Raises:
            UnsafeAddressError: there are none, or one is not allowed.
        """
        if not addresses:
            raise UnsafeAddressError("the host has no address")
        for address in addresses:
            found = _parse(address)
            if found is None or not self.allows(found):
                raise UnsafeAddressError("the host has an address that is not public; see EMBEDMILL_WEBHOOK_ALLOW")
        return list(addresses)

    def check_url(self, url: str) -> httpx.URL:
        """Return a URL to which webhooks may be sent, as far as that can be seen without resolving its host.

        Raises:
            UnsafeAddressError: it cannot be read, is not http or https, names a user, a port of another service or an
                address that is not allowed.
        """
        parsed, host = _read_url(url)
        port = _PORTS[parsed.scheme] if parsed.port is None else parsed.port
        if port not in LOW_PORTS and not 1_024 <= port < 1 << 16:
            raise UnsafeAddressError(f"the URL's port must be one of {', '.join(map(str, LOW_PORTS))}, or above 1023")
        if _parse(host) is not None:
            self.check([host])
        elif not _NAME.fullmatch(host) or _NUMBER.search(host):
            raise UnsafeAddressError("the URL's host is neither a name nor a plain address")
        return parsed


def _read_url(url: str) -> tuple[httpx.URL, str]:
    """Return a URL of http or https and its host."""
    if len(url) > MAX_URL_CHARS:
        raise UnsafeAddressError(f"the URL has {len(url)} characters, limit {MAX_URL_CHARS}")
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError):
        raise UnsafeAddressError("the URL cannot be read") from None
    if parsed.scheme not in _PORTS:
        raise UnsafeAddressError("the URL must begin with https:// or http://")
    if not host:
        raise UnsafeAddressError("the URL names no host")
    if parsed.userinfo:
        raise UnsafeAddressError("the URL must not name a user or password")
    return parsed, host


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet. One that stands for another address is not."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in GLOBAL_UNICAST or address.scope_id):
        return False
    return address.is_global and not any(address in network for network in NOT_PUBLIC)


def _parse(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
