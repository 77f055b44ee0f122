"""A folder on disk to a runnable model: an ONNX file as it is, or safetensors exported to one."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.bert import BertConfig
from embedmill_worker.models.digest import read_json, sha256_of
from embedmill_worker.models.exported import Exported, exported_graph
from embedmill_worker.models.files import ModelFiles, Pooling
from embedmill_worker.models.graph import KNOWN_INPUTS, GraphFacts
from embedmill_worker.models.sentence import SentenceConfig

#: Where an ONNX file may lie; plain ones before quantised ones, of which the first by name is taken.
_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
_GRAPH_PATTERNS = ("model_*.onnx", "onnx/model_*.onnx")
_WEIGHTS = "model.safetensors"

logger = logging.getLogger(__name__)


def files_of_folder(name: str, folder: Path, *, data_dir: Path) -> ModelFiles:
    """Resolves a local folder; nothing in it is executed or written.

    A graph that puts out (batch, dimension) is pooled already. Exports and what was learnt about
    graphs are kept in `data_dir`.

    Raises:
        ModelLoadError: the folder is damaged, incomplete or not supported.
    """
    try:
        return _resolved(name, folder.expanduser().absolute(), data_dir)
    except (ValueError, OSError) as error:
        raise ModelLoadError(name, f"{folder}: {error}") from error


def _resolved(name: str, folder: Path, data_dir: Path) -> ModelFiles:
    if not folder.is_dir():
        raise ValueError("is no folder; name one that holds model.onnx or model.safetensors, and tokenizer.json")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ValueError("tokenizer.json is missing; save the model's fast tokenizer there")
    read_json(tokenizer)
    graph = find_graph(folder)
    sentence = SentenceConfig.read(folder, name)
    if graph is not None:
        return files_of_graph(name, graph, tokenizer, sentence, data_dir=data_dir)
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise ValueError(_no_weights(folder))
    config = BertConfig.parse(read_json(folder / "config.json"))
    exported = exported_graph(weights, config, data_dir=data_dir)
    return _with_exported(name, exported, tokenizer, sentence, config)


def _with_exported(
    name: str, exported: Exported, tokenizer: Path, sentence: SentenceConfig, config: BertConfig
) -> ModelFiles:
    return ModelFiles(
        name=name,
        graph=exported.graph,
        tokenizer=tokenizer,
        pooling=sentence.pooling,
        normalize=sentence.normalize,
        max_tokens=min(sentence.max_tokens, config.max_tokens),
        prompts=sentence.prompts,
        exporter=exported.exporter,
        weights_sha256=exported.weights_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
    )
