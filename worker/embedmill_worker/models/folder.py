"""A folder on disk to a runnable model: an ONNX file as it is, or safetensors exported to one."""

import logging
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.bert import BertConfig
from embedmill_worker.models.digest import read_json, sha256_of
from embedmill_worker.models.exported import OUTPUT, exported_graph
from embedmill_worker.models.files import ModelFiles, Pooling
from embedmill_worker.models.graph import FINISHED_OUTPUT, KNOWN_INPUTS, GraphFacts
from embedmill_worker.models.sentence import SentenceConfig

#: Where plain ONNX files lie, the first one found is taken.
_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
#: Where other precisions lie; taken only if there is nothing else.
_VARIANTS = ("model_*.onnx", "onnx/model_*.onnx")
_WEIGHTS = "model.safetensors"

logger = logging.getLogger(__name__)


def files_of_folder(name: str, folder: Path, *, data_dir: Path) -> ModelFiles:
    """Resolves a local folder; nothing in it is executed or written.

    Exports and what was learnt about graphs are kept in `data_dir`.

    Raises:
        ModelLoadError: the folder is damaged, incomplete or not supported.
    """
    folder = folder.expanduser().absolute()
    try:
        return _resolved(name, folder, data_dir)
    except (ValueError, OSError) as error:
        raise ModelLoadError(name, f"{folder}: {error}") from error


def _resolved(name: str, folder: Path, data_dir: Path) -> ModelFiles:
    if not folder.is_dir():
        raise ValueError("is no folder; name one that holds tokenizer.json and model.onnx or model.safetensors")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise ValueError("tokenizer.json is missing; save the model's fast tokenizer there")
    sentence = SentenceConfig.read(folder, name)
    graph = next((folder / place for place in _GRAPHS if (folder / place).is_file()), None)
    if graph is None and not (folder / _WEIGHTS).is_file():
        graph = _variant(folder)
    if graph is not None:
        return files_of_graph(name, graph, tokenizer, sentence, data_dir=data_dir)
    config = BertConfig.parse(read_json(folder / "config.json"))
    exported = exported_graph(folder / _WEIGHTS, config, data_dir=data_dir)
    return ModelFiles(
        name=name,
        graph=exported.graph,
        tokenizer=tokenizer,
        output=OUTPUT,
        pooling=sentence.pooling,
        normalize=sentence.normalize,
        max_tokens=min(sentence.max_tokens, config.max_tokens),
        prompts=sentence.prompts,
        exporter=exported.exporter,
        weights_sha256=exported.weights_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
    )


def files_of_graph(name: str, graph: Path, tokenizer: Path, sentence: SentenceConfig, *, data_dir: Path) -> ModelFiles:
    """Describes an ONNX file as it is.

    Raises:
        ValueError: the file is damaged, or has inputs or outputs that are not supported.
        OSError: a file cannot be read.
    """
    graph_sha256 = sha256_of(graph)
    facts = GraphFacts.cached(graph, graph_sha256, data_dir / "graphs")
    external = [graph.parent / place for place in facts.external]
    for path in external:
        if not path.resolve().is_relative_to(graph.parent.resolve()) or not path.is_file():
            raise ValueError(f"{graph.name} keeps weights in {path.name}, which is not beside it; copy it there")
    pooling, output = _pooling(graph, facts, sentence)
    return ModelFiles(
        name=name,
        graph=graph,
        tokenizer=tokenizer,
        output=output,
        pooling=pooling,
        normalize=sentence.normalize,
        max_tokens=sentence.max_tokens,
        prompts=sentence.prompts,
        precision=facts.precision,
        weights_sha256=sha256_of(graph, *external) if external else graph_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
    )


def _pooling(graph: Path, facts: GraphFacts, sentence: SentenceConfig) -> tuple[Pooling, str]:
    """What is left to do after the graph, and to which of its outputs.

    A bare folder's finished vectors are taken as they are.
    """
    unknown = sorted(set(facts.inputs) - KNOWN_INPUTS)
    if unknown or "input_ids" not in facts.inputs:
        raise ValueError(
            f"{graph.name} takes {', '.join(facts.inputs)}, only {', '.join(sorted(KNOWN_INPUTS))} can be given; "
            "export it without the others"
        )
    is_finished = not sentence.is_pooling_stated and facts.pooled_output == FINISHED_OUTPUT
    if facts.token_output and not is_finished and sentence.pooling is not Pooling.NONE:
        return sentence.pooling, facts.token_output
    if facts.pooled_output:
        return Pooling.NONE, facts.pooled_output
    shapes = ", ".join(f"{name} of rank {rank}" for name, rank in facts.outputs)
    raise ValueError(f"{graph.name} puts out {shapes}; (batch, tokens, hidden) or (batch, dimension) is needed")


def _variant(folder: Path) -> Path:
    """The first ONNX file of another precision."""
    found = sorted(path for pattern in _VARIANTS for path in folder.glob(pattern) if path.is_file())
    if found:
        logger.warning(
            "%s has no plain ONNX file, %s is used", folder, found[0].name, extra={"action": "resolve_model"}
        )
        return found[0]
    if (folder / "model.safetensors.index.json").is_file():
        raise ValueError("the weights are split over several safetensors files; save them as one model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        raise ValueError("pytorch_model.bin is a pickle and is never opened; save the weights as model.safetensors")
    raise ValueError("holds neither model.onnx, onnx/model.onnx nor model.safetensors; copy one of them there")
