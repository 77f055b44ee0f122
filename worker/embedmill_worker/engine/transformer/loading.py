"""Loading of a transformer's files into an engine."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from pathlib import Path

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.protocol.cards import ModelCard
from embedmill_worker import cpu
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.probing import probe
from embedmill_worker.engine.probing.measurements import BatchClass, PrecisionReport, ProbeCache, ProbeResult
from embedmill_worker.engine.transformer import openvino_session, session
from embedmill_worker.engine.transformer.forward import ForwardPass, TransformerEncoder
from embedmill_worker.engine.transformer.openvino_session import OpenVinoSession
from embedmill_worker.engine.transformer.pooling import DenseLayer
from embedmill_worker.engine.transformer.session import OnnxSession, Session
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models.files import BackEnd, ModelFiles
from embedmill_worker.models.fingerprint import fingerprint

log = logging.getLogger(__name__)


def load_transformer(
    files: ModelFiles, *, cache_dir: Path | None, max_batch_tokens: int, exact: bool, measures_price: bool
) -> Engine:
    """Load a transformer; see ``engine.load``."""
    if note := precision_note(files.precision):
        log.warning("%s runs in %s: %s", files.name, files.precision, note, extra={"action": "load_model"})
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
    cache = ProbeCache(
        cache_dir, fingerprint(files), runtime(files.back_end, files.name), max_batch_tokens, f"{exact=}"
    )
    try:
        result = cache.load()
        wants_price = measures_price and files.reference is not None
        if result is None or (wants_price and result.price is None):
            result = _measured(files, tokenizer, result, max_batch_tokens, exact=exact, wants_price=wants_price)
            cache.store(result)
        passes = _forward_passes(files, tokenizer)
        dimension = passes[""]([tokenizer.encode(["warm-up"])[0].ids]).shape[1]
    except InferenceError as error:
        raise ModelLoadError(files.name, error.reason) from None
    release_free_memory()
    encoders = {
        input_type: TransformerEncoder(
            forward=forward,
            dimension=dimension,
            max_batch_tokens=budget(result.batch_class, max_batch_tokens, exact=exact),
        )
        for input_type, forward in passes.items()
    }
    return Engine(
        card=ModelCard(
            name=files.name,
            fingerprint=fingerprint(files),
            dimension=dimension,
            max_tokens=files.max_tokens,
            chars_per_token=result.chars_per_token,
            tokens_per_s=result.tokens_per_s,
            precision=files.precision,
            batch_class=str(result.batch_class),
            revision=files.revision,
        ),
        runtime=passes[""].session.runtime,
        prompts=files.prompts,
        tokenizer=tokenizer,
        encoder=encoders.pop(""),
        encoders=encoders,
        price=result.price,
    )


def budget(batch_class: BatchClass, max_batch_tokens: int, *, exact: bool) -> int:
    """Return the maximum padded tokens of a run: 1, so one text at a time, if vectors depend on batches too much."""
    runs_alone = batch_class is BatchClass.VARIANT or (exact and batch_class is BatchClass.CLOSE)
    return 1 if runs_alone else max_batch_tokens


def precision_note(precision: str) -> str:
    """Return a sentence on what this CPU does badly in a precision; "" if there is nothing to say."""
    return cpu.slow_int8() if precision == "int8" else ""


def _measured(
    files: ModelFiles,
    tokenizer: TextTokenizer,
    known: ProbeResult | None,
    max_batch_tokens: int,
    *,
    exact: bool,
    wants_price: bool,
) -> ProbeResult:
    """Probe a model in a separate session, so that the memory of these runs is freed with it.

    If a result is ``known``, it is not measured again; the comparison with fp32 is made if ``wants_price`` is set.
    """
    forward = _forward_passes(files, tokenizer)[""]
    if known is None:
        batch_class, min_cosine = probe.classify(tokenizer, forward, max_batch_tokens=max_batch_tokens)
        used = budget(batch_class, max_batch_tokens, exact=exact)
        known = ProbeResult(
            batch_class=batch_class,
            min_cosine=min_cosine,
            tokens_per_s=probe.tokens_per_s(tokenizer, forward, max_batch_tokens=used),
            chars_per_token=probe.chars_per_token(probe.probe_texts(), tokenizer),
        )
    if not wants_price:
        return known
    used = budget(known.batch_class, max_batch_tokens, exact=exact)
    return replace(known, price=_price(files, tokenizer, forward, used, max_batch_tokens))


def _price(
    files: ModelFiles, tokenizer: TextTokenizer, forward: ForwardPass, used: int, max_batch_tokens: int
) -> PrecisionReport:
    """Compare a precision with the fp32 model that it was made from."""
    assert files.reference is not None
    log.info(
        "comparing %s in %s with fp32; this takes some seconds, once per machine",
        files.name,
        files.precision,
        extra={"action": "measure_price"},
    )
    ids = [encoded.ids for encoded in tokenizer.encode(probe.price_texts())]
    fp32 = _forward_passes(files.reference, tokenizer)[""]
    dimension = fp32(ids[:1]).shape[1]
    return probe.measure_price(
        files.name,
        ids,
        TransformerEncoder(forward=fp32, dimension=dimension, max_batch_tokens=max_batch_tokens),
        TransformerEncoder(forward=forward, dimension=dimension, max_batch_tokens=used),
    )


def _forward_passes(files: ModelFiles, tokenizer: TextTokenizer) -> dict[str, ForwardPass]:
    """Return the forward passes on one session: "" for texts without an input type, and input types that differ."""
    session = open_session(files)
    layers = tuple(DenseLayer.load(layer, model=files.name) for layer in files.layers)
    passes = {}
    for input_type in ("", "query", "passage"):
        task_id = files.task_ids.get(input_type)
        prompt = "" if files.pools_prompt else files.prompts.get(input_type, "")
        passes[input_type] = ForwardPass(
            files,
            session if task_id is None else _with_task(session, task_id, files.name),
            layers,
            tokenizer.prefix_tokens(prompt) if prompt else 0,
        )
    differs = {kind for kind, one in passes.items() if kind and (files.task_ids or one.skipped != passes[""].skipped)}
    return {kind: one for kind, one in passes.items() if not kind or kind in differs}


def _with_task(session: Session, task_id: int, model: str) -> Session:
    if not isinstance(session, OnnxSession):
        raise ModelLoadError(
            model, "its graph takes a task_id, which only ONNX Runtime supports here; use fp32 or int8"
        )
    return session.with_task(task_id)


def release_free_memory() -> None:
    """Return the memory that loading has freed to the system; only glibc supports this."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def open_session(files: ModelFiles) -> Session:
    """Load a model's graph.

    Raises:
        ModelLoadError: the graph cannot be loaded, or its back end cannot be used here.
    """
    match files.back_end:
        case BackEnd.ONNXRUNTIME:
            return OnnxSession(files.graph, output=files.output, model=files.name)
        case BackEnd.OPENVINO:
            return OpenVinoSession(files.graph, output=files.output, precision=files.precision, model=files.name)


def runtime(back_end: BackEnd, model: str) -> str:
    """Return what determines rounding: the back end's version and the CPU's instruction set.

    Raises:
        ModelLoadError: the back end is not installed.
    """
    return session.runtime() if back_end is BackEnd.ONNXRUNTIME else openvino_session.runtime(model)
