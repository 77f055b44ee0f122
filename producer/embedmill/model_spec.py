"""A model as users name it: the value of ``EMBEDMILL_MODEL`` and ``--model``."""

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
#: Endings of files that are models by themselves.
_FILE_ENDINGS: Final = (".onnx", ".bin")
#: Beginnings of a path.
_PATHS: Final = ("/", "./", "../", "~")
#: Most characters of a spec that a message shows.
_SHOWN_CHARS: Final = 200


def check_model_name(name: str) -> str:
    """Return the name if it can stand in a Redis key, a queue's name and JSON without escapes.

    Raises:
        SettingsError: the name has other characters, or is too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError("model", kind(name), f"a model name matches {_NAME.pattern}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The name of a model and where its files are."""

    #: Name that clients ask for.
    name: str
    #: A built-in name, ``org/name[@revision]`` on a hub, or a path.
    place: str

    def __post_init__(self) -> None:
        check_model_name(self.name)

    def __str__(self) -> str:
        return self.place if self.place == self.name else f"{self.name}={self.place}"

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read ``name``, ``org/name[@revision]``, a path, or ``name=`` and one of these.

        A path begins with ``/``, ``./``, ``../`` or ``~``, ends with ``.onnx`` or ``.bin``, or is an existing folder.
        A path without ``name=`` names the model after its folder, or after the file without ``.bin``.

        Raises:
            SettingsError: the text has none of these forms, or the folder's name cannot be a model's name.
        """
        text = text.strip()
        if "://" in text:
            raise _error(text, "write org/name for a repository of a hub, or a folder's path")
        name, has_name, place = (part.strip() for part in text.partition("="))
        if text.startswith(_PATHS):  # a path may hold a =
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
            raise _error(text, f"the folder's name {_shown(found)} cannot be a model's name; write name={quote(name)}")
        return cls(name=found, place=name)

    @classmethod
    def parse_all(cls, text: str) -> tuple[ModelSpec, ...]:
        """Read several specs, separated by commas.

        Raises:
            SettingsError: a spec cannot be read, or two have the same name.
        """
        specs = tuple(cls.parse(part) for part in text.split(",") if part.strip())
        names = [spec.name for spec in specs]
        for spec in specs:
            if names.count(spec.name) > 1:
                raise _error(text, f"two models are called {spec.name}; write name=folder to give one another name")
        return specs

    @property
    def path(self) -> Path | None:
        """The folder or file; None if the place is not a path."""
        return Path(self.place) if _is_path(self.place) else None

    @property
    def repository(self) -> tuple[str, str] | None:
        """The hub's repository and its revision ("" for the newest); None if the place is not a repository."""
        match = None if _is_path(self.place) else _REPOSITORY.fullmatch(self.place)
        return (match[1], match[2] or "") if match else None

    def absolute(self) -> ModelSpec:
        """Return the spec with an absolute path, valid in every working directory."""
        is_folder = self.place != self.name and os.path.exists(self.place)  # noqa: PTH110  takes any string
        if self.path is None and not is_folder:
            return self
        return ModelSpec(name=self.name, place=str(_absolute(self.place)))


def named_model(model: str) -> str:
    """Return the name of the model that a caller asks for: a name, or a spec that ``ModelSpec.parse`` reads.

    Raises:
        SettingsError: it is neither. The error does not quote it: it may be a text in the wrong place.
    """
    is_spec = isinstance(model, str) and (_is_path(model) or "=" in model)
    try:
        return ModelSpec.parse(model).name if is_spec else check_model_name(model)
    except SettingsError:
        reason = f"pass a name that matches {_NAME.pattern}, the model's folder, or name=folder"
        raise SettingsError("model", kind(model), reason) from None


def first_model(text: str) -> str | None:
    """Return the name of the first, and so the default, model in a value of ``EMBEDMILL_MODEL``; None if it is empty.

    Raises:
        SettingsError: the first spec cannot be read.
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
    """Return the repository that a folder in the cache of huggingface_hub holds; "" for other folders."""
    *_, repository, snapshots, _commit = ("", "", *folder.parts)
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return ""
    return repository.removeprefix("models--").replace("--", "/", 1)


def _absolute(path: str) -> PurePath:
    try:
        return PurePath(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  keeps links as they are
    except RuntimeError:
        raise _error(path, "its home directory does not exist; write the path without ~") from None


def _error(text: str, reason: str) -> SettingsError:
    return SettingsError("EMBEDMILL_MODEL", _shown(text), reason)


def _shown(text: str) -> str:
    return repr(printable(text, limit=_SHOWN_CHARS))
