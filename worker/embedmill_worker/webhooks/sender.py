"""One attempt to send a webhook. The address that was checked is the one that is connected to."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import httpx

from embedmill_worker.webhooks.addresses import AddressRules, UnsafeAddressError
from embedmill_worker.webhooks.signing import signed_headers

#: Seconds of one attempt: resolving, connecting and the status of the answer.
ATTEMPT_S: Final = 15.0

#: Seconds that closing a connection may take.
CLOSE_S: Final = 1.0

#: Addresses of one host that are tried.
MAX_ADDRESSES: Final = 4

#: Status by which a receiver asks for no more events of this kind.
GONE: Final = 410

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event on its way to one receiver."""

    event_id: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    #: JSON.
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one attempt."""

    is_delivered: bool
    #: Whether another attempt may succeed, if this one has not.
    is_retryable: bool = True
    #: What happened, for the log; it holds nothing of the URL, the secret or the answer.
    reason: str = ""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, by the system's resolver.

    Raises:
        OSError: it has none, or the resolver does not answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedTransport(httpx.AsyncBaseTransport):
    """A transport that resolves a host once, checks every address and connects to one that it has checked.

    The request names the address in the place of the host, so that nothing below resolves the host again. The headers
    and TLS keep the host's name.
    """

    def __init__(self, rules: AddressRules, resolve: Resolve, context: ssl.SSLContext) -> None:
        self._rules = rules
        self._resolve = resolve
        # A connection is used once: a pool would know it by its address, and give it to another host of that address.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._direct = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first address of its host that can be connected to.

        Raises:
            UnsafeAddressError: one of the host's addresses is not allowed.
            httpx.TransportError: none of them can be connected to, or the connection fails.
        """
        url = self._rules.check_url(str(request.url))
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = self._rules.check(await self._resolve(host, port))[:MAX_ADDRESSES]
        except (OSError, UnicodeError):
            raise httpx.ConnectError("the host's name cannot be resolved") from None
        extensions = request.extensions | {"sni_hostname": host}
        for address in addresses:
            direct = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                return await self._direct.handle_async_request(direct)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
        raise AssertionError  # there is at least one address

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()


class Sender:
    """Sends events. Nothing of an answer is read but its status, and no redirect is followed."""

    def __init__(
        self,
        rules: AddressRules,
        *,
        resolve: Resolve = resolve,
        context: ssl.SSLContext | None = None,
        attempt_s: float = ATTEMPT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the rules of addresses, and what depends on the network and the time.

        Args:
            rules: which addresses may be connected to.
            resolve: returns the addresses of a host.
            context: checks certificates; None: by the system's authorities.
            attempt_s: seconds of one attempt.
            clock: returns the time in seconds since the epoch.
        """
        self._attempt_s = attempt_s
        self._clock = clock
        transport = CheckedTransport(rules, resolve, context or ssl.create_default_context())
        self._client = httpx.AsyncClient(
            transport=transport, trust_env=False, follow_redirects=False, timeout=attempt_s
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def send(self, message: Message, agent: str) -> Outcome:
        """Make one attempt.

        Args:
            message: the event.
            agent: the ``user-agent``.
        """
        headers = signed_headers(message.secret, message.event_id, self._clock(), message.body)
        headers |= {"content-type": "application/json", "user-agent": agent, "accept-encoding": "identity"}
        request = self._client.build_request(
            method="POST", url=message.url, content=message.body.encode(), headers=headers
        )
        try:
            async with asyncio.timeout(self._attempt_s):
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            return Outcome(is_delivered=False, reason=f"no answer within {self._attempt_s:g} s")
        except UnsafeAddressError as error:
            return Outcome(is_delivered=False, reason=f"refused: {error}")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Outcome(is_delivered=False, reason=type(error).__name__)
        with suppress(httpx.HTTPError, OSError):  # what the receiver answered stands, however the connection ends
            async with asyncio.timeout(CLOSE_S):
                await response.aclose()
        if response.is_success:
            return Outcome(is_delivered=True)
        return Outcome(
            is_delivered=False,
            is_retryable=response.status_code != GONE,
            reason=f"the receiver answered with {response.status_code}",
        )
