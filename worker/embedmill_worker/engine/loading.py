"""From a model's files to an engine that is warm and, the first time on a machine, probed."""

from __future__ import annotations

from pathlib import Path

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.protocol import ModelCard
from embedmill_worker import environment
from embedmill_worker.engine import probe
from embedmill_worker.engine.batching import MAX_BATCH_TOKENS
from embedmill_worker.engine.encoder import TransformerEncoder
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.forward import ForwardPass
from embedmill_worker.engine.memory import release_free_memory
from embedmill_worker.engine.session import OnnxSession, runtime
from embedmill_worker.engine.tokenization import TextTokenizer
from embedmill_worker.engine.verdict import VerdictCache
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.fingerprint import fingerprint


def load(files: ModelFiles, *, cache_dir: Path | None, max_batch_tokens: int = MAX_BATCH_TOKENS) -> Engine:
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
    return Engine(
        card=ModelCard(
            name=files.name,
            fingerprint=fingerprint(files),
            dimension=dimension,
            max_tokens=files.max_tokens,
            chars_per_token=verdict.chars_per_token,
            tokens_per_s=verdict.tokens_per_s,
            precision=files.precision,
            batch_class=str(verdict.batch_class),
        ),
        runtime=forward.session.runtime,
        prompts=files.prompts,
        tokenizer=tokenizer,
        encoder=TransformerEncoder(
            forward=forward,
            batch_class=verdict.batch_class,
            dimension=dimension,
            max_batch_tokens=max_batch_tokens,
        ),
    )


def _forward_pass(files: ModelFiles) -> ForwardPass:
    return ForwardPass(files, OnnxSession(files.graph, output=files.output, model=files.name))
