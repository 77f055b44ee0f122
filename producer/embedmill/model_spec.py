"""A model as its users name it: what ``EMBEDMILL_MODEL`` and ``--model`` hold."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from shlex import quote
from typing import Final

from embedmill.errors import SettingsError
from embedmill.safe.printable import kind, printable

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}")
#: A repository of a hub, as ``org/name`` or ``org/name@revision``.
_REPOSITORY: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
#: Files that are models by themselves.
_FILE_ENDINGS: Final = (".onnx", ".bin")
#: How a path begins.
_PATHS: Final = ("/", "./", "../", "~")
#: Characters of a spec that a message shows.
_SHOWN_CHARS: Final = 200


def check_model_name(name: str) -> str:
    """Return the name if it can be a Redis key, a queue and a JSON string without escapes.

    Raises:
        SettingsError: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError("model", kind(name), f"a model name matches {_NAME.pattern}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model is called and where it is."""

    #: What clients ask for.
    name: str
    #: A known name, ``org/name[@revision]`` of a hub, or a path.
    place: str

    def __post_init__(self) -> None:
        check_model_name(self.name)

    def __str__(self) -> str:
        return self.place if self.place == self.name else f"{self.name}={self.place}"

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read ``name``, ``org/name[@revision]``, a path, or ``name=`` and one of these.

        A path begins with ``/``, ``./``, ``../`` or ``~``, ends with ``.onnx`` or ``.bin``, or is a folder that is
        there. Alone it gives the name of its folder; a fastText file its own without the ending.

        Raises:
            SettingsError: it is none of these, or its folder cannot be a name.
        """
        text = text.strip()
        if "://" in text:
            raise _error(text, "write org/name for a repository of a hub, or a folder's path")
        name, has_name, place = (part.strip() for part in text.partition("="))
        if text.startswith(_PATHS):  # which may hold a =
            name, has_name, place = text, "", ""
        if not name or (has_name and not place):
            raise _error(text, "write a name, org/name, a folder, or name=folder")
        if has_name:
            return cls(name=name, place=place)
        if not _is_path(name):
            if not _NAME.fullmatch(name):
                raise _error(text, f"a model name matches {_NAME.pattern}")
            return cls(name=name, place=name)
        found = _name_of(name)
        if not _NAME.fullmatch(found):
            raise _error(
                text, f"its folder gives the name {_shown(found)}, which cannot be one; write name={quote(name)}"
            )
        return cls(name=found, place=name)

    @classmethod
    def parse_all(cls, text: str) -> tuple[ModelSpec, ...]:
        """Read several, separated by commas.

        Raises:
            SettingsError: one cannot be read, or two have one name.
        """
        specs = tuple(cls.parse(part) for part in text.split(",") if part.strip())
        names = [spec.name for spec in specs]
        for spec in specs:
            if names.count(spec.name) > 1:
                raise _error(text, f"two models are called {spec.name}; write name=folder to name one otherwise")
        return specs

    @property
    def path(self) -> Path | None:
        """The folder or file; None if the place is no path."""
        return Path(self.place) if _is_path(self.place) else None

    @property
    def repository(self) -> tuple[str, str] | None:
        """The hub's repository and its revision ("" for the newest); None if the place is none."""
        match = None if _is_path(self.place) else _REPOSITORY.fullmatch(self.place)
        return (match[1], match[2] or "") if match else None

    def absolute(self) -> ModelSpec:
        """Return it with a path that holds in every working directory."""
        is_folder = self.place != self.name and os.path.exists(self.place)  # noqa: PTH110  takes any string
        if self.path is None and not is_folder:
            return self
        return ModelSpec(name=self.name, place=str(_absolute(self.place)))


def named_model(model: str) -> str:
    """Return the name of a model that a caller names; a path or ``name=`` and a place are read as ``parse`` does.

    Raises:
        SettingsError: it cannot be one; does not quote it.
    """
    is_spec = isinstance(model, str) and (_is_path(model) or "=" in model)
    try:
        return ModelSpec.parse(model).name if is_spec else check_model_name(model)
    except SettingsError:
        reason = f"a model is named by what matches {_NAME.pattern}, by its folder, or as name=folder"
        raise SettingsError("model", kind(model), reason) from None


def first_model(text: str) -> str | None:
    """Return the default model's name of an ``EMBEDMILL_MODEL`` value; None if it is empty.

    Raises:
        SettingsError: it cannot be read.
    """
    first = text.split(",", maxsplit=1)[0].strip()
    return ModelSpec.parse(first).name if first else None


def _is_path(place: str) -> bool:
    if place.startswith(_PATHS) or place in (".", "..") or place.endswith(_FILE_ENDINGS):
        return True
    try:
        return "/" in place and os.path.isdir(place)  # noqa: PTH112  takes any string
    except ValueError:
        return False


def _name_of(path: str) -> str:
    place = _absolute(path)
    if place.suffix == ".bin":
        return place.stem
    folder = place
    if place.suffix == ".onnx":
        folder = place.parent.parent if place.parent.name == "onnx" else place.parent
    return repository_of_path(folder) or folder.name


def repository_of_path(folder: PurePath) -> str:
    """Return the hub's repository that a folder in the cache of huggingface_hub holds; "" for other folders."""
    *_, repository, snapshots, _commit = ("", "", *folder.parts)
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return ""
    return repository.removeprefix("models--").replace("--", "/", 1)


def _absolute(path: str) -> PurePath:
    try:
        return PurePath(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  does not follow links
    except RuntimeError:
        raise _error(path, "there is no such home; write the path out") from None


def _error(text: str, reason: str) -> SettingsError:
    return SettingsError("EMBEDMILL_MODEL", _shown(text), reason)


def _shown(text: str) -> str:
    return repr(printable(text, limit=_SHOWN_CHARS))
