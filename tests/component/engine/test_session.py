"""ONNX Runtime behind its contract."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker.cpu import instruction_set, is_x86_without_vnni
from embedmill_worker.engine.transformer.session import OnnxSession, runtime
from embedmill_worker.models import ModelFiles

Tiny = Callable[..., ModelFiles]

IDS = np.array([[2, 4, 3], [2, 3, 0]])
MASK = (IDS > 0).astype(np.int64)


def make(files: ModelFiles) -> OnnxSession:
    return OnnxSession(files.graph, output=files.output, model=files.name)


@pytest.mark.parametrize(
    "inputs", [("input_ids",), ("input_ids", "attention_mask"), ("input_ids", "attention_mask", "token_type_ids")]
)
def test_a_graph_gets_the_inputs_it_has(tiny: Tiny, inputs: tuple[str, ...]) -> None:
    output = make(tiny(inputs=inputs)).run(IDS, MASK)

    assert output.shape == (2, 3, 8)
    assert output.dtype == np.float32


def test_the_named_output_is_used(tiny: Tiny) -> None:
    first, named = make(tiny()).run(IDS, MASK), make(tiny(output="looked_up")).run(IDS, MASK)

    assert first.shape == named.shape
    assert not np.allclose(first, named)


def test_a_missing_output_refuses_to_load(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match="has the outputs output, looked_up, not pooler"):
        make(tiny(output="pooler"))


def test_an_unknown_input_refuses_to_load(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match="takes input_ids, pixels; only text encoders"):
        make(tiny(inputs=("input_ids", "pixels")))


def test_a_damaged_file_refuses_to_load(tiny: Tiny) -> None:
    files = tiny()
    files.graph.write_bytes(files.graph.read_bytes()[:200])

    with pytest.raises(ModelLoadError, match=r"model\.onnx is not a graph that ONNX Runtime can load"):
        make(files)


def test_a_failed_run_names_the_shape_and_no_token(tiny: Tiny) -> None:
    with pytest.raises(InferenceError) as caught:
        make(tiny()).run(IDS + 424242, MASK)

    assert "2 × 3 tokens" in str(caught.value)
    assert "4242" not in str(caught.value)


def test_memory_that_ran_out_is_a_memory_error(tiny: Tiny) -> None:
    class Starved:
        def run(self, outputs: object, feed: object) -> object:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9")

    session = make(tiny())
    session._session = Starved()

    with pytest.raises(MemoryError):
        session.run(IDS, MASK)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags : fpu avx avx2 avx512f avx512_vnni\n", "avx512_vnni"),
        ("flags : fpu sse avx2 avx\n", "avx2"),
        ("Features : fp asimd asimddp\n", "asimddp"),
    ],
)
def test_the_widest_instruction_set_is_named(tmp_path: Path, cpuinfo: str, expected: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)

    assert instruction_set(path) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : avx avx2", True),
        ("flags : avx avx2 avx512f", True),
        ("flags : avx2 avx_vnni", False),
        ("flags : avx2 avx512f avx512_vnni", False),
        ("Features : asimd", False),
        ("", False),
    ],
)
def test_bytes_may_overflow_on_x86_without_vnni_alone(tmp_path: Path, flags: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(flags)

    assert is_x86_without_vnni(path) is expected


def test_the_architecture_is_named_where_the_system_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\n")

    assert instruction_set(tmp_path / "cpuinfo") == instruction_set(tmp_path / "nowhere") != ""


def test_the_runtime_names_version_and_instruction_set(tiny: Tiny) -> None:
    assert make(tiny()).runtime == runtime()
    assert runtime().startswith("onnxruntime 1.")
    assert runtime().endswith(instruction_set())
