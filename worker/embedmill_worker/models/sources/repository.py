"""Models in a hub's repository: the files that they need are fetched and read as a folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from embedmill.errors import ModelLoadError
from embedmill_worker.models.disk import read_json, sha256_of, told
from embedmill_worker.models.fingerprint import Model
from embedmill_worker.models.formats.fasttext_file import read_fasttext
from embedmill_worker.models.formats.modules import module_folders
from embedmill_worker.models.formats.onnx_graph import GraphFacts
from embedmill_worker.models.formats.sentence_transformers import LIMITS_FILES
from embedmill_worker.models.formats.static import is_static, static_table
from embedmill_worker.models.formats.weights import ADAPTER, INDEX, choose_weights
from embedmill_worker.models.sources.folder import files_of_folder
from embedmill_worker.models.sources.hub import Repository, linked

_TOKENIZER: Final = "tokenizer.json"
_MODULES: Final = "modules.json"
#: Small files that describe a model, in its folder and in those of its modules.
_NOTES: Final = frozenset(
    {
        _TOKENIZER,
        _MODULES,
        INDEX,
        ADAPTER,
        "config.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
        *LIMITS_FILES,
    }
)
_WEIGHTS: Final = "model.safetensors"
_FASTTEXT: Final = "model.bin"

logger = logging.getLogger(__name__)


def files_of_repository(name: str, repository: Repository, *, data_dir: Path, precision: str = "") -> Model:
    """Fetch the files that a model needs and read them as a folder.

    Args:
        name: name that users give it.
        repository: the model's repository.
        data_dir: folder of exports and notes.
        precision: requested precision, see `files_of_folder`.

    Raises:
        ModelLoadError: the model cannot be fetched, is damaged or is not supported; the message gives a hint.
    """
    if _FASTTEXT in repository.names and not {_TOKENIZER, "config.json"} & repository.names:
        return read_fasttext(name, repository.fetch([_FASTTEXT]) / _FASTTEXT, data_dir=data_dir)
    origin = str(repository.commit)
    with _named(name, repository):
        folder = _fetch_notes(repository)
        if is_static(folder):
            repository.fetch({_WEIGHTS} & repository.names)
            return replace(static_table(name, folder), revision=origin)
        graph = _fetch_weights(repository, folder, data_dir, precision)
    files = files_of_folder(
        name, folder, data_dir=data_dir, graph=graph, repository=repository.commit.repository, precision=precision
    )
    return replace(files, revision=origin)


def tokenizer_of_repository(name: str, repository: Repository) -> Path:
    """Fetch the tokenizer without the weights.

    Raises:
        ModelLoadError: the tokenizer cannot be fetched, or is missing.
    """
    with _named(name, repository):
        folder = _fetch_notes(repository)
        transformer = "" if is_static(folder) else _transformer(folder)
    own = f"{transformer}/{_TOKENIZER}"
    return folder / (own if own in repository.names else _TOKENIZER)


@contextmanager
def _named(name: str, repository: Repository) -> Iterator[None]:
    """Turn errors about a repository's files into a ModelLoadError that names the repository."""
    with told(name):
        try:
            yield
        except ValueError as error:
            raise ModelLoadError(name, f"{repository.commit}: {error}") from error


def _fetch_notes(repository: Repository) -> Path:
    """Fetch the small files that describe a model."""
    folder = repository.fetch(_NOTES & repository.names)
    if not repository.commit.is_whole and _MODULES not in repository.names and not repository.is_absent(_MODULES):
        logger.warning(
            "%s: the hub's cache may hold only a part of it, and holds no modules.json; run `embedmill models pull` "
            "where the hub can be reached",
            repository.commit,
            extra={"action": "fetch_model"},
        )
    within = {f"{path.relative_to(folder).as_posix()}/{note}" for _, path in module_folders(folder) for note in _NOTES}
    repository.fetch(within & repository.names)
    if not {_TOKENIZER, *(path for path in within if PurePosixPath(path).name == _TOKENIZER)} & repository.names:
        raise ValueError(
            "tokenizer.json is missing; load the repository with its library, save the fast tokenizer beside the "
            "model in a folder of your own, and name that folder"
        )
    return folder


def _transformer(folder: Path) -> str:
    return next(iter(_modules(folder, "Transformer")), "")


def _modules(folder: Path, wanted: str) -> list[str]:
    """Return the folders of the modules of one kind, relative to the model's."""
    found = [path.relative_to(folder).as_posix() for kind, path in module_folders(folder) if kind == wanted]
    return ["" if path == "." else path for path in found]


def _fetch_weights(repository: Repository, folder: Path, data_dir: Path, precision: str) -> Path | None:
    """Fetch the weights; return the ONNX file to serve, or None if safetensors are exported."""
    transformer = _transformer(folder)
    weights = choose_weights(
        repository.names,
        transformer=transformer,
        config=read_json(folder / transformer / "config.json"),
        index=read_json(folder / transformer / INDEX),
        precision=precision,
    )
    dense = [f"{layer}/{_WEIGHTS}" for layer in _modules(folder, "Dense")]
    graph_files = [weights.graph] if weights.graph else []
    repository.fetch({*weights.safetensors, *graph_files, *dense} & repository.names)
    if not weights.graph:
        return None
    graph = folder / weights.graph
    facts = GraphFacts.cached(graph, sha256_of(graph), data_dir / "graphs")
    home = PurePosixPath(weights.graph).parent
    data = [str(home / place) for place in facts.external]
    if lost := sorted(set(data) - repository.names):
        raise ValueError(f"{weights.graph} keeps weights in {lost[0]}, which the repository does not have")
    repository.fetch([weights.graph, *data])
    return linked(folder, weights.graph, data)
