"""The Lua scripts. Each change of a job record is one script, so it is atomic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script and the sha1 by which Redis calls it."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return ``lua/{name}.lua`` with the prelude before it; a process reads it once."""
    folder = files("embedmill.protocol") / "lua"
    text = folder.joinpath("prelude.lua").read_text("utf-8") + folder.joinpath(f"{name}.lua").read_text("utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


#: Names of all scripts.
NAMES = (
    *("submit", "claim", "commit", "note", "give_back", "cancel", "delete", "announce", "beat", "lock", "look"),
    *("survey", "mend", "settle", "top_up", "retire"),
)


def text_of(sha: str) -> str:
    """Return the text of the script with this sha1."""
    return next(script(name).text for name in NAMES if script(name).sha == sha)
