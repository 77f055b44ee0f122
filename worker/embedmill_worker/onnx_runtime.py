"""ONNX Runtime sessions; the only place that sets their options."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from embedmill_worker import environment
from embedmill_worker.cpu import is_x86_without_vnni


def library() -> Any:
    """Return the module ``onnxruntime``; set the environment variables that it reads before importing it."""
    environment.prepare()
    return importlib.import_module("onnxruntime")  # the library has no types


def open_graph(graph: Path | bytes, *, weights_folder: Path | None = None) -> Any:
    """Return an ``onnxruntime.InferenceSession`` that runs on one CPU thread.

    Args:
        graph: path of the ONNX file, so that weights beside it are mapped, not copied; or the graph's bytes.
        weights_folder: folder of the external weights, if the graph is passed as bytes.

    Raises:
        Exception: ONNX Runtime cannot load the graph; its errors have no other common base class.
    """
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Memory patterns are kept per shape and only grow with many lengths: 21 MB per child, 16 MB without them.
    options.enable_mem_pattern = False
    if is_x86_without_vnni():  # cannot overflow, but takes nearly twice as long
        options.add_session_config_entry("session.x64quantprecision", "1")
    if weights_folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_folder))
    # Errors arrive as exceptions. One level lower, the library would also print a failed run's token ids.
    options.log_severity_level = 4
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
