"""What libraries of other languages throw and print: for real, with a tokenizer that panics and a graph that fails."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.safe.native import guarded, silenced
from embedmill_worker.engine import load
from embedmill_worker.engine.transformer.session import OnnxSession
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models import ModelFiles

Tiny = Callable[..., ModelFiles]

#: A regular expression that takes exponential time on some texts: the library gives up by a panic.
PANICS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
POISON = "a" * 40 + "!"


class Panic(BaseException):
    """As pyo3 makes them."""


def panicking(files: ModelFiles) -> ModelFiles:
    """Makes the tokenizer panic on ``POISON``."""
    values = json.loads(files.tokenizer.read_text())
    files.tokenizer.write_text(json.dumps(values | {"pre_tokenizer": PANICS}))
    return files


@pytest.mark.parametrize("error", [Panic("zebra"), RuntimeError("zebra"), ValueError("zebra")])
def test_whatever_is_thrown_is_an_error_of_ours_without_its_words(error: BaseException) -> None:
    with pytest.raises(InferenceError) as caught, guarded("m", "it failed"):
        raise error
    assert str(caught.value) == f"model m: it failed ({type(error).__name__})"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc"), Panic("Failed to allocate memory")])
def test_a_lack_of_memory_stays_one(error: BaseException) -> None:
    with pytest.raises(MemoryError), guarded("m", "it failed"):
        raise error


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_process_gets_through(stop: type[BaseException]) -> None:
    with pytest.raises(stop), guarded("m", "it failed"), silenced():
        raise stop


def test_a_panic_is_an_error_and_nothing_of_it_is_printed(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    files = panicking(tiny())
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)

    with pytest.raises(InferenceError, match=r"the tokenizer failed \(PanicException\)"):
        tokenizer.encode(["the", POISON])

    os.write(2, b"still heard\n")
    assert capfd.readouterr().err == "still heard\n"
    assert len(tokenizer.encode(["the"])[0].ids) == 3


def test_an_engine_with_such_a_tokenizer_serves_other_texts(tiny: Tiny) -> None:
    engine = load(panicking(tiny()), cache_dir=None)
    before = engine.embed(["the"]).vectors
    with pytest.raises(InferenceError):
        engine.embed([POISON])
    assert engine.embed(["the"]).vectors.tobytes() == before.tobytes()


def test_a_tokenizer_that_throws_while_it_is_read_is_not_served(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        @staticmethod
        def from_buffer(data: bytes) -> None:
            raise Panic("line 3 is odd")

    monkeypatch.setattr("embedmill_worker.engine.transformer.tokenization.Tokenizer", Reader)
    with pytest.raises(ModelLoadError, match=r"cannot be read \(line 3 is odd\)"):
        TextTokenizer(tiny().tokenizer, model="m", max_tokens=9)


def test_a_failed_run_prints_no_token_id(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    session = OnnxSession(tiny().graph, output="", model="m")

    with pytest.raises(InferenceError):
        session.run(np.array([[424_242]]), np.array([[1]]))

    assert capfd.readouterr().err == ""


def test_threads_that_are_silenced_by_turns_leave_the_descriptor_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(2)

    def silence() -> None:
        for _ in range(200):
            with silenced():
                os.write(2, b"secret")

    threads = [threading.Thread(target=silence) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert capfd.readouterr().err == ""


SILENCED = """
import os
from embedmill.safe.native import silenced
{before}
with silenced():
    pass
print("served")
"""


@pytest.mark.parametrize(
    "before",
    ["os.close(2)", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"],
    ids=["no stderr", "no descriptor left"],
)
def test_a_process_without_descriptors_goes_on(tmp_path: Path, before: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SILENCED.format(before=before))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "served\n", done.stderr
