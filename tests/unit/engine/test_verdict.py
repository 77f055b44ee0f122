"""Verdicts are kept between starts, and never believed when damaged."""

import json
from pathlib import Path

import pytest

from embedmill_worker.engine.probing.measurements import BatchClass, ProbeCache, ProbeResult

VERDICT = ProbeResult(batch_class=BatchClass.CLOSE, min_cosine=0.99995, tokens_per_s=4000.5, chars_per_token=3.5)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_verdict_is_read_back(tmp_path: Path) -> None:
    ProbeCache(tmp_path / "new", "model", "runtime").store(VERDICT)

    assert ProbeCache(tmp_path / "new", "model", "runtime").load() == VERDICT


def test_a_verdict_is_not_that_of_another_model_or_runtime(tmp_path: Path) -> None:
    ProbeCache(tmp_path, "model", "runtime").store(VERDICT)

    assert ProbeCache(tmp_path, "other", "runtime").load() is None
    assert ProbeCache(tmp_path, "model", "other").load() is None


@pytest.mark.parametrize(
    "change",
    [
        {"batch_class": "perfect"},
        {"tokens_per_s": 0},
        {"tokens_per_s": "fast"},
        {"tokens_per_s": float("inf")},
        {"chars_per_token": None},
    ],
)
def test_an_impossible_verdict_is_not_believed(tmp_path: Path, change: dict[str, object]) -> None:
    cache = ProbeCache(tmp_path, "model")
    cache.store(VERDICT)
    path = only_file(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert cache.load() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"batch_class": "exact"}'])
def test_a_damaged_file_is_not_believed_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    cache = ProbeCache(tmp_path, "model")
    cache.store(VERDICT)
    only_file(tmp_path).write_bytes(content)

    assert cache.load() is None
    cache.store(VERDICT)
    assert cache.load() == VERDICT


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    ProbeCache(tmp_path / "file", "model").store(VERDICT)

    assert "cannot be kept" in caplog.text


def test_without_a_folder_nothing_is_kept() -> None:
    cache = ProbeCache(None, "model")
    cache.store(VERDICT)

    assert cache.load() is None
