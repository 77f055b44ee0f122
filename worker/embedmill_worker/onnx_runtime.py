"""ONNX Runtime as this project opens it: the one place where sessions get their options."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from embedmill_worker import environment
from embedmill_worker.cpu import is_x86_without_vnni


def library() -> Any:
    """Return the module ``onnxruntime``, imported after the environment that it reads is set."""
    environment.prepare()
    return importlib.import_module("onnxruntime")  # it has no types


def open_graph(graph: Path | bytes, *, weights_folder: Path | None = None) -> Any:
    """Return an ``onnxruntime.InferenceSession`` on one thread of the CPU.

    Args:
        graph: the ONNX file, by its path, so that weights beside it are mapped and not copied; or its bytes.
        weights_folder: where weights outside a graph that is given as bytes are.

    Raises:
        Exception: ONNX Runtime cannot load it; its errors have no other common root.
    """
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Patterns are kept for every shape seen, and with many lengths only grow: 21 MB a child, without them 16.
    options.enable_mem_pattern = False
    if is_x86_without_vnni():  # the way that cannot overflow takes nearly twice as long where none could
        options.add_session_config_entry("session.x64quantprecision", "1")
    if weights_folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_folder))
    # Its errors reach us as exceptions. What it would print of a failed run, at the level below, names token ids.
    options.log_severity_level = 4
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
