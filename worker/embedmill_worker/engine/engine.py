"""Texts in, vectors out: tokenize, plan, run, pool, normalise."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedmill.reply import Reason
from embedmill_worker.engine import probe
from embedmill_worker.engine.batching import MAX_BATCH_TOKENS, plan
from embedmill_worker.engine.pooling import normalize, pool
from embedmill_worker.engine.probe import BatchClass, Verdict
from embedmill_worker.engine.session import OnnxSession, Session, runtime
from embedmill_worker.engine.tokenization import Encoded, TextTokenizer
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """What the engine makes of some texts, in their order."""

    #: float32 (n, dimension); NaN for rejected texts.
    vectors: npt.NDArray[np.float32]
    #: uint32 (n,): tokens before truncation, special tokens included.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,)
    truncated: npt.NDArray[np.bool_]
    #: (position, reason, detail).
    rejected: tuple[tuple[int, str, str], ...]
    tokenize_ms: float
    inference_ms: float


class Engine:
    """One model, ready to serve. Loaded before a fork, it is shared by all children."""

    def __init__(
        self, files: ModelFiles, session: Session, tokenizer: TextTokenizer, *, max_batch_tokens: int = MAX_BATCH_TOKENS
    ) -> None:
        """Put the parts together; ``load`` also reads them and measures."""
        self.name = files.name
        self.fingerprint = fingerprint(files)
        self.max_tokens = files.max_tokens
        self.precision = files.precision
        self.runtime = runtime()
        self.dimension = 0
        self.tokens_per_s = 0.0
        self.chars_per_token = 0.0
        self.batch_class = BatchClass.EXACT
        self._files = files
        self._session = session
        self._tokenizer = tokenizer
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(
        cls, files: ModelFiles, *, cache_dir: Path | None, max_batch_tokens: int = MAX_BATCH_TOKENS
    ) -> Engine:
        """Load a model and warm it.

        Args:
            files: the model.
            cache_dir: where the probe's verdicts are kept; None: probe every time.
            max_batch_tokens: padded tokens a run.

        Raises:
            ModelLoadError: it cannot be served.
        """
        session = OnnxSession(files.graph, model=files.name)
        tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
        engine = cls(files, session, tokenizer, max_batch_tokens=max_batch_tokens)
        engine.dimension = engine.embed(["warm"]).vectors.shape[1]
        key = hashlib.sha256(f"{engine.fingerprint} {engine.runtime} {max_batch_tokens}".encode()).hexdigest()[:24]
        verdict = probe.load(cache_dir, key)
        if verdict is None:
            verdict = engine._probe()
            probe.store(cache_dir, key, verdict)
        engine.batch_class = verdict.batch_class
        engine.tokens_per_s = verdict.tokens_per_s
        engine.chars_per_token = verdict.chars_per_token
        return engine

    def embed(
        self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True
    ) -> Embeddings:
        """Embed texts in planned batches, or one by one if the model's vectors depend on their batch.

        Args:
            texts: valid Unicode; an empty one is embedded as the model does.
            input_type: ``query`` or ``passage``: the model's prefix for it, if it has one.
            truncate: False rejects texts of more than ``max_tokens``.

        Raises:
            InferenceError: tokenizer or graph failed.
            MemoryError: there is not enough.
        """
        start_s = time.perf_counter()
        encoded = self._tokenizer.encode(texts, self._files.prompts.get(input_type or "", ""))
        token_counts = np.array([e.token_count for e in encoded], dtype=np.uint32)
        truncated = token_counts > self.max_tokens
        rejected = () if truncate else self._too_long(token_counts)
        tokenized_s = time.perf_counter()
        vectors = self._forward(encoded, skip={position for position, _, _ in rejected})
        return Embeddings(
            vectors=vectors,
            token_counts=token_counts,
            truncated=truncated,
            rejected=rejected,
            tokenize_ms=(tokenized_s - start_s) * 1000,
            inference_ms=(time.perf_counter() - tokenized_s) * 1000,
        )

    def _too_long(self, token_counts: npt.NDArray[np.uint32]) -> tuple[tuple[int, str, str], ...]:
        return tuple(
            (int(i), str(Reason.TOO_LONG), f"{token_counts[i]} tokens, limit {self.max_tokens}")
            for i in np.flatnonzero(token_counts > self.max_tokens)
        )

    def _forward(self, encoded: Sequence[Encoded], skip: set[int]) -> npt.NDArray[np.float32]:
        vectors = np.full((len(encoded), self.dimension), np.nan, dtype=np.float32)
        wanted = [i for i in range(len(encoded)) if i not in skip]
        for batch in self._plan([len(encoded[i].ids) for i in wanted]):
            positions = [wanted[i] for i in batch]
            rows = self._run([encoded[i].ids for i in positions])
            if not self.dimension:  # the first run of all tells it
                return rows
            vectors[positions] = rows
        return vectors

    def _plan(self, token_counts: Sequence[int]) -> list[list[int]]:
        if self.batch_class is BatchClass.VARIANT:
            return [[i] for i in range(len(token_counts))]
        return plan(token_counts, max_batch_tokens=self._max_batch_tokens)

    def _run(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        output, lengths = self._session.run(ids)
        rows = pool(output, lengths, self._files.pooling)
        return normalize(rows) if self._files.normalize else rows

    def _probe(self) -> Verdict:
        """Embed the probe texts alone, and batched in two other companies."""
        texts = probe.probe_texts()
        alone = np.concatenate([self.embed([text]).vectors for text in texts])
        backwards = self._in_batches_of(texts[::-1], 5)[::-1]
        batch_class, worst = probe.judge(alone, [self.embed(texts).vectors, backwards])
        self.batch_class = batch_class
        encoded = self._tokenizer.encode(texts)
        return Verdict(
            batch_class=batch_class,
            min_cosine=worst,
            tokens_per_s=probe.speed(lambda: int(np.minimum(self.embed(texts).token_counts, self.max_tokens).sum())),
            chars_per_token=sum(map(len, texts)) / max(1, sum(e.token_count - 2 for e in encoded)),
        )

    def _in_batches_of(self, texts: Sequence[str], size: int) -> npt.NDArray[np.float32]:
        """Embed in arrival order, so that every batch mixes lengths and is padded."""
        encoded = self._tokenizer.encode(texts)
        starts = range(0, len(encoded), size)
        return np.concatenate([self._run([e.ids for e in encoded[s : s + size]]) for s in starts])
