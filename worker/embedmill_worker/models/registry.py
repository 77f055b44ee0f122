"""Registry: finds a model's files by its name. Modules for hub models are imported only when one is named."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedmill.errors import ModelLoadError, SettingsError
from embedmill.model_spec import ModelSpec
from embedmill_worker.models.disk import is_folder, told
from embedmill_worker.models.fingerprint import Model
from embedmill_worker.models.formats.fasttext_file import FastTextFile, fasttext_in, read_fasttext
from embedmill_worker.models.sources.commit import UnknownRepositoryError
from embedmill_worker.models.sources.folder import files_of_folder
from embedmill_worker.models.sources.wheel import WHEELS, Progress, find_wheel, wheel_folder

#: Minimum similarity, from 0 to 1, at which a name may be a mistyped form of another.
_CLOSE: Final = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that can be requested by name."""

    name: str
    #: "wheel" (package index) or "fastembed" (model hub).
    source: str
    dimension: int
    #: Size of the download.
    bytes: int
    description: str
    #: Why it cannot be served; empty if it can.
    refusal: str = ""


def known() -> list[KnownModel]:
    """List the models that have a name, with the embedded default first."""
    from embedmill_worker.models.sources import fastembed  # noqa: PLC0415 (brings ONNX Runtime)

    wheels = [
        KnownModel(
            name=name,
            source="wheel",
            dimension=wheel.dimension,
            bytes=wheel.bytes,
            description=wheel.description,
        )
        for wheel in WHEELS
        for name in wheel.names
    ]
    names = {model.name for model in wheels}
    registered = [
        KnownModel(
            name=model.name,
            source="fastembed",
            dimension=model.dimension,
            bytes=model.bytes,
            description=model.description,
            refusal=model.refusal,
        )
        for model in fastembed.registered_models()
        if model.name not in names
    ]
    return wheels + registered


def resolve(
    spec: ModelSpec | str,
    *,
    data_dir: Path,
    precision: str = "",
    download: bool = True,
    newest: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Find a model, fetch or export it if necessary, and verify its files.

    Args:
        spec: the model's name and location, see `ModelSpec.parse`.
        data_dir: folder of downloads, exports and notes.
        precision: requested precision; it selects an ONNX file if none is in fp32.
        download: False to use only files that are already there.
        newest: ask the hub for the newest commit of a repository, even if one was fetched before.
        progress: called with the model's name, bytes fetched and total bytes during a download.

    Raises:
        ModelLoadError: the model is unknown, damaged, not supported or not readable; the message gives a hint.
    """
    spec = _parsed(spec)
    data_dir = data_dir.expanduser().absolute()
    if (path := spec.path) is not None:
        return _files_at(spec.name, path, data_dir, precision)
    if wheel := find_wheel(spec.place):
        source = wheel_folder(wheel, data_dir=data_dir, download=download, progress=progress)
        return files_of_folder(spec.name, source, data_dir=data_dir, precision=precision, repository=wheel.names[-1])
    if path := _folder_called(spec):
        return _files_at(spec.name, path, data_dir, precision)
    from embedmill_worker.models.sources import fastembed, hub, repository  # noqa: PLC0415 (only for a hub's models)

    registered = fastembed.find_registered(spec.place)
    if registered and registered.refusal:
        reason = f"{registered.refusal}, which is not supported; `embedmill models list` shows those that are"
        raise ModelLoadError(spec.name, reason)
    if place := (registered.repository, "") if registered else spec.repository:
        with _hinted(spec):
            found = hub.Repository(
                spec.name, *place, data_dir=data_dir, download=download, newest=newest, progress=progress
            )
        files: Model = (
            fastembed.files_of_registered(spec.name, registered, found, data_dir=data_dir)
            if registered
            else repository.files_of_repository(spec.name, found, data_dir=data_dir, precision=precision)
        )
        found.keep()  # only now: a newer commit that cannot be served must not replace one that can
        return files
    raise ModelLoadError(spec.name, _unknown(spec))


def tokenizer_of(spec: ModelSpec, *, data_dir: Path) -> Path:
    """Return a model's `tokenizer.json`; from a repository, fetch it without the weights.

    Raises:
        ModelLoadError: the model is unknown or has no `tokenizer.json`, or it cannot be fetched.
    """
    from embedmill_worker.models.sources import fastembed, hub, repository  # noqa: PLC0415 (only for a hub's models)

    if spec.repository and not find_wheel(spec.place) and not fastembed.find_registered(spec.place):
        found = hub.Repository(spec.name, *spec.repository, data_dir=data_dir)
        tokenizer = repository.tokenizer_of_repository(spec.name, found)
        found.keep()
        return tokenizer
    files = resolve(spec, data_dir=data_dir)
    if isinstance(files, FastTextFile):
        raise ModelLoadError(spec.name, "it has no tokenizer.json, as fastText models have none")
    return files.tokenizer


def _parsed(spec: ModelSpec | str) -> ModelSpec:
    if isinstance(spec, ModelSpec):
        return spec
    try:
        return ModelSpec.parse(spec)
    except SettingsError as error:
        raise ModelLoadError(spec, error.reason) from None


def _folder_called(spec: ModelSpec) -> Path | None:
    """Return the folder that a location without a slash means; None if it is only a name."""
    if spec.place != spec.name and not spec.repository:
        return Path(spec.place)  # a location after a name can only be a folder
    try:
        # This process may not be allowed to enter the current folder.
        return Path(spec.place) if is_folder(Path(spec.place)) else None
    except (OSError, ValueError):
        return None


def _files_at(name: str, path: Path, data_dir: Path, precision: str) -> Model:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ModelLoadError(
            name, f"{path} is in the home of a user who has no home folder here; write the full path"
        ) from None
    with told(name):
        file = fasttext_in(path)
    if file:
        return read_fasttext(name, file, data_dir=data_dir)
    return files_of_folder(name, path, data_dir=data_dir, precision=precision)


@contextmanager
def _hinted(spec: ModelSpec) -> Iterator[None]:
    """Add similar model names to the error about an unknown repository."""
    try:
        yield
    except UnknownRepositoryError as error:
        raise ModelLoadError(error.model, f"{_hint(spec)}{error.reason}") from error


def _hint(spec: ModelSpec) -> str:
    names = {model.name.lower(): model.name for model in known() if not model.refusal}
    short = {name.rpartition("/")[2]: full for name, full in names.items()}
    asked = spec.place.lower()
    near = [names[key] for key in difflib.get_close_matches(asked, names, n=3, cutoff=_CLOSE)]
    if "/" not in asked:
        near += [short[key] for key in difflib.get_close_matches(asked, short, n=3, cutoff=_CLOSE)]
    return f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""


def _unknown(spec: ModelSpec) -> str:
    return (
        f"{_hint(spec)}it is neither a known name (see `embedmill models list`), a repository (org/name) nor a folder; "
        "a folder is given by its path, as in ./folder, or as name=folder"
    )
