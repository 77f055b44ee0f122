"""A folder on disk to a runnable model: an ONNX file as it is, or safetensors exported to one."""

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

#: Endings of the files among which is chosen.
_ENDINGS = (".onnx", ".safetensors", ".bin", ".json")

#: How a file begins that stands for a large one.
_POINTER = b"version https://git-lfs"

#: What a value of a wrong type in a configuration ends in.
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
    """Resolves a local folder, or one ONNX file of it; nothing in it is executed or written.

    Exports and what was learnt about graphs are kept in `data_dir`.

    Args:
        name: what users call it.
        folder: the folder, or the ONNX file that is to be taken; tokenizer and configuration then lie beside it or
            one folder up.
        data_dir: where exports and notes are kept.
        precision: what is asked for; it decides if there are only ONNX files of other precisions than fp32.
        graph: the ONNX file that is to be taken, if it does not lie in the folder.
        repository: `org/name`, if it comes from a hub.

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
        except _ODD as error:  # not each field of each file is looked at for its type
            raise ModelLoadError(name, f"{place}: its configuration is damaged ({error!r}); restore it") from error


def _folder_of(graph: Path) -> Path:
    if not is_file(graph):
        raise ValueError("is no file; name an ONNX file or a folder")
    return graph.parent if is_file(graph.parent / "tokenizer.json") else graph.parent.parent


def _resolved(
    name: str, folder: Path, graph: Path | None, *, data_dir: Path, precision: str, repository: str
) -> ModelFiles | StaticTable:
    if not is_folder(folder):
        raise ValueError("is no folder; name one that holds tokenizer.json and model.onnx or model.safetensors")
    if graph is None and is_static(folder):
        return static_table(name, folder)
    if not is_file(folder / "tokenizer.json") and not any(
        is_file(path / "tokenizer.json") for path in folder.iterdir()
    ):
        raise ValueError("tokenizer.json is missing; save the model's fast tokenizer there")
    sentence = read_sentence_config(folder, repository or repository_of_path(folder), name)
    if sentence.prompts and sentence.sources["query"].startswith(FAMILY_SOURCE):
        logger.info(
            "%s: its prefixes %s come from %s, as no file states any; to fix them whatever it is called, write them "
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
        return _guess_told(files_of_graph(name, graph, tokenizer, sentence, data_dir=data_dir), sentence)
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
        return _guess_told(files, sentence)
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
    return _guess_told(files, sentence)


def _guess_told(files: ModelFiles, sentence: SentenceConfig) -> ModelFiles:
    """Return the files; log where pooling is our guess or taken from a name, as another gives other vectors."""
    if sentence.is_pooling_stated or files.pooling is Pooling.NONE:
        return files
    is_guess = not sentence.sources["pooling"].startswith(FAMILY_SOURCE)
    logger.log(
        logging.WARNING if is_guess else logging.INFO,
        "%s: its vectors are pooled by %s, from %s, as it has no modules.json; if the model wants another way, put one "
        "there",
        files.name,
        files.pooling.value,
        sentence.sources["pooling"],
        extra={"action": "resolve_model"},
    )
    return files


def _refuse_pointers(*paths: Path) -> None:
    """Raise ValueError for files that a clone without Git LFS has in place of large ones."""
    for path in paths:
        with open_regular(path) as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(f"{path.name} is a pointer of Git LFS and not the file itself; run git lfs pull there")


def _names(folder: Path, transformer: Path) -> frozenset[str]:
    """Return the files among which is chosen, relative to the folder."""
    places = [place for place in {folder, folder / "onnx", transformer} if is_folder(place)]
    paths = [path for place in places for path in place.iterdir() if path.suffix in _ENDINGS]
    return frozenset(_relative(path, folder) for path in paths if is_file(path))


def _relative(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return "" if relative == "." else relative
