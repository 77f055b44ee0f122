"""The client's settings; ``ClientSettings.from_env`` is what reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from embedmill.errors import SettingsError
from embedmill.limits import MAX_QUEUED_TOKENS, MAX_TENANT_CHARS
from embedmill.model_spec import check_model_name, first_model, named_model
from embedmill.safe.printable import kind, printable
from embedmill.urls import check_url, mask_url
from embedmill.whereabouts import FILE_NAME, Whereabouts

#: The default URL of Redis.
DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"

#: The default prefix of every key and queue.
DEFAULT_NAMESPACE: Final = "embedmill"

#: The default timeout of calls, in seconds.
DEFAULT_TIMEOUT_S: Final = 60.0

#: Longest duration, about three centuries: in milliseconds since 1970 it is still a number that Lua holds exactly.
MAX_SECONDS: Final = 1e10

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

#: Names that a tenant may have.
TENANT_PATTERN: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_TENANT_CHARS}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the queue is, and the defaults of its calls."""

    #: URL of Redis, in one of the forms that ``urls.py`` lists.
    redis_url: str = DEFAULT_REDIS_URL
    #: Model for calls that name none; None: the only one that workers announce.
    model: str | None = None
    #: Prefix of every key and queue.
    namespace: str = DEFAULT_NAMESPACE
    #: Who the jobs are for. Workers take turns between tenants that have work; "": nobody in particular.
    tenant: str = ""
    #: Tokens of one tenant that may wait in one lane before more work of it is refused; 0: no limit.
    max_queued_tokens: int = MAX_QUEUED_TOKENS
    #: Timeout in seconds for calls that pass none.
    timeout_s: float = DEFAULT_TIMEOUT_S
    #: Name of the argument, variable or file that the URL came from, for errors.
    url_name: str = field(default="redis_url", compare=False)

    def __post_init__(self) -> None:
        with naming({"redis_url": self.url_name}):
            check_url(self.redis_url)
        if not is_namespace(self.namespace):
            shown = repr(printable(self.namespace)) if isinstance(self.namespace, str) else kind(self.namespace)
            raise SettingsError("namespace", shown, f"a namespace matches {_NAMESPACE.pattern}")
        if self.tenant != "" and not is_tenant(self.tenant):
            shown = repr(printable(self.tenant)) if isinstance(self.tenant, str) else kind(self.tenant)
            raise SettingsError("tenant", shown, f"a tenant matches {TENANT_PATTERN.pattern}")
        if type(self.max_queued_tokens) is not int or self.max_queued_tokens < 0:
            reason = "pass a number of tokens, or 0 for no limit"
            raise SettingsError("max_queued_tokens", kind(self.max_queued_tokens), reason)
        if not is_seconds(self.timeout_s):
            raise SettingsError("timeout_s", kind(self.timeout_s), "pass a number of seconds above 0")
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
        *,
        tenant: str | None = None,
        max_queued_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> ClientSettings:
        """Return settings in which each argument that is None comes from the environment.

        The variables are ``EMBEDMILL_REDIS_URL``, ``EMBEDMILL_MODEL``, ``EMBEDMILL_NAMESPACE``,
        ``EMBEDMILL_TENANT`` and ``EMBEDMILL_MAX_QUEUED_TOKENS``. If neither argument nor variable has a URL, the
        settings are those of the ``embedmill up`` that runs in the same data folder, if one does; see
        ``whereabouts.py``.

        Args:
            redis_url: see ``ClientSettings``, as for all others that are not listed here.
            model: a name, a path, or ``name=`` and a path.
            namespace: see ``ClientSettings``.
            environ: the variables; None: those of the process.
            tenant: see ``ClientSettings``.
            max_queued_tokens: see ``ClientSettings``.
            timeout_s: see ``ClientSettings``.

        Raises:
            SettingsError: a value cannot work; the error names the argument or variable that it came from.
        """
        env = os.environ if environ is None else environ
        named_url = redis_url or env.get("EMBEDMILL_REDIS_URL")
        named_namespace = namespace or env.get("EMBEDMILL_NAMESPACE")
        url_name = "redis_url" if redis_url else "EMBEDMILL_REDIS_URL"
        if not named_url and (found := find_up(env)):
            named_url, url_name = found.redis_url, FILE_NAME
            named_namespace = named_namespace or found.namespace
        if max_queued_tokens is None:
            max_queued_tokens = whole_number(env, "EMBEDMILL_MAX_QUEUED_TOKENS", MAX_QUEUED_TOKENS)
        given = {name for name, value in (("model", model), ("namespace", namespace), ("tenant", tenant)) if value}
        with naming({name: variable for name, variable in _VARIABLES.items() if name not in given}):
            return cls(
                redis_url=named_url or DEFAULT_REDIS_URL,
                url_name=url_name,
                model=named_model(model) if model else first_model(env.get("EMBEDMILL_MODEL", "")),
                namespace=named_namespace or DEFAULT_NAMESPACE,
                tenant=env.get("EMBEDMILL_TENANT", "") if tenant is None else tenant,
                max_queued_tokens=max_queued_tokens,
                timeout_s=timeout_s,
            )


#: Field of ``ClientSettings`` → variable that it may come from.
_VARIABLES: Final = {
    "model": "EMBEDMILL_MODEL",
    "namespace": "EMBEDMILL_NAMESPACE",
    "tenant": "EMBEDMILL_TENANT",
}


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Rename each SettingsError that the block raises: ``names`` maps a field to where its value came from."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(names.get(error.name, error.name), error.value, error.reason) from None


def is_seconds(value: object) -> bool:
    """Return whether a value is a number of seconds above 0 and not above ``MAX_SECONDS``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS


def is_namespace(value: object) -> bool:
    """Return whether a value can be a namespace."""
    return isinstance(value, str) and _NAMESPACE.fullmatch(value) is not None


def is_tenant(value: object) -> bool:
    """Return whether a value can be a tenant's name."""
    return isinstance(value, str) and TENANT_PATTERN.fullmatch(value) is not None


def find_up(env: Mapping[str, str]) -> Whereabouts | None:
    """Return where the ``embedmill up`` of this environment's data folder listens, if one runs."""
    try:
        found = Whereabouts.read(data_dir(env))
    except SettingsError:  # without a data folder, no `embedmill up` can have written its file
        return None
    return found if found is not None and is_namespace(found.namespace) else None


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """Return the whole number, 0 or above, that a variable holds; the default if it is unset or empty.

    Raises:
        SettingsError: the variable holds something else.
    """
    value = environ.get(name) or str(default)
    if not value.isascii() or not value.isdecimal():
        raise SettingsError(name, value, "set it to a whole number, 0 or above")
    return int(value)


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return ``EMBEDMILL_DATA_DIR``, else the user's data directory for embedmill.

    Raises:
        SettingsError: the path is in a home directory that does not exist.
    """
    given = environ.get("EMBEDMILL_DATA_DIR")
    return _expanded(given) if given else default_data_dir(environ)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's data directory for embedmill (XDG base directory specification).

    Raises:
        SettingsError: the user has no home directory.
    """
    home = environ.get("XDG_DATA_HOME") or _expanded(environ.get("HOME") or "~") / ".local" / "share"
    return Path(home) / "embedmill"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # for example in a container, under a user id without an entry in /etc/passwd
        raise SettingsError(
            "EMBEDMILL_DATA_DIR", path, "its home directory does not exist; set a folder that you can write to"
        ) from None
