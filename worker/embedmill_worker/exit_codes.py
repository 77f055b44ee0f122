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

#: What each code means; docs/operations.md says the same.
MEANINGS: Final = {
    OK: "done",
    FAILURE: "an unexpected error",
    USAGE: "an invalid flag or argument",
    SETTINGS: "an invalid setting",
    BROKER: "Redis is down, frozen or refuses",
    MODEL: "a model cannot be loaded",
    FINGERPRINT: "live workers, or a sink's vectors, have another fingerprint or other options",
    REJECTED: "some texts were rejected; the others were embedded",
    TIMEOUT: "not done in time",
    UNHEALTHY: "a probe found the worker unhealthy",
    STALLED: "the worker was stalled, so it ended itself; restart it",
    GRACE: "the worker did not finish within its grace period; other workers take over its work",
    UNREADABLE: "a source could not be read, or only in part; what was read is kept and nothing is deleted",
    INTERRUPTED: "Ctrl-C or SIGTERM",
}


def of(error: EmbedError) -> int:
    """Return the code for an error."""
    from embedmill.errors import (  # noqa: PLC0415  the probe needs the codes but not the client
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
