#!/usr/bin/env python3
"""docs/settings.md, made of the help of all options and of the variables that have none.

python tests/support/settings_page.py       writes the page anew; a test holds it to the code
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "settings.md"

_HEAD = """\
# Settings

This page is for people who set embedmill up: every environment variable, its option and its default. It is made of the
help of the commands: `make settings` writes it again.

Each option has a variable. An option comes before its variable, and an empty variable counts as unset. Python clients
and workers that Celery starts read the variables; clients without a URL also find a running `embedmill up`.
"""

#: Variables that no option sets.
OTHERS = {
    "EMBEDMILL_API_KEYS": "gateway: keys that are accepted, by comma; see gateway.md",
    "EMBEDMILL_ANSWER_TIMEOUT_S": "gateway: seconds in which a client must have read an answer; default 120",
    "EMBEDMILL_BODY_TIMEOUT_S": "gateway: seconds in which a request's body must have arrived; default 30",
    "EMBEDMILL_HEADERS_TIMEOUT_S": "gateway: seconds in which a request's headers must have arrived; default 20",
    "EMBEDMILL_IDLE_TIMEOUT_S": "gateway: seconds that an idle connection is kept; default 75",
    "EMBEDMILL_GRACE_S": "worker: seconds from SIGTERM until what still runs is left to other workers; default 80",
    "EMBEDMILL_HEALTH_FILE": "worker: file that it writes for `embedmill health`; default none",
    "EMBEDMILL_TENANT": "client: who the jobs are for; workers take turns between tenants; default nobody in"
    " particular",
    "EMBEDMILL_TENANT_WEIGHTS": "worker: tenants that have several tenants' share or a part of one, as in"
    " gold=3,free=0.5",
    "EMBEDMILL_TENANT_CAP": "worker: tokens that one tenant may have under work, also if nobody else waits; default 0,"
    " any number",
    "EMBEDMILL_MAX_QUEUED_TOKENS": "client: tokens of one tenant that may wait in a lane before QueueFullError; 0"
    " allows any number; default 100,000,000",
    "EMBEDMILL_QDRANT_API_KEY": "reindex: the API key of Qdrant",
    "EMBEDMILL_WEBHOOK_SECRET": "gateway: secret (whsec_…) for webhooks of jobs that bring none; see jobs.md",
    "EMBEDMILL_VALKEY_BINARY": "up and demo: the server to start instead of the embedded Valkey",
}

#: Variables that processes of embedmill set for each other.
INTERNAL = {"EMBEDMILL_WORKER_ID"}


@dataclass
class Variable:
    """A variable and the options that it stands for."""

    help: str
    option: str
    commands: list[str] = field(default_factory=list)


def variables() -> dict[str, list[Variable]]:
    """Return the variables that have an option, by name: each meaning with the commands that give it."""
    from embedmill_worker.cli.dispatch import parser

    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("EMBEDMILL_")}
    try:
        root = parser()
    finally:
        os.environ.update(kept)
    found: dict[str, list[Variable]] = {}
    for command, action in _actions(root):
        text = (action.help or "") % {"choices": ", ".join(map(str, action.choices or ()))}
        match = re.fullmatch(r"(.*) \[(EMBEDMILL_\w+)\]", text, re.DOTALL)
        if match:
            meanings = found.setdefault(match[2], [])
            same = [one for one in meanings if one.help == match[1]]
            if not same:
                same = [Variable(help=match[1], option=action.option_strings[-1])]
                meanings += same
            same[0].commands.append(command)
    return found


def _actions(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _actions(command, f"{name} {word}".strip())
        elif action.option_strings:
            yield name, action


def page(found: Mapping[str, list[Variable]]) -> str:
    """Return the page."""
    lines = [_HEAD, "| variable | option | commands | meaning |", "| --- | --- | --- | --- |"]
    for name in sorted(found):
        for one in found[name]:
            commands = ", ".join(dict.fromkeys(one.commands))
            lines.append(f"| `{name}` | `{one.option}` | {commands} | {_cell(one.help)} |")
    lines += ["", "Without an option:", "", "| variable | meaning |", "| --- | --- |"]
    lines += [f"| `{name}` | {_cell(OTHERS[name])} |" for name in sorted(OTHERS)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(variables()), "utf-8")
