"""One JSONL file."""

from __future__ import annotations

import json
from collections.abc import Iterable

from embedmill.protocol.vectors import row_format
from embedmill.reindexing.index import Index
from embedmill.reindexing.metadata import in_one_line
from embedmill.reindexing.rows import Rows
from embedmill.reindexing.sinks.single_file import SingleFile
from embedmill.safe.atomic_file import replacing


class JsonlFile(SingleFile):
    """``{"id": …, "metadata": {…}, "embedding": […]}`` a line, with digits that give each component back to the bit."""

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the lines."""
        with replacing(self.path) as stream:
            for some in rows:
                form = row_format(some.vectors)
                for i, id in enumerate(some.ids):
                    text = "" if some.texts is None else f', "text": {json.dumps(some.texts[i])}'
                    row = form % tuple(some.vectors[i].tolist())
                    metadata = in_one_line(some.metadata[i])
                    line = f'{{"id": {json.dumps(id)}, "metadata": {metadata}{text}, "embedding": [{row}]}}\n'
                    stream.write(line.encode())
