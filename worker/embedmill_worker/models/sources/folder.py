"""Models in a folder: an ONNX file as it is, or safetensors that are exported to one."""

import logging
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill.model_spec import repository_of_path
from embedmill.safe.regular_file import open_regular
from embedmill_worker.models.built import exported_graph
from embedmill_worker.models.disk import is_file, is_folder, read_json, sha256_of, told
from embedmill_worker.models.export.bert import OUTPUT
from embedmill_worker.models.files import ModelFiles, Pooling, SentenceConfig
from embedmill_worker.models.formats.onnx_model import files_of_graph
from embedmill_worker.models.formats.sentence_transformers import FAMILY_SOURCE, read_sentence_config
from embedmill_worker.models.formats.static import StaticTable, is_static, static_table
from embedmill_worker.models.formats.weights import INDEX, choose_weights

#: Suffixes of the files to choose from.
_ENDINGS = (".onnx", ".safetensors", ".bin", ".json")

#: Beginning of a Git LFS pointer, which stands for a large file.
_POINTER = b"version https://git-lfs"

#: Errors that a value of the wrong type in a configuration causes.
_ODD = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

logger = logging.getLogger(__name__)


def files_of_folder(
    name: str,
    folder: Path,
    *,
    data_dir: Path,
    precision: str = "",
    graph: Path | None = None,
    repository: str = "",
) -> ModelFiles | StaticTable:
    """Describe the model in a local folder, or one of its ONNX files; nothing in it is executed or written.

    Exports and facts about graphs are kept in `data_dir`.

    Args:
        name: name that users give it.
        folder: the folder, or the ONNX file to use; tokenizer and configuration are then beside it or one folder up.
        data_dir: folder of exports and notes.
        precision: requested precision; it selects an ONNX file if none is in fp32.
        graph: the ONNX file to use, if it is not in the folder.
        repository: `org/name`, if the model comes from a hub.

    Raises:
        ModelLoadError: the folder is damaged, incomplete or not supported, or may not be read.
    """
    place = folder.expanduser().absolute()
    with told(name):
        try:
            if place.suffix == ".onnx":
                graph, place = place, _folder_of(place)
            return _resolved(name, place, graph, data_dir=data_dir, precision=precision, repository=repository)
        except ValueError as error:
            raise ModelLoadError(name, f"{place}: {error}") from error
        except _ODD as error:  # not every field is checked for its type
            raise ModelLoadError(name, f"{place}: its configuration is damaged ({error!r}); restore it") from error


def _folder_of(graph: Path) -> Path:
    if not is_file(graph):
        raise ValueError("is not a file; name an ONNX file or a folder")
    return graph.parent if is_file(graph.parent / "tokenizer.json") else graph.parent.parent


def _resolved(
    name: str, folder: Path, graph: Path | None, *, data_dir: Path, precision: str, repository: str
) -> ModelFiles | StaticTable:
    if not is_folder(folder):
        raise ValueError("is not a folder; name one that holds tokenizer.json and model.onnx or model.safetensors")
    if graph is None and is_static(folder):
        return static_table(name, folder)
    if not is_file(folder / "tokenizer.json") and not any(
        is_file(path / "tokenizer.json") for path in folder.iterdir()
    ):
        raise ValueError("tokenizer.json is missing; save the model's fast tokenizer there")
    sentence = read_sentence_config(folder, repository or repository_of_path(folder), name)
    if sentence.prompts and sentence.sources["query"].startswith(FAMILY_SOURCE):
        logger.info(
            "%s: its prefixes %s come from %s, as no file states any; to make them independent of its name, write them "
            "into config_sentence_transformers.json",
            name,
            dict(sentence.prompts),
            sentence.sources["query"],
            extra={"action": "resolve_model"},
        )
    own = sentence.folder / "tokenizer.json"
    tokenizer = own if is_file(own) else folder / "tokenizer.json"
    _refuse_pointers(tokenizer)
    if graph is not None:
        _refuse_pointers(graph)
        return _log_pooling(files_of_graph(name, graph, tokenizer, sentence, data_dir=data_dir), sentence)
    config = read_json(sentence.folder / "config.json")
    weights = choose_weights(
        _names(folder, sentence.folder),
        transformer=_relative(sentence.folder, folder),
        config=config,
        index=read_json(sentence.folder / INDEX),
        precision=precision,
    )
    _refuse_pointers(*(folder / part for part in (weights.graph, *weights.safetensors) if part))
    if weights.config is None:
        files = files_of_graph(name, folder / weights.graph, tokenizer, sentence, data_dir=data_dir)
        return _log_pooling(files, sentence)
    exported = exported_graph([folder / part for part in weights.safetensors], weights.config, data_dir=data_dir)
    files = ModelFiles(
        name=name,
        graph=exported.graph,
        tokenizer=tokenizer,
        output=OUTPUT,
        pooling=sentence.pooling,
        pools_prompt=sentence.pools_prompt,
        layers=sentence.layers,
        normalize=sentence.normalize,
        max_tokens=min(sentence.max_tokens, weights.config.max_tokens),
        prompts=sentence.prompts,
        exporter=exported.exporter,
        weights_sha256=exported.weights_sha256,
        tokenizer_sha256=sha256_of(tokenizer),
        sources=sentence.sources,
    )
    return _log_pooling(files, sentence)


def _log_pooling(files: ModelFiles, sentence: SentenceConfig) -> ModelFiles:
    """Return the files; log a pooling that is our guess or from a name, because another changes the vectors."""
    if sentence.is_pooling_stated or files.pooling is Pooling.NONE:
        return files
    is_guess = not sentence.sources["pooling"].startswith(FAMILY_SOURCE)
    logger.log(
        logging.WARNING if is_guess else logging.INFO,
        "%s: its vectors are pooled by %s, from %s, as it has no modules.json; if the model needs another pooling, add "
        "a modules.json",
        files.name,
        files.pooling.value,
        sentence.sources["pooling"],
        extra={"action": "resolve_model"},
    )
    return files


def _refuse_pointers(*paths: Path) -> None:
    """Raise ValueError if a file is a Git LFS pointer, as in a clone without Git LFS."""
    for path in paths:
        with open_regular(path) as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(f"{path.name} is a Git LFS pointer and not the file itself; run git lfs pull there")


def _names(folder: Path, transformer: Path) -> frozenset[str]:
    """Return the files to choose from, relative to the folder."""
    places = [place for place in {folder, folder / "onnx", transformer} if is_folder(place)]
    paths = [path for place in places for path in place.iterdir() if path.suffix in _ENDINGS]
    return frozenset(_relative(path, folder) for path in paths if is_file(path))


def _relative(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return "" if relative == "." else relative
