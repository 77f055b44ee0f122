"""``embedmill models``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say, table

if TYPE_CHECKING:
    from embedmill_worker.engine import Engine
    from embedmill_worker.models import ModelFiles

_EPILOG = """\
  # what can be named
  embedmill models list
  # fetch a model now, so that a worker starts without the network
  embedmill models pull sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2
  # what a model of a folder of yours would be
  embedmill models show mine=/models/mine --json
"""

_LIST_EPILOG = """\
  # names for scripts
  embedmill models list --json
"""

_SHOW_EPILOG = """\
  # the files in use, for scripts; the model is fetched if it is not here
  embedmill models show all-MiniLM-L6-v2 --json
"""

_PULL_EPILOG = """\
  # whatever EMBEDMILL_MODEL names, or else the default model
  embedmill models pull
"""


def add(commands: Any) -> None:
    """Add the command and its own commands."""
    parser = flags.command(commands, "models", _list, help="list, show and fetch models", epilog=_EPILOG)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = flags.command(actions, "list", _list, help="list the models that have a name", epilog=_LIST_EPILOG)
    show = flags.command(actions, "show", _show, help="show a model as it would be served", epilog=_SHOW_EPILOG)
    show.add_argument("name", metavar="NAME[=FOLDER]", help="the model")
    pull = flags.command(actions, "pull", _pull, help="fetch, verify and measure models", epilog=_PULL_EPILOG)
    pull.add_argument("names", metavar="NAME[=FOLDER]", nargs="*", help="the models [EMBEDMILL_MODEL]")
    for action in (show, pull):
        text = "where models are kept; default the user's data directory"
        flags.flag(action, "--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", text)
    for action in (listing, show, pull):
        flags.switch(action, "--json", "EMBEDMILL_JSON", "write JSON")


def fetch(spec: str, data_dir: Path) -> ModelFiles:
    """Find a model, fetching it with progress if it is not here.

    Raises:
        ModelLoadError: it cannot be had.
    """
    from embedmill_worker.models import resolve

    with progress(f"fetching {spec}", unit="bytes") as bar:
        return resolve(spec, data_dir=data_dir, progress=lambda _, done, total: bar.update(done, total))


def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from embedmill_worker.models import known

    models = known()
    if args.json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return 0
    rows = [
        (
            m.name,
            m.source,
            m.dimension,
            f"{m.bytes / 1e6:,.0f} MB",
            f"not served: {m.refusal}" if m.refusal else m.description,
        )
        for m in models
    ]
    table(("name", "source", "dimension", "size", "description"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    facts = _facts(args.name, _data_dir(args))
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        table(("", args.name), [(name, str(value)) for name, value in (facts | facts.pop("files")).items()])
    return 0


def _pull(args: argparse.Namespace) -> int:
    from embedmill_worker.settings import WorkerSettings

    names = args.names or WorkerSettings.from_env(dict(os.environ)).models
    pulled = []
    for name in names:
        facts = _facts(name, _data_dir(args))
        pulled.append(facts)
        if not args.json:
            say(f"{facts['name']}: fingerprint {facts['fingerprint']}, dimension {facts['dimension']}, ready")
    if args.json:
        print(json.dumps(pulled, indent=2))
    return 0


def _facts(spec: str, data_dir: Path) -> dict[str, Any]:
    """Load a model as a worker would, and say what it is."""
    from embedmill_worker.engine import load

    files = fetch(spec, data_dir)
    return describe(files, load(files, cache_dir=data_dir / "probes"))


def describe(files: ModelFiles, engine: Engine) -> dict[str, Any]:
    """Give what ``models show`` shows."""
    return {
        "name": files.name,
        "fingerprint": engine.card.fingerprint,
        "dimension": engine.card.dimension,
        "max_tokens": engine.card.max_tokens,
        "precision": engine.card.precision,
        "class": str(engine.card.batch_class),
        "files": {"graph": str(files.graph), "tokenizer": str(files.tokenizer)},
    }


def _data_dir(args: argparse.Namespace) -> Path:
    from embedmill_worker.settings import data_dir

    given = {"EMBEDMILL_DATA_DIR": args.data_dir} if args.data_dir else {}
    return data_dir({**os.environ, **given}).absolute()
