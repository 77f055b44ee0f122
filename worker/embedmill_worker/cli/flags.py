"""Flags: each has an environment variable, which its help names and which gives its default."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from embedmill.errors import SettingsError
from embedmill.model_spec import ModelSpec
from embedmill_worker.environment import is_on
from embedmill_worker.settings import PRECISIONS

DTYPES: Final = ("float32", "float16", "int8", "binary")
INPUT_TYPES: Final = ("query", "passage")
LANES: Final = ("interactive", "bulk")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

#: Flags of a worker: flag, variable, metavar, help. Their values reach the worker as these variables.
_WORKER_FLAGS: Final = (
    ("--redis-url", "EMBEDMILL_REDIS_URL", "URL", "Redis or Valkey: redis://, rediss:// or unix://"),
    ("--namespace", "EMBEDMILL_NAMESPACE", "NAME", "prefix of every key and queue; default embedmill"),
    ("--model", "EMBEDMILL_MODEL", "MODEL,…", "models to serve, the first is the default one; see embedmill models"),
    ("--precision", "EMBEDMILL_PRECISION", "P", "fp32, bf16 or int8; default as the models' files are: fp32"),
    ("--concurrency", "EMBEDMILL_CONCURRENCY", "N", "processes that embed; default auto: one a usable CPU"),
    ("--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", "where models are kept; default the user's data directory"),
    ("--cache-url", "EMBEDMILL_CACHE_URL", "URL", "a Redis of its own for the embedding cache; default none"),
)


def command(commands: Any, name: str, run: Callable[[Any], int], *, help: str, epilog: str) -> argparse.ArgumentParser:
    """Add a command, without ``add_argument`` for its options: see ``flag`` and ``switch``.

    Args:
        commands: what ``add`` was given.
        name: its name.
        run: takes the parsed arguments and gives the exit code; an ``EmbedError`` becomes a line and an exit code.
        help: what it does, in small letters.
        epilog: examples, each below a comment and indented by two spaces, then the exit codes.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[:1].upper() + help[1:] + ".",
        epilog=f"examples:\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def flag(
    parser: argparse.ArgumentParser,
    name: str,
    env: str,
    metavar: str,
    help: str,
    *,
    type: Callable[[str], Any] = str,
    choices: Iterable[str] | None = None,
    default: str | None = None,
) -> None:
    """Add a flag with a value; an empty variable counts as unset. Choices are checked, and begin the help."""
    value = os.environ.get(env) or default
    text = f"{help} [{env}]".replace("%", "%%")
    if choices is not None:
        type, text = one_of(choices), f"%(choices)s; {text}"
    parser.add_argument(name, action=_Store, metavar=metavar, type=type, choices=choices, default=value, help=text)


class _Store(argparse.Action):
    """Keep a flag's value, and that it was given as a flag: an error about it names the flag."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.flags_given = {*getattr(namespace, "flags_given", ()), self.dest}


def origin(name: str, args: argparse.Namespace) -> str:
    """Return what gave a setting, by the setting's name or its variable's: a flag, or a variable."""
    dest = name.removeprefix("EMBEDMILL_").lower()
    if dest in getattr(args, "flags_given", ()):
        return f"--{dest.replace('_', '-')}"
    return f"EMBEDMILL_{dest.upper()}" if hasattr(args, dest) else name


def switch(parser: argparse.ArgumentParser, name: str, env: str, help: str) -> None:
    """Add a flag without a value; its variable is on unless empty or 0."""
    parser.add_argument(name, action="store_true", default=is_on(os.environ.get(env, "")), help=f"{help} [{env}]")


class Formats:
    """What a source may be read as; what knows all of it is loaded when more than ``auto`` is asked for."""

    def __init__(self, *others: str) -> None:
        self._others = others

    def __iter__(self) -> Iterator[str]:
        yield "auto"
        from embedmill.reindexing.sources.forms import FORMS

        yield from (*FORMS, *self._others)


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """Return a type that takes these values only, from the environment as well."""

    def check(value: str) -> str:
        if value not in choices:
            raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(choices)}")
        return value

    return check


def number(value: str) -> int:
    """Read a whole number from 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1")
    return int(value)


def seconds(value: str) -> float:
    """Read seconds."""
    try:
        parsed = float(value)
    except ValueError:
        parsed = -1.0
    if not 0 <= parsed < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds")
    return parsed


def one_spec(value: str) -> ModelSpec:
    """Read a model as its users name it."""
    try:
        return ModelSpec.parse(value)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(f"{error.value}: {error.reason}") from None


def model_spec(value: str) -> ModelSpec:
    """Read the default model of an ``EMBEDMILL_MODEL`` value."""
    return one_spec(value.split(",", maxsplit=1)[0])


def model_name(value: str) -> str:
    """Read that model's name, which is all that a client needs."""
    return model_spec(value).name


def client_flags(parser: argparse.ArgumentParser, *, model: Callable[[str], Any] = model_name) -> None:
    """Add what a client has to know; ``model`` is the type of that flag."""
    flag(parser, "--redis-url", "EMBEDMILL_REDIS_URL", "URL", "Redis or Valkey: redis://, rediss:// or unix://")
    flag(parser, "--namespace", "EMBEDMILL_NAMESPACE", "NAME", "prefix of every key and queue; default embedmill")
    text = "model; default the only one that workers announce"
    flag(parser, "--model", "EMBEDMILL_MODEL", "NAME", text, type=model)


def precision(parser: argparse.ArgumentParser) -> None:
    """Add the precision in which a model is looked at."""
    text = "fp32, bf16 or int8; default as its files are"
    flag(parser, "--precision", "EMBEDMILL_PRECISION", "P", text, type=one_of(PRECISIONS))


def worker_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a worker has to know."""
    for name, env, metavar, text in _WORKER_FLAGS:
        flag(parser, name, env, metavar, text)
    switch(parser, "--exact", "EMBEDMILL_EXACT", "bf16: one text at a time, so that no bit depends on a batch")
    switch(parser, "--rollover", "EMBEDMILL_ROLLOVER", "serve although live workers have another fingerprint")
    switch(parser, "--keep-dead-texts", "EMBEDMILL_KEEP_DEAD_TEXTS", "dead letters hold their texts, for 30 days")
    flag(
        parser,
        "--log-level",
        "EMBEDMILL_LOG_LEVEL",
        "LEVEL",
        f"{', '.join(LOG_LEVELS)}; default INFO",
        type=one_of(LOG_LEVELS),
        default="INFO",
    )


def worker_environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a worker with these flags."""
    environment = dict(os.environ)
    for name in ("exact", "rollover", "keep_dead_texts"):
        environment[f"EMBEDMILL_{name.upper()}"] = "1" if getattr(args, name, False) else ""
    for name, env, _, _ in _WORKER_FLAGS:
        value = getattr(args, name[2:].replace("-", "_"), None)
        if value is not None:
            environment[env] = value
    return environment
