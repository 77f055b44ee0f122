"""``embedmill models``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say, show_log, table

if TYPE_CHECKING:
    from embedmill_worker.engine import Engine
    from embedmill_worker.models import Model

_EPILOG = """\
  # what can be named
  embedmill models list
  # fetch a model now, so that a worker starts without the network
  embedmill models pull sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2
  # what a model of a folder of yours would be, or fastText vectors
  embedmill models show mine=/models/mine --json
  embedmill models show cc=/models/cc.id.300.bin
"""

#: What ``models show`` calls the parts of a price.
_PRICE: Final = {
    "texts": "texts measured",
    "speed": "speed ÷ fp32",
    "mean_cosine": "mean cosine to fp32",
    "min_cosine": "lowest cosine to fp32",
}

_LIST_EPILOG = """\
  # names for scripts
  embedmill models list --json
"""

_SHOW_EPILOG = """\
  # the files in use, for scripts; the model is fetched if it is not here
  embedmill models show all-MiniLM-L6-v2 --json
"""

_QUANTIZE_EPILOG = """\
  # int8 of the default model, and what it costs against fp32
  embedmill models quantize
  # of a folder of yours; the worker started with EMBEDMILL_PRECISION=int8 finds it made
  embedmill models quantize mine=/models/mine
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
    text = "make int8 of models and measure it against fp32; a worker does so at its first start"
    quantize = flags.command(actions, "quantize", _quantize, help=text, epilog=_QUANTIZE_EPILOG)
    quantize.add_argument("names", metavar="NAME[=FOLDER]", nargs="*", help="the models [EMBEDMILL_MODEL]")
    for action in (show, pull):
        flags.precision(action)
    for action in (show, pull, quantize):
        text = "where models are kept; default the user's data directory"
        flags.flag(action, "--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", text)
    for action in (listing, show, pull, quantize):
        flags.switch(action, "--json", "EMBEDMILL_JSON", "write JSON")


def fetch(spec: str, data_dir: Path) -> Model:
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
    facts = _facts(args.name, args.precision or "", _data_dir(args))
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        price = {_PRICE[name]: value for name, value in facts.pop("price", {}).items()}
        notes = [("note", note) for note in facts.pop("notes")]
        rows = {**price, **facts.pop("files")}
        table(("", args.name), [(name, str(value)) for name, value in (facts | rows).items()] + notes)
    return 0


def _pull(args: argparse.Namespace) -> int:
    pulled = []
    for name in args.names or _served():
        facts = _facts(name, args.precision or "", _data_dir(args))
        pulled.append(facts)
        if not args.json:
            say(f"{facts['name']}: fingerprint {facts['fingerprint']}, dimension {facts['dimension']}, ready")
    if args.json:
        print(json.dumps(pulled, indent=2))
    return 0


def _quantize(args: argparse.Namespace) -> int:
    made = [_facts(name, "int8", _data_dir(args)) for name in args.names or _served()]
    if args.json:
        print(json.dumps(made, indent=2))
        return 0
    table(
        ("model", "class", *_PRICE.values()),
        [(facts["name"], facts["class"], *facts.get("price", dict.fromkeys(_PRICE, "-")).values()) for facts in made],
    )
    return 0


def _served() -> tuple[str, ...]:
    from embedmill_worker.settings import WorkerSettings

    return WorkerSettings.from_env(dict(os.environ)).models


def _facts(spec: str, precision: str, data_dir: Path) -> dict[str, Any]:
    """Load a model as a worker would, and say what it is."""
    from embedmill_worker.engine import load
    from embedmill_worker.models import in_precision

    show_log()
    files = in_precision(fetch(spec, data_dir), precision, data_dir=data_dir)
    return describe(files, load(files, cache_dir=data_dir / "probes"))


def describe(files: Model, engine: Engine) -> dict[str, Any]:
    """Give what ``models show`` shows."""
    from embedmill_worker.engine.loading import precision_note

    price = engine.price
    told = (
        {
            "texts": price.texts,
            "speed": round(price.speed, 2),
            "mean_cosine": round(price.mean_cosine, 6),
            "min_cosine": round(price.min_cosine, 6),
        }
        if price
        else {}
    )
    return {
        "name": files.name,
        "fingerprint": engine.card.fingerprint,
        "dimension": engine.card.dimension,
        "max_tokens": engine.card.max_tokens,
        "tokens_per_s": round(engine.card.tokens_per_s),
        "precision": engine.card.precision,
        "class": str(engine.card.batch_class),
        **({"price": told} if told else {}),
        "notes": [note] if (note := precision_note(engine.card.precision)) else [],
        "files": {kind: str(path) for kind, path in files.paths.items()},
    }


def _data_dir(args: argparse.Namespace) -> Path:
    from embedmill.settings import data_dir

    given = {"EMBEDMILL_DATA_DIR": args.data_dir} if args.data_dir else {}
    return data_dir({**os.environ, **given}).absolute()
