"""Redis's failures as the project's errors, and which of them trying again may mend."""

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

#: What trying again does not mend. Caught first: to redis-py they are ConnectionErrors too.
REFUSALS: Final = (AuthenticationError, AuthorizationError)

#: What a script says of a key of another type; see ``lua/prelude.lua``.
_CONFLICT: Final = re.compile(r"WRONGTYPE (\S{1,600} is a \w+, not a \w+)")


def raise_first_error(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def is_untrusted_certificate(error: BaseException) -> bool:
    """Return whether a server's certificate was refused: trying again does not mend that."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def unavailable(url_masked: str, error: BaseException) -> BrokerUnavailableError:
    """Return the error for a Redis that did not answer."""
    if is_untrusted_certificate(error):
        reason = "its TLS certificate is not trusted or is made out to another name; name the authority by ssl_ca_certs"
        return BrokerUnavailableError(url_masked, reason)
    if "WRONG_VERSION_NUMBER" in str(error):
        return BrokerUnavailableError(url_masked, "it does not speak TLS on this port; use redis:// if that is right")
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return BrokerUnavailableError(url_masked, "there is no file descriptor left to reach it by; raise their limit")
    late = isinstance(error, TimeoutError | builtins.TimeoutError)
    reason = "no answer in time" if late else "cannot be reached"
    return BrokerUnavailableError(
        url_masked, f"{reason} ({type(error).__name__}); is it running, and is the URL right?"
    )


def refused(url_masked: str, error: RedisError) -> QueueError:
    """Map what Redis refuses; its message may quote a command's arguments and is not passed on."""
    if "WRONGTYPE" in str(error)[:1_000]:
        named = _CONFLICT.search(str(error)[:1_000])
        return KeyConflictError(url_masked, named[1] if named else "a key is of another type than embedmill's")
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:200]:
        return QueueFullError("Redis", 0, 0, "it has reached its maxmemory")
    if isinstance(error, REFUSALS):
        return BrokerUnavailableError(url_masked, "it refuses the user or password of the URL")
    code = str(error).split(" ", 1)[0][:32]
    return BrokerUnavailableError(url_masked, f"it refused a command ({type(error).__name__}: {code})")
