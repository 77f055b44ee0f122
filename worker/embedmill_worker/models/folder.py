"""A folder on disk to a runnable model: an ONNX file as it is, or safetensors exported to one."""

import logging
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.access import is_file, is_folder, told
from embedmill_worker.models.bert import BertConfig
from embedmill_worker.models.digest import read_json, sha256_of
from embedmill_worker.models.exported import OUTPUT, exported_graph
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.graph_files import files_of_graph
from embedmill_worker.models.sentence import SentenceConfig
from embedmill_worker.models.static import StaticTable, is_static, static_table

#: Where plain ONNX files lie, the first one found is taken.
_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
#: Where other precisions lie; taken only if there is nothing else.
_VARIANTS = ("model_*.onnx", "onnx/model_*.onnx")
_WEIGHTS = "model.safetensors"
#: Says which of several files holds which tensor.
_INDEX = "model.safetensors.index.json"

#: What a value of a wrong type in a configuration ends in.
_ODD = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

logger = logging.getLogger(__name__)


def files_of_folder(name: str, folder: Path, *, data_dir: Path) -> ModelFiles | StaticTable:
    """Resolves a local folder, or one ONNX file of it; nothing in it is executed or written.

    Exports and what was learnt about graphs are kept in `data_dir`.

    Args:
        name: what users call it.
        folder: the folder, or the ONNX file that is to be taken; tokenizer and configuration then lie beside it or
            one folder up.
        data_dir: where exports and notes are kept.

    Raises:
        ModelLoadError: the folder is damaged, incomplete or not supported, or may not be read.
    """
    place = folder.expanduser().absolute()
    with told(name):
        try:
            if place.suffix == ".onnx":
                return _resolved(name, _folder_of(place), data_dir, place)
            return _resolved(name, place, data_dir, None)
        except ValueError as error:
            raise ModelLoadError(name, f"{place}: {error}") from error
        except _ODD as error:  # not each field of each file is looked at for its type
            raise ModelLoadError(name, f"{place}: its configuration is damaged ({error!r}); restore it") from error


def _folder_of(graph: Path) -> Path:
    if not is_file(graph):
        raise ValueError("is no file; name an ONNX file or a folder")
    return graph.parent if is_file(graph.parent / "tokenizer.json") else graph.parent.parent


def _resolved(name: str, folder: Path, data_dir: Path, graph: Path | None) -> ModelFiles | StaticTable:
    if not is_folder(folder):
        raise ValueError("is no folder; name one that holds tokenizer.json and model.onnx or model.safetensors")
    if graph is None and is_static(folder):
        return static_table(name, folder)
    if not is_file(folder / "tokenizer.json") and not any(
        is_file(path / "tokenizer.json") for path in folder.iterdir()
    ):
        raise ValueError("tokenizer.json is missing; save the model's fast tokenizer there")
    sentence = SentenceConfig.read(folder, name)
    own = sentence.folder / "tokenizer.json"
    tokenizer = own if is_file(own) else folder / "tokenizer.json"
    weights = _weights(sentence.folder)
    graph = graph or next((folder / place for place in _GRAPHS if is_file(folder / place)), None)
    if graph is None and not weights:
        graph = _variant(folder)
    if graph is not None:
        return files_of_graph(name, graph, tokenizer, sentence, data_dir=data_dir)
    config = BertConfig.parse(read_json(sentence.folder / "config.json"))
    exported = exported_graph(weights, config, data_dir=data_dir)
    return ModelFiles(
        name=name,
        graph=exported.graph,
        tokenizer=tokenizer,
        output=OUTPUT,
        pooling=sentence.pooling,
        pools_prompt=sentence.pools_prompt,
        layers=sentence.layers,
        normalize=sentence.normalize,
        max_tokens=min(sentence.max_tokens, config.max_tokens),
        prompts=sentence.prompts,
        exporter=exported.exporter,
        weights_sha256=exported.weights_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model; none if there are none."""
    if is_file(folder / _WEIGHTS):
        return (folder / _WEIGHTS,)
    index = folder / _INDEX
    if not is_file(index):
        return ()
    stated = read_json(index).get("weight_map")
    if not isinstance(stated, dict) or not stated:
        raise ValueError(f"{_INDEX} has no weight_map; restore it")
    parts = tuple(folder / part for part in sorted({str(part) for part in stated.values()}))
    for part in parts:
        if part.parent.resolve() != folder.resolve() or not is_file(part):
            raise ValueError(f"{_INDEX} names {part.name}, which is not in the folder; copy it there")
    return parts


def _variant(folder: Path) -> Path:
    """The first ONNX file of another precision."""
    for place in (folder, folder / "onnx"):
        if is_folder(place):
            next(place.iterdir(), None)  # glob passes over a folder that may not be listed
    found = sorted(path for pattern in _VARIANTS for path in folder.glob(pattern) if is_file(path))
    if found:
        logger.warning(
            "%s has no plain ONNX file, %s is used", folder, found[0].name, extra={"action": "resolve_model"}
        )
        return found[0]
    if is_file(folder / "pytorch_model.bin"):
        raise ValueError("pytorch_model.bin is a pickle and is never opened; save the weights as model.safetensors")
    raise ValueError("holds neither model.onnx, onnx/model.onnx nor model.safetensors; copy one of them there")
