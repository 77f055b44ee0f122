"""Commits of a hub's repositories, and errors about repositories. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from embedmill.errors import ModelLoadError

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class HubAwayError(ModelLoadError):
    """The hub could not be asked."""


class UnknownRepositoryError(ModelLoadError):
    """The hub has no repository with this name, or does not show it to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A repository at one commit.

    Raises:
        ValueError: a value is invalid.
    """

    #: Name as `org/name`.
    repository: str
    #: 40 hexadecimal characters.
    commit: str
    #: Bytes of every file, fetched or not; 0 if not known.
    sizes: Mapping[str, int]
    #: Whether these are all files, as listed by a hub, or only those in a cache.
    is_whole: bool = True

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.commit):
            raise ValueError("a commit has 40 hexadecimal characters")
        for name, size in self.sizes.items():
            if not is_below(name) or type(size) is not int or size < 0:
                raise ValueError("a repository has a file with an impossible name or size")

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit}"


def is_below(name: object) -> bool:
    """Return whether a file's name leads to a file inside its repository."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
