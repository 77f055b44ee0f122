"""Exit codes of ``embedmill`` and of its worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from embedmill.errors import EmbedError

OK: Final = 0
#: Something unforeseen.
FAILURE: Final = 1
#: A flag or an argument that cannot work.
USAGE: Final = 2
#: A setting that cannot work.
SETTINGS: Final = 3
#: Redis is down, frozen or refuses.
BROKER: Final = 4
#: A model cannot be loaded.
MODEL: Final = 5
#: Live workers serve another fingerprint under the same model name, or a sink holds vectors of another one.
FINGERPRINT: Final = 6
#: Some texts were rejected; the others were embedded.
REJECTED: Final = 7
#: It was not done in time.
TIMEOUT: Final = 8
#: A probe found a worker that is not well.
UNHEALTHY: Final = 9
#: A worker took no more work although there was some, and ended itself to be started anew.
STALLED: Final = 10
#: A worker that was asked to stop did not finish within its grace period.
GRACE: Final = 11
#: A source could not be read, or only in part.
UNREADABLE: Final = 12
#: Ctrl-C or SIGTERM.
INTERRUPTED: Final = 130

#: What each code means; docs/operations.md says the same.
MEANINGS: Final = {
    OK: "done",
    FAILURE: "something unforeseen",
    USAGE: "a flag or an argument that cannot work",
    SETTINGS: "a setting that cannot work",
    BROKER: "Redis is down, frozen or refuses",
    MODEL: "a model cannot be loaded",
    FINGERPRINT: "live workers, or a sink's vectors, have another fingerprint or other options",
    REJECTED: "some texts were rejected; the others were embedded",
    TIMEOUT: "not done in time",
    UNHEALTHY: "a probe found the worker not well",
    STALLED: "the worker took no more work and ended itself, to be started anew",
    GRACE: "the worker did not finish within its grace period; its work runs elsewhere",
    UNREADABLE: "a source could not be read, or only in part; what was read is kept and nothing is deleted",
    INTERRUPTED: "Ctrl-C or SIGTERM",
}


def of(error: EmbedError) -> int:
    """Give the code for an error."""
    from embedmill.errors import (  # noqa: PLC0415  the probe wants the codes without the client
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
