"""OpenVINO behind its contract, in fp32, which it computes on every CPU; bf16 on a model: test_precisions.py."""

from collections.abc import Callable

import numpy as np
import pytest

from embedmill.errors import InferenceError, ModelLoadError
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine.transformer.openvino_session import OpenVinoSession, runtime
from embedmill_worker.engine.transformer.session import OnnxSession
from embedmill_worker.models import ModelFiles

pytest.importorskip("openvino", reason="there is no openvino for this platform")

Tiny = Callable[..., ModelFiles]

IDS = np.array([[2, 4, 3], [2, 3, 0]])
MASK = (IDS > 0).astype(np.int64)


def make(files: ModelFiles) -> OpenVinoSession:
    return OpenVinoSession(files.graph, output=files.output, precision="fp32", model=files.name)


@pytest.mark.parametrize(
    "inputs", [("input_ids",), ("input_ids", "attention_mask"), ("input_ids", "attention_mask", "token_type_ids")]
)
@pytest.mark.parametrize("output", ["", "looked_up"])
def test_it_gives_what_onnx_runtime_gives(tiny: Tiny, inputs: tuple[str, ...], output: str) -> None:
    files = tiny(inputs=inputs, output=output)
    wanted = OnnxSession(files.graph, output=files.output, model=files.name).run(IDS, MASK)

    found = make(files).run(IDS, MASK)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_graph_that_it_cannot_load_or_fill_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match=r"has the outputs .*, not pooler"):
        make(tiny(output="pooler"))
    with pytest.raises(ModelLoadError, match="only text encoders"):
        make(tiny(inputs=("input_ids", "pixels")))
    files = tiny()
    files.graph.write_bytes(files.graph.read_bytes()[:200])
    with pytest.raises(ModelLoadError, match=r"model\.onnx is not a graph that OpenVINO can load"):
        make(files)


def test_a_failed_run_names_the_shape_and_no_token(tiny: Tiny) -> None:
    class Failing:
        def infer(self, *arguments: object, **options: object) -> object:
            raise RuntimeError("token 424242")

    session = make(tiny())
    session._request = Failing()

    with pytest.raises(InferenceError, match="2 × 3 tokens") as caught:
        session.run(IDS, MASK)
    assert "4242" not in str(caught.value)


def test_the_runtime_names_version_and_instruction_set(tiny: Tiny) -> None:
    assert make(tiny()).runtime == runtime("tiny")
    assert runtime("tiny").startswith("openvino 2")
    assert runtime("tiny").endswith(instruction_set())
