"""Which back end runs a model."""

from __future__ import annotations

from embedmill_worker.engine import openvino_session, session
from embedmill_worker.engine.openvino_session import OpenVinoSession
from embedmill_worker.engine.session import OnnxSession, Session
from embedmill_worker.models.files import BackEnd, ModelFiles


def open_session(files: ModelFiles) -> Session:
    """Load a model's graph.

    Raises:
        ModelLoadError: it cannot be loaded, or its back end cannot be used here.
    """
    match files.back_end:
        case BackEnd.ONNXRUNTIME:
            return OnnxSession(files.graph, output=files.output, model=files.name)
        case BackEnd.OPENVINO:
            return OpenVinoSession(files.graph, output=files.output, precision=files.precision, model=files.name)


def runtime(back_end: BackEnd, model: str) -> str:
    """Give what rounds: the back end's version and the CPU's instruction set.

    Raises:
        ModelLoadError: the back end is not installed.
    """
    return session.runtime() if back_end is BackEnd.ONNXRUNTIME else openvino_session.runtime(model)
