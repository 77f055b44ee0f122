"""From a model's files to an engine that is warm and, the first time on a machine, probed."""

from __future__ import annotations

import logging
from pathlib import Path

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.protocol import ModelCard
from embedmill_worker import environment
from embedmill_worker.engine import price, probe
from embedmill_worker.engine.batching import MAX_BATCH_TOKENS
from embedmill_worker.engine.encoder import TransformerEncoder
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.forward import ForwardPass
from embedmill_worker.engine.memory import release_free_memory
from embedmill_worker.engine.sessions import open_session, runtime
from embedmill_worker.engine.tokenization import TextTokenizer
from embedmill_worker.engine.verdict import BatchClass, Price, Verdict, VerdictCache
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.fingerprint import fingerprint

log = logging.getLogger(__name__)


def load(
    files: ModelFiles, *, cache_dir: Path | None, max_batch_tokens: int = MAX_BATCH_TOKENS, exact: bool = False
) -> Engine:
    """Load a model, warm it and, the first time on a machine, probe it.

    Args:
        files: the model.
        cache_dir: where the probe's verdicts are kept; None: probe every time.
        max_batch_tokens: padded tokens a run.
        exact: run a model of the close class one text at a time, too, so that no bit depends on a batch.

    Raises:
        ModelLoadError: it cannot be served.
    """
    environment.prepare()
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
    cache = VerdictCache(
        cache_dir, fingerprint(files), runtime(files.back_end, files.name), max_batch_tokens, f"{exact=}"
    )
    try:
        verdict = cache.load()
        if verdict is None:
            verdict = _measured(files, tokenizer, max_batch_tokens, exact=exact)
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
            dimension=dimension,
            max_batch_tokens=budget(verdict.batch_class, max_batch_tokens, exact=exact),
        ),
        price=verdict.price,
    )


def budget(batch_class: BatchClass, max_batch_tokens: int, *, exact: bool) -> int:
    """Give the padded tokens a run: 1, which is one text at a time, for models whose vectors depend on their batch."""
    runs_alone = batch_class is BatchClass.VARIANT or (exact and batch_class is BatchClass.CLOSE)
    return 1 if runs_alone else max_batch_tokens


def _measured(files: ModelFiles, tokenizer: TextTokenizer, max_batch_tokens: int, *, exact: bool) -> Verdict:
    """Probe a model in a session of its own, so that the memory of these runs goes with it."""
    forward = _forward_pass(files)
    batch_class, min_cosine = probe.classify(tokenizer, forward, max_batch_tokens=max_batch_tokens)
    used = budget(batch_class, max_batch_tokens, exact=exact)
    return Verdict(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=probe.tokens_per_s(tokenizer, forward, max_batch_tokens=used),
        chars_per_token=probe.chars_per_token(probe.probe_texts(), tokenizer),
        price=_price(files, tokenizer, forward, used, max_batch_tokens) if files.reference else None,
    )


def _price(
    files: ModelFiles, tokenizer: TextTokenizer, forward: ForwardPass, used: int, max_batch_tokens: int
) -> Price:
    """Measure a precision against the fp32 model that it is made of."""
    assert files.reference is not None
    log.info("measuring %s in %s against fp32", files.name, files.precision, extra={"action": "measure_price"})
    ids = [encoded.ids for encoded in tokenizer.encode(price.price_texts())]
    fp32 = _forward_pass(files.reference)
    dimension = fp32(ids[:1]).shape[1]
    return price.measure(
        ids,
        TransformerEncoder(forward=fp32, dimension=dimension, max_batch_tokens=max_batch_tokens),
        TransformerEncoder(forward=forward, dimension=dimension, max_batch_tokens=used),
    )


def _forward_pass(files: ModelFiles) -> ForwardPass:
    return ForwardPass(files, open_session(files))
