"""The gateway's settings."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from embedmill.errors import SettingsError
from embedmill.settings import ClientSettings, whole_number
from embedmill_worker.gateway.access import ApiKeys, Caller
from embedmill_worker.webhooks.settings import WebhookSettings

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080
#: The port of the Rust embedding service, so that its clients need no change.
DEFAULT_GRPC_PORT: Final = 6010

#: Bytes of all bodies that requests under way hold, for each one that a single body may have.
HELD_BODIES: Final = 16

#: Bytes of the file of keys; more is not one.
MAX_KEYS_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds that a client is waited for."""

    #: Until a request's headers are there.
    headers_s: float = 20.0
    #: Until a body is there.
    body_s: float = 30.0
    #: Until an answer was read that did not go out at once.
    answer_s: float = 120.0
    #: An idle connection is kept after an answer.
    idle_s: int = 75

    def __post_init__(self) -> None:
        for name in ("headers_s", "body_s", "answer_s", "idle_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(name, str(getattr(self, name)), "give a number of seconds from 1")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Patience:
        """Read ``EMBEDMILL_…_TIMEOUT_S``.

        Raises:
            SettingsError: a value that cannot work.
        """
        return cls(
            headers_s=float(whole_number(env, "EMBEDMILL_HEADERS_TIMEOUT_S", 20)),
            body_s=float(whole_number(env, "EMBEDMILL_BODY_TIMEOUT_S", 30)),
            answer_s=float(whole_number(env, "EMBEDMILL_ANSWER_TIMEOUT_S", 120)),
            idle_s=whole_number(env, "EMBEDMILL_IDLE_TIMEOUT_S", 75),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """How many bytes are stored for batches, and how long."""

    #: Most bytes of one file that is uploaded.
    max_file_bytes: int = 200 << 20
    #: Most bytes of all files of an API key; 0: any number.
    max_bytes: int = 10 << 30
    #: Seconds after which a file is deleted.
    max_age_s: int = 30 * 86_400

    def bytes_of(self, caller: Caller) -> int:
        """Return how many bytes the files of a caller may have; 0: any number."""
        return self.max_bytes if caller.max_stored_bytes is None else caller.max_stored_bytes

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "max_age_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(name, str(getattr(self, name)), "give a number from 1")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> FileLimits:
        """Read ``EMBEDMILL_MAX_…``.

        Raises:
            SettingsError: a value that cannot work.
        """
        return cls(
            max_file_bytes=whole_number(env, "EMBEDMILL_MAX_FILE_MIB", 200) << 20,
            max_bytes=whole_number(env, "EMBEDMILL_MAX_STORED_MIB", 10_240) << 20,
            max_age_s=whole_number(env, "EMBEDMILL_MAX_FILE_AGE_DAYS", 30) * 86_400,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where the gateway listens, whom it serves and how much."""

    client: ClientSettings
    host: str = DEFAULT_HOST
    #: 0: no HTTP.
    port: int = DEFAULT_PORT
    #: 0: no gRPC.
    grpc_port: int = DEFAULT_GRPC_PORT
    keys: ApiKeys = field(default=ApiKeys(), repr=False)
    #: Certificate chain and private key, PEM; None: no TLS.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: Origins of web pages that may call; ``*``: all. None of them by default.
    cors_origins: tuple[str, ...] = ()
    #: Bytes of one request's body.
    max_body_bytes: int = 16 << 20
    #: Texts of one request, and their tokens, estimated; both as OpenAI has them.
    max_texts: int = 2_048
    max_tokens: int = 300_000
    #: Seconds of work that may wait before requests are refused with 429.
    max_wait_s: float = 5.0
    #: Requests under way at a time.
    max_requests: int = 4_096
    #: Seconds until a request that is not answered fails with 503.
    timeout_s: float = 60.0
    patience: Patience = field(default_factory=Patience)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    files: FileLimits = field(default_factory=FileLimits)

    def __post_init__(self) -> None:
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            if not 0 <= port < 1 << 16:
                raise SettingsError(name, str(port), "give a port from 1 to 65535, or 0 for none")
        if not self.port and not self.grpc_port:
            raise SettingsError("port", "0", "the gateway would serve nothing; give --port or --grpc-port a port")
        for name, limit in (("max_body_bytes", self.max_body_bytes), ("timeout_s", self.timeout_s)):
            if limit <= 0:
                raise SettingsError(name, f"{limit:g}", "give a number from 1")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert", str(self.tls_cert), "give both --tls-cert and --tls-key, or none")
        if not self.keys.callers and not self.is_local:
            reason = (
                "without API keys it may listen on loopback only; set EMBEDMILL_API_KEYS or EMBEDMILL_API_KEYS_FILE"
            )
            raise SettingsError("host", self.host, reason)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def load_tls(self) -> ssl.SSLContext | None:
        """Return the TLS context for HTTP; None: no TLS.

        Raises:
            SettingsError: the files cannot be read, or are not a certificate and its key.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # never asks a terminal for one
        except OSError as error:  # ssl.SSLError is one, too
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            message = f"cannot be used with --tls-key {self.tls_key}: {reason or error}"
            raise SettingsError("tls_cert", str(self.tls_cert), message) from None
        return context

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> GatewaySettings:
        """Read ``EMBEDMILL_…``.

        Raises:
            SettingsError: a value that cannot work.
        """
        env = os.environ if environ is None else environ
        client = ClientSettings.from_env(environ=env)
        return cls(
            client=client,
            host=env.get("EMBEDMILL_HOST") or DEFAULT_HOST,
            port=whole_number(env, "EMBEDMILL_HTTP_PORT", DEFAULT_PORT),
            grpc_port=whole_number(env, "EMBEDMILL_GRPC_PORT", DEFAULT_GRPC_PORT),
            keys=_keys(env),
            tls_cert=_path(env, "EMBEDMILL_TLS_CERT"),
            tls_key=_path(env, "EMBEDMILL_TLS_KEY"),
            cors_origins=tuple(filter(None, map(str.strip, env.get("EMBEDMILL_CORS_ORIGINS", "").split(",")))),
            max_body_bytes=whole_number(env, "EMBEDMILL_MAX_BODY_MIB", 16) << 20,
            max_wait_s=float(whole_number(env, "EMBEDMILL_MAX_WAIT_S", 5)),
            timeout_s=float(whole_number(env, "EMBEDMILL_REQUEST_TIMEOUT_S", 60)),
            patience=Patience.from_env(env),
            webhooks=WebhookSettings.from_env(env),
            files=FileLimits.from_env(env),
        )


def _keys(env: Mapping[str, str]) -> ApiKeys:
    path = env.get("EMBEDMILL_API_KEYS_FILE")
    if not path:
        return ApiKeys.parse(env.get("EMBEDMILL_API_KEYS", "").split(","), "EMBEDMILL_API_KEYS")
    if env.get("EMBEDMILL_API_KEYS"):
        raise SettingsError("EMBEDMILL_API_KEYS_FILE", path, "EMBEDMILL_API_KEYS is set, too; give one of them")
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  a folder of secrets may be a link
            text = file.read(MAX_KEYS_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError("EMBEDMILL_API_KEYS_FILE", path, f"cannot be read: {reason}") from None
    if len(text) > MAX_KEYS_BYTES:
        raise SettingsError(
            "EMBEDMILL_API_KEYS_FILE", path, f"is larger than {MAX_KEYS_BYTES >> 20} MiB; not a file of keys"
        )
    keys = ApiKeys.parse(text.splitlines(), path)
    if not keys.callers:
        raise SettingsError("EMBEDMILL_API_KEYS_FILE", path, "holds no key; write one a line")
    return keys


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None
