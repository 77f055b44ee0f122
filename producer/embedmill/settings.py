"""The client's settings: values first, the environment only when asked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedmill.errors import SettingsError
from embedmill.limits import MAX_QUEUED_TOKENS
from embedmill.model_spec import check_model_name, first_model
from embedmill.redis_url import check_url, mask_url

#: Where Redis is when nobody says otherwise.
DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"

#: Prefix of every key and queue when nobody says otherwise.
DEFAULT_NAMESPACE: Final = "embedmill"

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the queue is and which model is meant when a call names none."""

    #: See ``redis_url.py``.
    redis_url: str = DEFAULT_REDIS_URL
    #: Model for calls that name none; None: the only one that workers announce.
    model: str | None = None
    #: Prefix of every key and queue.
    namespace: str = DEFAULT_NAMESPACE
    #: Tokens that may wait in one lane before more work for it is refused; 0: any number.
    max_queued_tokens: int = MAX_QUEUED_TOKENS
    #: Replicas that must have a job before ``submit`` returns.
    wait_replicas: int = 0

    def __post_init__(self) -> None:
        check_url(self.redis_url)
        if not _NAMESPACE.fullmatch(self.namespace):
            raise SettingsError(
                "EMBEDMILL_NAMESPACE", repr(self.namespace), f"a namespace matches {_NAMESPACE.pattern}"
            )
        if type(self.max_queued_tokens) is not int or self.max_queued_tokens < 0:
            reason = "give a number of tokens, or 0 for any number"
            raise SettingsError("EMBEDMILL_MAX_QUEUED_TOKENS", str(self.max_queued_tokens), reason)
        if type(self.wait_replicas) is not int or self.wait_replicas < 0:
            raise SettingsError("EMBEDMILL_WAIT_REPLICAS", str(self.wait_replicas), "give a number from 0")
        if self.model is not None:
            check_model_name(self.model)

    def __repr__(self) -> str:
        return (
            f"ClientSettings(redis_url={mask_url(self.redis_url)!r}, model={self.model!r}, "
            f"namespace={self.namespace!r})"
        )

    @classmethod
    def from_env(
        cls,
        redis_url: str | None = None,
        model: str | None = None,
        namespace: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> ClientSettings:
        """Fill what is not given from ``EMBEDMILL_REDIS_URL``, ``EMBEDMILL_MODEL``, ``EMBEDMILL_NAMESPACE``.

        ``EMBEDMILL_MAX_QUEUED_TOKENS`` and ``EMBEDMILL_WAIT_REPLICAS`` are read, too.

        Raises:
            SettingsError: a value that cannot work.
        """
        env = os.environ if environ is None else environ
        return cls(
            redis_url=redis_url or env.get("EMBEDMILL_REDIS_URL") or DEFAULT_REDIS_URL,
            model=model or first_model(env.get("EMBEDMILL_MODEL", "")),
            namespace=namespace or env.get("EMBEDMILL_NAMESPACE") or DEFAULT_NAMESPACE,
            wait_replicas=whole_number(env, "EMBEDMILL_WAIT_REPLICAS", 0),
            max_queued_tokens=whole_number(env, "EMBEDMILL_MAX_QUEUED_TOKENS", MAX_QUEUED_TOKENS),
        )


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Read a variable that holds a number from 0; unset or empty: the default.

    Raises:
        SettingsError: it holds something else.
    """
    value = environ.get(name) or str(default)
    if not value.isascii() or not value.isdecimal():
        raise SettingsError(name, value, "give a number from 0")
    return int(value)


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return ``EMBEDMILL_DATA_DIR``, else the user's data directory.

    Raises:
        SettingsError: it is in a home, and the user has none.
    """
    given = environ.get("EMBEDMILL_DATA_DIR")
    return _expanded(given) if given else default_data_dir(environ)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's data directory for embedmill (XDG base directory specification).

    Raises:
        SettingsError: the user has no home.
    """
    home = environ.get("XDG_DATA_HOME") or _expanded(environ.get("HOME") or "~") / ".local" / "share"
    return Path(home) / "embedmill"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # in a container, say, under a user id that no file there knows
        raise SettingsError(
            "EMBEDMILL_DATA_DIR", path, "there is no such home; name a folder that you may write"
        ) from None
