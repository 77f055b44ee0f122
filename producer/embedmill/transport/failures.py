"""The mapping of redis-py's errors to embedmill's, and which of them are worth a retry."""

from __future__ import annotations

import builtins
import errno
import re
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
)

from embedmill.errors import BrokerUnavailableError, KeyConflictError, QueueError, QueueFullError

RETRYABLE: Final = (ConnectionError, TimeoutError, BusyLoadingError, OSError)

#: Errors that a retry does not help. They must be caught first, as redis-py derives them from ConnectionError.
REFUSALS: Final = (AuthenticationError, AuthorizationError)

#: Error of a script that finds a key of another type; see ``lua/prelude.lua``.
_CONFLICT: Final = re.compile(r"WRONGTYPE (\S{1,600} is a \w+, not a \w+)")


def raise_first_error(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def is_untrusted_certificate(error: BaseException) -> bool:
    """Return whether the server's certificate was refused, which a retry does not help."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def unavailable(url_masked: str, error: BaseException) -> BrokerUnavailableError:
    """Return the error for a Redis that cannot be reached or did not answer."""
    if is_untrusted_certificate(error):
        reason = "its TLS certificate is not trusted or is issued for another name; set ssl_ca_certs to its authority"
        return BrokerUnavailableError(url_masked, reason)
    if "WRONG_VERSION_NUMBER" in str(error):
        reason = "it does not speak TLS on this port; use redis:// if it should not"
        return BrokerUnavailableError(url_masked, reason)
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        reason = "this process has too many open files to connect to it; raise its limit (ulimit -n)"
        return BrokerUnavailableError(url_masked, reason)
    late = isinstance(error, TimeoutError | builtins.TimeoutError)
    reason = "no answer in time" if late else "cannot be reached"
    return BrokerUnavailableError(
        url_masked, f"{reason} ({type(error).__name__}); is it running, and is the URL right?"
    )


def refused(url_masked: str, error: RedisError) -> QueueError:
    """Return the error for a command that Redis refused.

    Redis's own message may quote arguments of the command, so it is not passed on.
    """
    if "WRONGTYPE" in str(error)[:1_000]:
        named = _CONFLICT.search(str(error)[:1_000])
        return KeyConflictError(url_masked, named[1] if named else "a key has another type than embedmill gives it")
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:200]:
        return QueueFullError("Redis", 0, 0, "it has reached its maxmemory")
    if isinstance(error, REFUSALS):
        return BrokerUnavailableError(url_masked, "it refuses the user or password of the URL")
    code = str(error).split(" ", 1)[0][:32]
    return BrokerUnavailableError(url_masked, f"it refused a command ({type(error).__name__}: {code})")
