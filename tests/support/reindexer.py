"""A reindexer as a user runs it, and what it leaves behind."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

#: Seconds that a run may take; generous, so that a busy machine fails no test.
PATIENCE_S = 600.0


@dataclass
class Reindexer:
    """`embedmill reindex …` in a mill's environment."""

    env: dict[str, str]
    arguments: Sequence[str]
    #: What is run as `embedmill`.
    module: str = "embedmill_worker.cli"
    process: subprocess.Popen | None = field(default=None, repr=False)

    def start(self) -> "Reindexer":
        """Starts it, or the same command again."""
        command = [sys.executable, "-m", self.module, "reindex", *map(str, self.arguments)]
        self.process = subprocess.Popen(
            command,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def wait(self, code: int = 0) -> tuple[str, str]:
        """Waits for its end; gives stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == code, f"{self.process.returncode}, not {code}:\n{out}\n{err}"
        return out, err

    def run(self, code: int = 0) -> dict[str, Any]:
        """Runs it with --json; gives the last event."""
        self.arguments = [*self.arguments, "--json"] if "--json" not in self.arguments else self.arguments
        out, _ = self.start().wait(code)
        return json.loads(out.splitlines()[-1])


def write_jsonl(path: Path, texts: Sequence[str], **metadata: Any) -> Path:
    """Writes a corpus whose ids are d0, d1, …"""
    lines = (json.dumps({"id": f"d{i}", "text": text, **metadata}) for i, text in enumerate(texts))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def files(folder: Path) -> dict[str, bytes]:
    """The Parquet files of a sink, byte by byte."""
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def rows(folder: Path) -> dict[str, tuple[bytes, str]]:
    """The rows of a Parquet sink: id → the vector's bytes, metadata."""
    table = pq.read_table(folder)
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    found = {
        id: (vector.tobytes(), metadata)
        for id, vector, metadata in zip(
            table.column("id").to_pylist(), vectors, table.column("metadata").to_pylist(), strict=True
        )
    }
    assert len(found) == table.num_rows, "an id stands there twice"
    return found
