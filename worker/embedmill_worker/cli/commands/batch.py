"""The command ``embedmill batch``."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import Progress as ProgressBar
from embedmill_worker.cli.terminal import progress, say

if TYPE_CHECKING:
    from embedmill_worker.batches.file_run import Outputs
    from embedmill_worker.batches.objects import Progress

_EPILOG: Final = """\
  # embed the requests of a file, a line each, and write the answers in the same order
  embedmill batch requests.jsonl --output answers.jsonl

A request is {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "…", "input": "…"}}, as in
OpenAI's batch API. If the command is ended early, run it again: it goes on behind the last answer that was written.
Answers are in OUTPUT.partial until all of them are there.

Exit codes: 0 success, 2 the file is refused, 4 Redis does not answer, 7 some requests were refused and the others were
embedded, 12 a file could not be read or written.
"""

#: Faults of a file that are shown.
MAX_SHOWN: Final = 10


def add(commands: Any) -> None:
    """Add the command."""
    text = "embed a file of OpenAI's batch requests through the queue, without a gateway"
    parser = flags.command(commands, "batch", run, help=text, epilog=_EPILOG)
    parser.add_argument("file", metavar="FILE", help="JSONL file of requests")
    output = parser.add_argument_group("output")
    flags.flag(output, "--output", "EMBEDMILL_OUTPUT", "FILE", "JSONL file to write (required)")
    flags.client_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run all requests; Ctrl-C leaves what is done for the next run."""
    from embedmill.errors import InvalidRequestError, SourceError
    from embedmill_worker import exit_codes

    try:
        from embedmill_worker.batches.file_run import InvalidFileError, Outputs
    except ModuleNotFoundError as error:
        say(f"{error.name} is missing; run: pip install 'embedmill[gateway]'")
        return exit_codes.USAGE
    path = Path(args.file)
    if not args.output:
        raise InvalidRequestError("--output", "name the file to write")
    outputs = Outputs(output=Path(args.output))
    if outputs.output.exists() and path.exists() and path.samefile(outputs.output):
        raise InvalidRequestError("--output", f"{path} is the input, and would be overwritten; name another file")
    if not path.is_file():
        raise SourceError(str(path), "is not a file that can be read; name another one")
    try:
        with progress("embedding", is_shown=True) as bar:
            done = asyncio.run(_run(args, path, outputs, bar))
    except KeyboardInterrupt:
        say("ended early; run the same command again to go on")
        raise
    except InvalidFileError as error:
        for fault in error.faults[:MAX_SHOWN]:
            where = f"{path}:{fault.line}" if fault.line else f"{path}"
            say(f"{where}: {fault.message}")
        if len(error.faults) > MAX_SHOWN:
            say(f"and {len(error.faults) - MAX_SHOWN} more; nothing was embedded")
        return exit_codes.USAGE
    if not done.failed:
        return exit_codes.OK
    say(f"{done.failed:,} of {done.completed + done.failed:,} requests were refused; their lines say why")
    return exit_codes.REJECTED


async def _run(args: argparse.Namespace, path: Path, outputs: Outputs, bar: ProgressBar) -> Progress:
    from embedmill.settings import ClientSettings, data_dir
    from embedmill_worker.batches.file_run import run_file
    from embedmill_worker.gateway.apis.tokens import Detokenizer
    from embedmill_worker.gateway.main import read_specs
    from embedmill_worker.gateway.metrics import Metrics
    from embedmill_worker.gateway.service import EmbeddingService
    from embedmill_worker.gateway.settings import GatewaySettings

    client = ClientSettings.from_env(args.redis_url, args.model, args.namespace)
    service = EmbeddingService(GatewaySettings(client=client), Metrics())
    detokenizer = Detokenizer(data_dir(os.environ), read_specs(os.environ))
    await service.start()
    try:
        return await run_file(path, outputs, service, detokenizer, report=bar.update, warn=say)
    finally:
        await service.close()
