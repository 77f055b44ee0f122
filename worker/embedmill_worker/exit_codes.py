"""Exit codes of ``embedmill`` and of its worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from embedmill.errors import EmbedError

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
SETTINGS: Final = 3
BROKER: Final = 4
MODEL: Final = 5
FINGERPRINT: Final = 6
REJECTED: Final = 7
TIMEOUT: Final = 8
UNHEALTHY: Final = 9
STALLED: Final = 10
GRACE: Final = 11
UNREADABLE: Final = 12
INTERRUPTED: Final = 130

#: Meaning of each code; docs/operations.md lists the same.
MEANINGS: Final = {
    OK: "success",
    FAILURE: "unexpected error",
    USAGE: "invalid flag, argument or input",
    SETTINGS: "invalid setting",
    BROKER: "Redis is down, frozen, or refuses commands",
    MODEL: "a model cannot be loaded",
    FINGERPRINT: "a live worker, or the sink, has another fingerprint or other options",
    REJECTED: "some texts were rejected; the others were embedded",
    TIMEOUT: "timeout; the work was not finished in time",
    UNHEALTHY: "the health probe failed",
    STALLED: "the worker stalled: it took no more work and exited, to be restarted",
    GRACE: "the worker did not finish within its grace period; other workers take over its chunks",
    UNREADABLE: "a source could not be read, or only in part; what was read is kept and nothing is deleted",
    INTERRUPTED: "interrupted by Ctrl-C or SIGTERM",
}


def of(error: EmbedError) -> int:
    """Return the exit code for an error."""
    from embedmill.errors import (  # noqa: PLC0415  the health probe needs the codes without loading the client
        BrokerUnavailableError,
        FingerprintError,
        KeyConflictError,
        ModelLoadError,
        RequestError,
        SettingsError,
        SinkMismatchError,
        SourceError,
    )

    kinds: tuple[tuple[type[Exception], int], ...] = (
        (SettingsError, SETTINGS),
        (BrokerUnavailableError, BROKER),
        (KeyConflictError, BROKER),
        (ModelLoadError, MODEL),
        (TimeoutError, TIMEOUT),
        (FingerprintError, FINGERPRINT),
        (SinkMismatchError, FINGERPRINT),
        (RequestError, USAGE),
        (SourceError, UNREADABLE),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), FAILURE)
