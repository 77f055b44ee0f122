"""One numpy file, and one that says what its rows are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from embedmill.reindexing.index import Index
from embedmill.reindexing.metadata import in_one_line
from embedmill.reindexing.rows import Rows
from embedmill.reindexing.sinks.single_file import SingleFile
from embedmill.safe.atomic_file import replacing


class NpyFile(SingleFile):
    """An array (n, columns) that can be memory-mapped, and ``NAME.ids.jsonl`` with its rows' ids and metadata."""

    @property
    def ids_path(self) -> Path:
        """Where line i speaks of row i."""
        return self.path.with_suffix(".ids.jsonl")

    @property
    def files(self) -> tuple[Path, ...]:
        """Both files."""
        return (self.path, self.ids_path)

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write both files."""
        header = {"descr": index.dtype.numpy.str, "fortran_order": False, "shape": (n_rows, index.columns)}
        with replacing(self.ids_path) as ids, replacing(self.path) as array:
            np.lib.format.write_array_header_1_0(array, header)
            for some in rows:
                array.write(np.ascontiguousarray(some.vectors, dtype=index.dtype.numpy).data)
                for i, id in enumerate(some.ids):
                    text = "" if some.texts is None else f', "text": {json.dumps(some.texts[i])}'
                    ids.write(
                        f'{{"id": {json.dumps(id)}, "metadata": {in_one_line(some.metadata[i])}{text}}}\n'.encode()
                    )
