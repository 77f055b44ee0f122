"""Other people's systems: each a process of its own that answers a line for a line."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from context import HERE, Run

from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.models import ModelFiles
from embedmill_worker.service.broker import broker_url

SCRIPTS = HERE / "peers"

#: Cosine that a peer's vector of the longest text must have with ours: same weights, pooling and token limit.
SAME_COSINE = 0.999

#: Texts embedded before any are measured.
WARM_UP = ("warm", "a few words more than that", "and some more words to see how that goes", "four")


class PeerError(RuntimeError):
    """A peer did not start, or gave other vectors."""


class Peer:
    """A running script of ``peers/``; a context manager."""

    def __init__(self, run: Run, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        assert run.peers_python is not None
        self._script = script
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [str(run.peers_python), str(SCRIPTS / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(env),
        )
        self._warm: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self._read()
        except PeerError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def seconds(self, texts: Sequence[str], **options: Any) -> float:
        """Return the seconds it takes for the texts, warmed up with the same options before."""
        if (key := repr(options)) not in self._warm:
            self._warm.add(key)
            self._ask(list(WARM_UP) * 8, options)
        return float(self._ask(texts, options)["seconds"])

    def check(self, texts: Sequence[str], vector: np.ndarray, **options: Any) -> None:
        """Raise PeerError if its vector of the longest text is not like ours, (dimension,)."""
        theirs = np.array(self._ask(texts, options)["vector"])
        cosine = float(theirs @ vector / np.linalg.norm(theirs) / np.linalg.norm(vector))
        if cosine < SAME_COSINE:
            raise PeerError(f"{self._script} gives other vectors: cosine {cosine:.4f}, at least {SAME_COSINE} is asked")

    def tune(self, texts: Sequence[str], choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the fastest of some options, each by the better of two tries."""
        if len(choices) == 1:
            return choices[0]
        return min(choices, key=lambda options: min(self.seconds(texts, **options) for _ in range(2)))

    def _ask(self, texts: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"texts": list(texts), **options}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            words = self._log.read().strip().splitlines()[-3:]
            raise PeerError(f"{self._script} ended; it said: {' | '.join(words)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def handwritten(run: Run, folder: str) -> Iterator[Peer]:
    """The hand-written Celery worker on a server of its own, and its client."""
    assert run.peers_python is not None
    with EmbeddedValkey(persistent=False) as server, tempfile.TemporaryFile() as log:
        env = {"HANDWRITTEN_REDIS": broker_url(server.url), "HANDWRITTEN_MODEL": folder}
        options = ["-A", "handwritten_worker", "worker", "--concurrency", str(run.cores), "--loglevel", "WARNING"]
        worker = subprocess.Popen(
            [str(run.peers_python), "-m", "celery", *options],
            env=environment(env),
            cwd=SCRIPTS,
            stdout=log,
            stderr=log,
        )
        try:
            with Peer(run, "handwritten_client.py", env=env) as client:
                yield client
        finally:
            worker.terminate()
            worker.wait(30)


@contextmanager
def fastembed_folder(files: ModelFiles) -> Iterator[str]:
    """A folder as fastembed and libembedding want one: the same graph and tokenizer, the same limit of tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in files.graph.parent.glob(f"{files.graph.name}*"):
            (folder / path.name).symlink_to(path)
        (folder / "tokenizer.json").symlink_to(files.tokenizer)
        special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        limit = files.max_tokens
        for file, content in {
            "config.json": {"pad_token_id": 0, "hidden_size": 384, "max_position_embeddings": limit},
            "tokenizer_config.json": {"model_max_length": limit, "pad_token": "[PAD]"},
            "special_tokens_map.json": special,
        }.items():
            (folder / file).write_text(json.dumps(content))
        yield name


def environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Theirs holds nothing of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EMBEDMILL_", "PYTHONPATH"))}
    return {**kept, **(more or {})}
