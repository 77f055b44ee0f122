"""``embedmill serve``."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from embedmill_worker.cli import flags

_EPILOG: Final = """\
  # serve HTTP on 127.0.0.1:8080 and gRPC on 127.0.0.1:6010, in front of the queue of a running `embedmill up`
  embedmill serve
  # serve other machines, with API keys, one a line
  embedmill serve --host 0.0.0.0 --api-keys-file keys.txt

A key is a secret of 16 characters or more, or sha256: and its hash. After it may stand name=NAME, lane=bulk,
tokens_per_minute=N and max_stored_mib=N. EMBEDMILL_API_KEYS holds keys as well, separated by commas. Without keys, only
loopback is served.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "serve OpenAI's, TEI's and Ollama's HTTP routes, and gRPC, in front of the queue"
    parser = flags.command(commands, "serve", run, help=text, epilog=_EPILOG)
    flags.client_flags(parser)
    groups = ("listening", "access", "limits", "files and batches", "webhooks", "logs")
    listening, access, limits, files, webhooks, logs = map(parser.add_argument_group, groups)
    flags.flag(listening, "--host", "EMBEDMILL_HOST", "ADDRESS", "address to listen on (default: 127.0.0.1)")
    flags.flag(listening, "--port", "EMBEDMILL_HTTP_PORT", "N", "port for HTTP, 0 for none (default: 8080)")
    flags.flag(listening, "--grpc-port", "EMBEDMILL_GRPC_PORT", "N", "port for gRPC, 0 for none (default: 6010)")
    flags.flag(listening, "--tls-cert", "EMBEDMILL_TLS_CERT", "FILE", "certificate chain, PEM (default: no TLS)")
    flags.flag(listening, "--tls-key", "EMBEDMILL_TLS_KEY", "FILE", "private key of --tls-cert, PEM (default: no TLS)")
    text = "file of accepted API keys, one a line (default: no keys, loopback only)"
    flags.flag(access, "--api-keys-file", "EMBEDMILL_API_KEYS_FILE", "FILE", text)
    text = "origins of web pages that may call, separated by commas (default: none)"
    flags.flag(access, "--cors-origins", "EMBEDMILL_CORS_ORIGINS", "ORIGIN,…", text)
    text = "seconds of work that may wait before further requests are refused with 429 (default: 5)"
    flags.flag(limits, "--max-wait", "EMBEDMILL_MAX_WAIT_S", "S", text)
    text = "seconds after which a request fails with 503 (default: 60)"
    flags.flag(limits, "--request-timeout", "EMBEDMILL_REQUEST_TIMEOUT_S", "S", text)
    text = "most MiB of a request's body (default: 16)"
    flags.flag(limits, "--max-body", "EMBEDMILL_MAX_BODY_MIB", "MIB", text)
    text = "most MiB of a file that is uploaded for a batch (default: 200)"
    flags.flag(files, "--max-file", "EMBEDMILL_MAX_FILE_MIB", "MIB", text)
    text = "most MiB of all files of an API key, 0 for any number (default: 10240)"
    flags.flag(files, "--max-stored", "EMBEDMILL_MAX_STORED_MIB", "MIB", text)
    text = "days after which a file is deleted, unless it asks for less (default: 30)"
    flags.flag(files, "--max-file-age", "EMBEDMILL_MAX_FILE_AGE_DAYS", "DAYS", text)
    text = "folder for files of batches (default: files, in the data folder)"
    flags.flag(files, "--files-dir", "EMBEDMILL_FILES_DIR", "FOLDER", text)
    text = "networks that webhooks may go to besides public addresses, as in 10.0.0.0/8,fd00::/8 (default: none)"
    flags.flag(webhooks, "--webhook-allow", "EMBEDMILL_WEBHOOK_ALLOW", "NETWORK,…", text)
    text = "seconds between attempts to send a webhook, which must grow (default: 5,300,1800 and so on for three days)"
    flags.flag(webhooks, "--webhook-retry", "EMBEDMILL_WEBHOOK_RETRY_S", "S,…", text)
    text = f"lowest level that is logged: {flags.alternatives(flags.LOG_LEVELS)} (default: INFO)"
    level = flags.one_of(flags.LOG_LEVELS)
    flags.flag(logs, "--log-level", "EMBEDMILL_LOG_LEVEL", "LEVEL", text, type=level, default="INFO")


#: Environment variable of each flag, by which its value reaches the settings.
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
    "webhook_allow": "EMBEDMILL_WEBHOOK_ALLOW",
    "webhook_retry": "EMBEDMILL_WEBHOOK_RETRY_S",
    "max_file": "EMBEDMILL_MAX_FILE_MIB",
    "max_stored": "EMBEDMILL_MAX_STORED_MIB",
    "max_file_age": "EMBEDMILL_MAX_FILE_AGE_DAYS",
    "files_dir": "EMBEDMILL_FILES_DIR",
}


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from embedmill_worker.gateway import main

    given = {variable: getattr(args, name) for name, variable in VARIABLES.items()}
    environment = os.environ | {variable: value for variable, value in given.items() if value is not None}
    main.run(environment, log_level=args.log_level)
    return 0
