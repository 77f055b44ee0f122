"""The command ``embedmill models``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill.model_spec import ModelSpec
from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import progress, say, show_log, table
from embedmill_worker.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from embedmill_worker.engine import Engine
    from embedmill_worker.models import Model

_EPILOG = """\
  # list the models that have a name of their own
  embedmill models list
  # fetch a model now, so that a worker starts without the network
  embedmill models pull sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2
  # show how a worker would serve a model of a hub, one in a folder, or fastText vectors
  embedmill models show intfloat/e5-small-v2
  embedmill models show ./my-model --json
  embedmill models show cc=/models/cc.id.300.bin
"""

#: Ways to name a model.
_MODEL: Final = "a known name, org/name[@revision] of a hub, a folder or a file; or NAME= and one of these"
_MODELS: Final = f"one or more models: {_MODEL} (default: {DEFAULT_MODEL}) [EMBEDMILL_MODEL]"

#: Labels that ``models show`` and ``models quantize`` print for what a precision costs.
_PRICE: Final = {
    "texts": "texts measured",
    "speed": "speed ÷ fp32",
    "mean_cosine": "mean cosine to fp32",
    "min_cosine": "lowest cosine to fp32",
}

_LIST_EPILOG = """\
  # the same, for scripts
  embedmill models list --json
"""

_SHOW_EPILOG = """\
  # fetch the model if needed, and print its properties and files, for scripts
  embedmill models show all-MiniLM-L6-v2 --json
"""

_QUANTIZE_EPILOG = """\
  # convert the default model, and show its speed and its cosines to fp32
  embedmill models quantize
  # convert a model in a folder; a worker with EMBEDMILL_PRECISION=int8 then uses the result
  embedmill models quantize mine=/models/mine
"""

_PULL_EPILOG = """\
  # fetch the models that EMBEDMILL_MODEL names, else the default model
  embedmill models pull
"""


def add(commands: Any) -> None:
    """Add the command and its subcommands."""
    text = "list, show, fetch and quantize models"
    parser = flags.command(commands, "models", _list, help=text, epilog=_EPILOG)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    text = "list the models that can be named without a hub or a folder"
    listing = flags.command(actions, "list", _list, help=text, epilog=_LIST_EPILOG)
    text = "show how a worker would serve a model; fetch and measure it if needed"
    show = flags.command(actions, "show", _show, help=text, epilog=_SHOW_EPILOG)
    text = "fetch models in their newest version, verify and measure them"
    pull = flags.command(actions, "pull", _pull, help=text, epilog=_PULL_EPILOG)
    text = "convert models to int8, as a worker does at its first start, and compare them with fp32"
    quantize = flags.command(actions, "quantize", _quantize, help=text, epilog=_QUANTIZE_EPILOG)
    for action in (show, pull, quantize):
        group = action.add_argument_group("model")
        if action is show:
            group.add_argument("name", metavar="MODEL", type=flags.one_spec, help=_MODEL)
        else:
            group.add_argument("names", metavar="MODEL", type=flags.one_spec, nargs="*", help=_MODELS)
        if action is not quantize:
            flags.precision(group)
        flags.data_dir(group)
    for action in (listing, show, pull, quantize):
        flags.json_flag(action)


def fetch(spec: ModelSpec, data_dir: Path, *, precision: str = "", newest: bool = False) -> Model:
    """Return a model's files; fetch them, with progress, if they are not in the data folder.

    Args:
        spec: the model.
        data_dir: data folder, which keeps models.
        precision: see ``resolve``.
        newest: ask the hub for the newest commit even if one was fetched before.

    Raises:
        ModelLoadError: the model cannot be found or fetched.
    """
    from embedmill_worker.models import resolve

    with progress(f"fetching {spec}", unit="bytes") as bar:
        return resolve(
            spec,
            data_dir=data_dir,
            precision=precision,
            newest=newest,
            progress=lambda _, done, total: bar.update(done, total),
        )


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
        sources, rows = facts.pop("sources"), {**price, **facts.pop("files")}
        shown = [
            (name, "none" if value is None else str(value), f"from {sources[name]}" if name in sources else "")
            for name, value in (facts | rows).items()
        ]
        table(("", str(args.name), ""), [*shown, *((name, note, "") for name, note in notes)])
    return 0


def _pull(args: argparse.Namespace) -> int:
    pulled = []
    for spec in args.names or _served():
        facts = _facts(spec, args.precision or "", _data_dir(args), newest=True)
        pulled.append(facts)
        if not args.json:
            say(f"{facts['name']} is ready: dimension {facts['dimension']}, fingerprint {facts['fingerprint']}")
    if args.json:
        print(json.dumps(pulled, indent=2))
    return 0


def _quantize(args: argparse.Namespace) -> int:
    made = [_facts(spec, "int8", _data_dir(args)) for spec in args.names or _served()]
    if args.json:
        print(json.dumps(made, indent=2))
        return 0
    table(
        ("model", "class", *_PRICE.values()),
        [(facts["name"], facts["class"], *facts.get("price", dict.fromkeys(_PRICE, "-")).values()) for facts in made],
    )
    return 0


def _served() -> tuple[ModelSpec, ...]:
    from embedmill_worker.settings import WorkerSettings

    return WorkerSettings.from_env(dict(os.environ)).models


def _facts(spec: ModelSpec, precision: str, data_dir: Path, *, newest: bool = False) -> dict[str, Any]:
    """Load a model as a worker would; return its properties and what its precision costs."""
    from embedmill_worker.engine import load
    from embedmill_worker.models import in_precision

    show_log()
    found = fetch(spec, data_dir, precision=precision, newest=newest)
    files = in_precision(found, precision, data_dir=data_dir)
    return describe(files, load(files, cache_dir=data_dir / "probes", measures_price=True))


def describe(files: Model, engine: Engine) -> dict[str, Any]:
    """Return the properties of a loaded model, as ``models show --json`` prints them."""
    from embedmill_worker.engine.transformer.loading import precision_note

    price = engine.price
    cost = (
        {
            "texts": price.texts,
            "speed": round(price.speed, 2),
            "mean_cosine": round(price.mean_cosine, 6),
            "min_cosine": round(price.min_cosine, 6),
        }
        if price
        else {}
    )
    pooling = _pooling(files)
    sources = pooling.pop("sources", {})
    return {
        "name": files.name,
        "fingerprint": engine.card.fingerprint,
        "revision": engine.card.revision,
        "dimension": engine.card.dimension,
        "max_tokens": engine.card.max_tokens,
        **pooling,
        "tokens_per_s": round(engine.card.tokens_per_s),
        "precision": engine.card.precision,
        "class": str(engine.card.batch_class),
        **({"price": cost} if cost else {}),
        "notes": [note] if (note := precision_note(engine.card.precision)) else [],
        "sources": sources,
        "files": {kind: str(path) for kind, path in files.paths.items()},
    }


def _pooling(files: Model) -> dict[str, Any]:
    """Return how the model's output becomes vectors (pooling, normalization, prefixes), and which file says so."""
    from embedmill_worker.models import ModelFiles, StaticTable

    if isinstance(files, ModelFiles):
        prompts = {kind: files.prompts.get(kind) for kind in ("query", "passage")}
        return {"pooling": files.pooling.value, "normalize": files.normalize, **prompts, "sources": dict(files.sources)}
    kind = "model2vec" if isinstance(files, StaticTable) else "fastText"
    sources = dict.fromkeys(("pooling", "normalize", "max_tokens", "query", "passage"), f"the rules of {kind}")
    if isinstance(files, StaticTable) and not files.revision:
        sources["normalize"] = "config.json"
    normalize = isinstance(files, StaticTable) and files.normalize
    return {"pooling": "mean", "normalize": normalize, "query": None, "passage": None, "sources": sources}


def _data_dir(args: argparse.Namespace) -> Path:
    from embedmill.settings import data_dir

    given = {"EMBEDMILL_DATA_DIR": args.data_dir} if args.data_dir else {}
    return data_dir({**os.environ, **given}).absolute()
