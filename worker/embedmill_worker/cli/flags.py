"""Flags of the command line. Each has an environment variable, named in its help, that overrides its default."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from embedmill.errors import SettingsError
from embedmill.model_spec import ModelSpec
from embedmill_worker.environment import is_on
from embedmill_worker.settings import DEFAULT_MODEL, PRECISIONS

DTYPES: Final = ("float32", "float16", "int8", "binary")
INPUT_TYPES: Final = ("query", "passage")
LANES: Final = ("interactive", "bulk")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

#: Flags of a worker with a value; the worker reads each value from its variable ``EMBEDMILL_…``.
_WORKER_FLAGS: Final = ("redis_url", "namespace", "model", "precision", "concurrency", "data_dir", "cache_url")

#: Flags of a worker without a value; their variables are set to 1, or emptied.
_WORKER_SWITCHES: Final = ("exact", "rollover", "keep_dead_texts")

#: Description of the Redis that a command uses without a URL.
_FOUND_REDIS: Final = "that of a running `embedmill up`, else redis://127.0.0.1:6379/0"

#: Description of the namespace that a command uses without one.
_FOUND_NAMESPACE: Final = "that of the `embedmill up` in use, else embedmill"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter that wraps only between words, so that names with hyphens stay whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def command(commands: Any, name: str, run: Callable[[Any], int], *, help: str, epilog: str) -> argparse.ArgumentParser:
    """Add a command, without options: see ``flag`` and ``switch``.

    Args:
        commands: the argument of ``add``.
        name: name of the command.
        run: takes the parsed arguments and returns the exit code; an ``EmbedError`` becomes a line and an exit code.
        help: what it does, in lower case.
        epilog: examples, each below a comment and indented by two spaces, then the exit codes.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[:1].upper() + help[1:] + ".",
        epilog=f"examples:\n{epilog}",
        formatter_class=_Formatter,
    )
    parser.set_defaults(run=run)
    return parser


def flag(
    group: argparse._ActionsContainer,
    name: str,
    env: str,
    metavar: str,
    help: str,
    *,
    type: Callable[[str], Any] = str,
    choices: Iterable[str] | None = None,
    default: str | None = None,
) -> None:
    """Add a flag with a value; an empty variable counts as unset. ``help`` states the default for readers.

    Choices are checked, and ``help`` names them as ``%(choices)s``.
    """
    value = os.environ.get(env) or default
    text = f"{help} [{env}]"
    if choices is not None:
        type = one_of(choices)
    else:
        text = text.replace("%", "%%")
    group.add_argument(name, action=_Store, metavar=metavar, type=type, choices=choices, default=value, help=text)


class _Store(argparse.Action):
    """Action that stores a value and notes that it came from a flag, so that an error about it names the flag."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.flags_given = {*getattr(namespace, "flags_given", ()), self.dest}


def origin(name: str, args: argparse.Namespace) -> str:
    """Return the flag or variable that a setting came from; ``name`` is the setting's or its variable's."""
    dest = name.removeprefix("EMBEDMILL_").lower()
    if dest in getattr(args, "flags_given", ()):
        return f"--{dest.replace('_', '-')}"
    return f"EMBEDMILL_{dest.upper()}" if hasattr(args, dest) else name


def switch(group: argparse._ActionsContainer, name: str, env: str, help: str) -> None:
    """Add a flag without a value, which is off by default; its variable is on unless empty or 0."""
    group.add_argument(name, action="store_true", default=is_on(os.environ.get(env, "")), help=f"{help} [{env}]")


class Formats:
    """Formats of the input. The module that knows them is loaded when another one than ``auto`` is looked for."""

    def __init__(self, *others: str) -> None:
        self._others = others

    def __iter__(self) -> Iterator[str]:
        yield "auto"
        from embedmill.reindexing.sources.forms import FORMS

        yield from (*FORMS, *self._others)


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """Return a type that accepts only these values, from the environment as well."""

    def check(value: str) -> str:
        if value not in choices:
            raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(choices)}")
        return value

    return check


def number(value: str) -> int:
    """Parse a whole number from 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1")
    return int(value)


def seconds(value: str) -> float:
    """Parse a number of seconds, zero or more."""
    try:
        parsed = float(value)
    except ValueError:
        parsed = -1.0
    if not 0 <= parsed < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds")
    return parsed


def one_spec(value: str) -> ModelSpec:
    """Parse a model, such as ``all-MiniLM-L6-v2`` or ``mine=/models/mine``."""
    try:
        return ModelSpec.parse(value)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(f"{error.value}: {error.reason}") from None


def model_spec(value: str) -> ModelSpec:
    """Parse the first model of an ``EMBEDMILL_MODEL`` value, which is the default one."""
    return one_spec(value.split(",", maxsplit=1)[0])


def model_name(value: str) -> str:
    """Parse the name of the first model of an ``EMBEDMILL_MODEL`` value, which is all that a client needs."""
    return model_spec(value).name


def redis_url(group: argparse._ActionsContainer, default: str = _FOUND_REDIS) -> None:
    """Add the flag for the URL of Redis; ``default`` describes what is used without one."""
    text = f"Redis or Valkey: redis://, rediss:// (TLS), unix:// or redis+sentinel:// (default: {default})"
    flag(group, "--redis-url", "EMBEDMILL_REDIS_URL", "URL", text)


def namespace(group: argparse._ActionsContainer, default: str = _FOUND_NAMESPACE) -> None:
    """Add the flag for the namespace; ``default`` describes what is used without one."""
    text = f"prefix of every key and queue in Redis (default: {default})"
    flag(group, "--namespace", "EMBEDMILL_NAMESPACE", "NAME", text)


def client_flags(
    parser: argparse.ArgumentParser, *, model: Callable[[str], Any] = model_name
) -> argparse._ArgumentGroup:
    """Add and return the group of flags that name a client's Redis, namespace and model; ``model`` parses the last."""
    group = parser.add_argument_group("queue")
    redis_url(group)
    namespace(group)
    text = "name of the model (default: the only one that workers announce)"
    flag(group, "--model", "EMBEDMILL_MODEL", "NAME", text, type=model)
    return group


def json_flag(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add and return the group of flags for output, with ``--json``."""
    group = parser.add_argument_group("output")
    switch(group, "--json", "EMBEDMILL_JSON", "print JSON instead of text")
    return group


def reading_flags(group: argparse._ActionsContainer, formats: Iterable[str]) -> None:
    """Add the flags that say how files of texts are read."""
    text = "format of the input: %(choices)s (default: auto)"
    flag(group, "--format", "EMBEDMILL_FORMAT", "FORMAT", text, choices=formats, default="auto")
    text = "character between the fields of CSV, such as ';' (default: a comma, in .tsv files a tab)"
    flag(group, "--delimiter", "EMBEDMILL_DELIMITER", "CHAR", text)
    text = "encoding of input without a byte order mark, such as latin-1 (default: UTF-8)"
    flag(group, "--encoding", "EMBEDMILL_ENCODING", "NAME", text)


def vector_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags for the shape and type of vectors, and for texts that are too long."""
    text = "number of leading components to keep of each vector (default: all)"
    flag(group, "--dimensions", "EMBEDMILL_DIMENSIONS", "N", text, type=number)
    text = f"type of the components: {alternatives(DTYPES)} (default: float32)"
    flag(group, "--dtype", "EMBEDMILL_DTYPE", "DTYPE", text, type=one_of(DTYPES), default="float32")
    text = "reject texts that are longer than the model reads, instead of truncating them"
    switch(group, "--no-truncate", "EMBEDMILL_NO_TRUNCATE", text)


def concurrency(group: argparse._ActionsContainer) -> None:
    """Add the flag for the number of child processes."""
    text = "child processes that embed (default: auto, one for each CPU that this process may use)"
    flag(group, "--concurrency", "EMBEDMILL_CONCURRENCY", "N", text)


def data_dir(group: argparse._ActionsContainer) -> None:
    """Add the flag for the data folder."""
    text = "data folder, which keeps models and measurements (default: ~/.local/share/embedmill)"
    flag(group, "--data-dir", "EMBEDMILL_DATA_DIR", "FOLDER", text)


def precision(group: argparse._ActionsContainer) -> None:
    """Add the flag for the precision that one model runs in."""
    text = "precision to run the model in: fp32, bf16 or int8 (default: that of the model's files)"
    flag(group, "--precision", "EMBEDMILL_PRECISION", "P", text, type=one_of(PRECISIONS))


def worker_flags(parser: argparse.ArgumentParser, *, redis: str = _FOUND_REDIS, space: str = _FOUND_NAMESPACE) -> None:
    """Add the groups of flags of a worker; ``redis`` and ``space`` describe the default URL and namespace."""
    queue = parser.add_argument_group("queue")
    redis_url(queue, redis)
    namespace(queue, space)
    worker = parser.add_argument_group("worker")
    text = f"models to serve, the default one first; see `embedmill models --help` (default: {DEFAULT_MODEL})"
    flag(worker, "--model", "EMBEDMILL_MODEL", "MODEL,…", text)
    # Any value is taken here: the worker's settings check it, and their errors have an exit code of their own.
    text = "precision to run the models in: fp32, bf16 or int8 (default: that of each model's files)"
    flag(worker, "--precision", "EMBEDMILL_PRECISION", "P", text)
    text = "with bf16, embed one text at a time, so that no vector depends on its batch"
    switch(worker, "--exact", "EMBEDMILL_EXACT", text)
    concurrency(worker)
    data_dir(worker)
    text = "Redis for the embedding cache, separate from the queue's (default: no cache)"
    flag(worker, "--cache-url", "EMBEDMILL_CACHE_URL", "URL", text)
    text = "start although live workers serve the model with another fingerprint"
    switch(worker, "--rollover", "EMBEDMILL_ROLLOVER", text)
    text = "store the text in each dead letter, where users of this Redis can read it for 30 days"
    switch(worker, "--keep-dead-texts", "EMBEDMILL_KEEP_DEAD_TEXTS", text)
    flag(
        worker,
        "--log-level",
        "EMBEDMILL_LOG_LEVEL",
        "LEVEL",
        f"lowest level that is logged: {alternatives(LOG_LEVELS)} (default: INFO)",
        type=one_of(LOG_LEVELS),
        default="INFO",
    )


def alternatives(values: Sequence[str]) -> str:
    """Return values for a sentence, as in ``a, b or c``."""
    return f"{', '.join(values[:-1])} or {values[-1]}"


def worker_environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a worker with these flags."""
    environment = dict(os.environ)
    for name in _WORKER_SWITCHES:
        environment[f"EMBEDMILL_{name.upper()}"] = "1" if getattr(args, name, False) else ""
    for name in _WORKER_FLAGS:
        value = getattr(args, name, None)
        if value is not None:
            environment[f"EMBEDMILL_{name.upper()}"] = value
    return environment
