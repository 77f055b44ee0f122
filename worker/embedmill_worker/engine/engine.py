"""Texts in, vectors out: tokenize, plan, run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.reply import Reason
from embedmill_worker import environment
from embedmill_worker.engine import probe
from embedmill_worker.engine.batching import MAX_BATCH_TOKENS, plan
from embedmill_worker.engine.forward import ForwardPass
from embedmill_worker.engine.memory import release_free_memory
from embedmill_worker.engine.session import OnnxSession, runtime
from embedmill_worker.engine.tokenization import TextTokenizer, is_unicode
from embedmill_worker.engine.verdict import BatchClass, Verdict, VerdictCache
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """What the engine makes of some texts, in their order."""

    #: float32 (n, dimension); NaN for rejected texts.
    vectors: npt.NDArray[np.float32]
    #: uint32 (n,): tokens before truncation, special tokens included; 0 for texts that cannot be tokenized.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,): the text was longer than the model reads.
    truncated: npt.NDArray[np.bool_]
    #: (position, reason, detail), by position.
    rejected: tuple[tuple[int, str, str], ...]
    tokenize_ms: float
    inference_ms: float


class Engine:
    """One model, ready to serve. Loaded before a fork, it is shared by all children."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        forward: ForwardPass,
        verdict: Verdict,
        *,
        dimension: int,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> None:
        """Put the parts together; see ``load``."""
        self.name = forward.files.name
        self.fingerprint = fingerprint(forward.files)
        self.precision = forward.files.precision
        self.max_tokens = forward.files.max_tokens
        self.runtime = forward.session.runtime
        self.dimension = dimension
        self.batch_class = verdict.batch_class
        self.tokens_per_s = verdict.tokens_per_s
        self.chars_per_token = verdict.chars_per_token
        self._prompts = forward.files.prompts
        self._tokenizer = tokenizer
        self._forward = forward
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(cls, files: ModelFiles, *, cache_dir: Path | None, max_batch_tokens: int = MAX_BATCH_TOKENS) -> Engine:
        """Load a model, warm it and, the first time on a machine, probe it.

        Args:
            files: the model.
            cache_dir: where the probe's verdicts are kept; None: probe every time.
            max_batch_tokens: padded tokens a run.

        Raises:
            ModelLoadError: it cannot be served.
        """
        environment.prepare()
        tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
        cache = VerdictCache(cache_dir, fingerprint(files), runtime(), max_batch_tokens)
        try:
            verdict = cache.load()
            if verdict is None:
                # In a session of its own, so that the memory of its runs goes with it.
                verdict = probe.measure(tokenizer, _forward_pass(files), max_batch_tokens=max_batch_tokens)
                cache.store(verdict)
            forward = _forward_pass(files)
            dimension = forward([tokenizer.encode(["warm-up"])[0].ids]).shape[1]
        except InferenceError as error:
            raise ModelLoadError(files.name, error.reason) from None
        release_free_memory()
        return cls(tokenizer, forward, verdict, dimension=dimension, max_batch_tokens=max_batch_tokens)

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """Embed texts in planned batches, or one by one if the model's vectors depend on their batch.

        Args:
            texts: an empty one is embedded as the model does.
            input_type: ``query`` or ``passage``: the model's prefix for it, if it has one.
            truncate: False rejects texts of more than ``max_tokens``.

        Raises:
            InferenceError: tokenizer or graph failed; the message holds no text.
            MemoryError: there is not enough.
        """
        start_s = time.perf_counter()
        invalid = [i for i, text in enumerate(texts) if not is_unicode(text)]
        readable = ["" if i in invalid else text for i, text in enumerate(texts)] if invalid else texts
        encoded = self._tokenizer.encode(readable, self._prompts.get(input_type or "", ""))
        token_counts = np.array([e.token_count for e in encoded], dtype=np.uint32)
        token_counts[invalid] = 0
        truncated = token_counts > self.max_tokens
        too_long = [] if truncate else np.flatnonzero(truncated).tolist()
        rejected = [(i, str(Reason.INVALID_UNICODE), "lone surrogates have no UTF-8 form") for i in invalid] + [
            (i, str(Reason.TOO_LONG), f"{token_counts[i]} tokens, limit {self.max_tokens}") for i in too_long
        ]
        tokenized_s = time.perf_counter()
        skipped = frozenset(invalid).union(too_long)
        vectors = self._embed_ids([None if i in skipped else e.ids for i, e in enumerate(encoded)])
        return Embeddings(
            vectors=vectors,
            token_counts=token_counts,
            truncated=truncated,
            rejected=tuple(sorted(rejected)),
            tokenize_ms=(tokenized_s - start_s) * 1000,
            inference_ms=(time.perf_counter() - tokenized_s) * 1000,
        )

    def _embed_ids(self, ids: Sequence[Sequence[int] | None]) -> npt.NDArray[np.float32]:
        """Give float32 (n, dimension): NaN for None, zeros where there is no token to run."""
        vectors = np.full((len(ids), self.dimension), np.nan, dtype=np.float32)
        vectors[[i for i, row in enumerate(ids) if row is not None]] = 0
        filled = [(i, row) for i, row in enumerate(ids) if row]
        for batch in self._plan([len(row) for _, row in filled]):
            positions, rows = zip(*(filled[i] for i in batch), strict=True)
            vectors[list(positions)] = self._forward(rows)
        return vectors

    def _plan(self, token_counts: Sequence[int]) -> list[list[int]]:
        if self.batch_class is BatchClass.VARIANT:
            return [[i] for i in range(len(token_counts))]
        return plan(token_counts, max_batch_tokens=self._max_batch_tokens)


def _forward_pass(files: ModelFiles) -> ForwardPass:
    return ForwardPass(files, OnnxSession(files.graph, output=files.output, model=files.name))
