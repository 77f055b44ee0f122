"""Graphs that we make ourselves: once, whole, and kept in the data folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from embedmill_worker.models.disk import atomic_file, locked_folder, read_json, sha256_of, storing, write_atomically

#: The file of large weights beside each graph.
DATA_NAME = "model.onnx.data"

#: Part of the fingerprint: to be raised whenever quantised graphs may give other vectors.
QUANTIZER = "embedmill-int8/2"

#: Writes a graph and its weights.
Maker = Callable[[IO[bytes], IO[bytes]], None]


def made_graph(folder: Path, make: Maker) -> tuple[Path, str]:
    """Returns the graph of a folder and the sha256 of it all; makes it if it is not there or damaged.

    Several processes may ask at once: one makes it, the others wait.

    Raises:
        ValueError: it cannot be made.
        OSError: a file cannot be read; StorageError if it cannot be written.
    """
    graph, manifest = folder / "model.onnx", folder / "manifest.json"
    if not _is_intact(graph, manifest):
        with locked_folder(folder):
            if not _is_intact(graph, manifest):
                with storing(manifest):
                    manifest.unlink(missing_ok=True)
                with atomic_file(graph) as file, atomic_file(graph.with_name(DATA_NAME)) as data:
                    make(file, data)
                write_atomically(manifest, json.dumps({"sha256": _digest(graph)}).encode())
    return graph, _digest(graph)


def _is_intact(graph: Path, manifest: Path) -> bool:
    try:
        return read_json(manifest).get("sha256") == _digest(graph)
    except (ValueError, OSError):
        return False


def _digest(graph: Path) -> str:
    return sha256_of(graph, graph.with_name(DATA_NAME))
