"""Every session of ONNX Runtime has the same options."""

import re

from conftest import REPOSITORY

#: A yardstick that imports nothing of the project, so that it shares none of its faults.
YARDSTICK = "benchmarks/ceiling.py"


def test_sessions_are_opened_in_one_place_alone():
    opens = re.compile(r"\b(InferenceSession|SessionOptions)\(")
    sources = [
        path for folder in ("producer", "worker", "tests", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    found = {str(path.relative_to(REPOSITORY)) for path in sources if opens.search(path.read_text(encoding="utf-8"))}
    assert found == {"worker/embedmill_worker/onnx_runtime.py", YARDSTICK}
