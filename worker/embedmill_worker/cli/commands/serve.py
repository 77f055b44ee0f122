"""``embedmill serve``."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from embedmill_worker.cli import flags

_EPILOG: Final = """\
  # HTTP on 127.0.0.1:8080 and gRPC on 127.0.0.1:6010, in front of the queue that `embedmill up` or the URL names
  embedmill serve
  # for other machines: with keys, one a line
  embedmill serve --host 0.0.0.0 --api-keys-file keys.txt

A key is a secret of 16 characters or more, or sha256: and its hash, and after it any of name=NAME, lane=bulk and
tokens_per_minute=N. EMBEDMILL_API_KEYS holds them by comma. Without keys it listens on loopback alone.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "serve OpenAI's, TEI's and Ollama's routes and gRPC in front of the queue"
    parser = flags.command(commands, "serve", run, help=text, epilog=_EPILOG)
    flags.client_flags(parser)
    flags.flag(parser, "--host", "EMBEDMILL_HOST", "ADDRESS", "address to listen on; default 127.0.0.1")
    flags.flag(parser, "--port", "EMBEDMILL_HTTP_PORT", "N", "port of HTTP, 0 for none; default 8080")
    flags.flag(parser, "--grpc-port", "EMBEDMILL_GRPC_PORT", "N", "port of gRPC, 0 for none; default 6010")
    flags.flag(parser, "--api-keys-file", "EMBEDMILL_API_KEYS_FILE", "FILE", "keys that are accepted, one a line")
    flags.flag(parser, "--tls-cert", "EMBEDMILL_TLS_CERT", "FILE", "certificate chain, PEM")
    flags.flag(parser, "--tls-key", "EMBEDMILL_TLS_KEY", "FILE", "its private key, PEM")
    text = "origins of web pages that may call, by comma; default none"
    flags.flag(parser, "--cors-origins", "EMBEDMILL_CORS_ORIGINS", "ORIGIN,…", text)
    text = "seconds of work that may wait before requests are refused with 429; default 5"
    flags.flag(parser, "--max-wait", "EMBEDMILL_MAX_WAIT_S", "S", text)
    text = "seconds until a request is given up with 503; default 60"
    flags.flag(parser, "--request-timeout", "EMBEDMILL_REQUEST_TIMEOUT_S", "S", text)
    flags.flag(parser, "--max-body", "EMBEDMILL_MAX_BODY_MIB", "MIB", "most MiB of one request's body; default 16")
    text = f"{', '.join(flags.LOG_LEVELS)}; default INFO"
    level = flags.one_of(*flags.LOG_LEVELS)
    flags.flag(parser, "--log-level", "EMBEDMILL_LOG_LEVEL", "LEVEL", text, type=level, default="INFO")


#: Flags whose values reach the settings as these variables.
VARIABLES: Final = {
    "redis_url": "EMBEDMILL_REDIS_URL",
    "namespace": "EMBEDMILL_NAMESPACE",
    "model": "EMBEDMILL_MODEL",
    "host": "EMBEDMILL_HOST",
    "port": "EMBEDMILL_HTTP_PORT",
    "grpc_port": "EMBEDMILL_GRPC_PORT",
    "api_keys_file": "EMBEDMILL_API_KEYS_FILE",
    "tls_cert": "EMBEDMILL_TLS_CERT",
    "tls_key": "EMBEDMILL_TLS_KEY",
    "cors_origins": "EMBEDMILL_CORS_ORIGINS",
    "max_wait": "EMBEDMILL_MAX_WAIT_S",
    "request_timeout": "EMBEDMILL_REQUEST_TIMEOUT_S",
    "max_body": "EMBEDMILL_MAX_BODY_MIB",
}


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from embedmill_worker.gateway import main

    given = {variable: getattr(args, name) for name, variable in VARIABLES.items()}
    environment = os.environ | {variable: value for variable, value in given.items() if value is not None}
    main.run(environment, log_level=args.log_level)
    return 0
