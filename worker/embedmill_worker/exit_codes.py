"""Exit codes of ``embedmill`` and of its worker."""

from __future__ import annotations

from typing import Final

from embedmill.errors import (
    BrokerUnavailableError,
    EmbedError,
    FingerprintError,
    ModelLoadError,
    RequestError,
    SettingsError,
)

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
#: Live workers serve another fingerprint under the same model name.
FINGERPRINT: Final = 6
#: Some texts were rejected; the others were embedded.
REJECTED: Final = 7
#: It was not done in time.
TIMEOUT: Final = 8
#: Ctrl-C.
INTERRUPTED: Final = 130


def of(error: EmbedError) -> int:
    """Give the code for an error."""
    kinds: tuple[tuple[type[Exception], int], ...] = (
        (SettingsError, SETTINGS),
        (BrokerUnavailableError, BROKER),
        (ModelLoadError, MODEL),
        (TimeoutError, TIMEOUT),
        (FingerprintError, FINGERPRINT),
        (RequestError, USAGE),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), FAILURE)
