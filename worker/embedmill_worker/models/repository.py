"""A repository of a hub to a runnable model: the files that are needed, fetched and read as a folder."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from embedmill.errors import ModelLoadError
from embedmill_worker.models.access import told
from embedmill_worker.models.digest import read_json, sha256_of
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.folder import files_of_folder
from embedmill_worker.models.graph import GraphFacts
from embedmill_worker.models.hub import Repository
from embedmill_worker.models.modules import module_folders
from embedmill_worker.models.sentence import LIMITS_FILES
from embedmill_worker.models.static import StaticTable, is_static, static_table
from embedmill_worker.models.weights import INDEX, choose_weights

_TOKENIZER: Final = "tokenizer.json"
#: Small files that say what a model is, at its top or one folder below.
_NOTES: Final = frozenset(
    {
        _TOKENIZER,
        INDEX,
        "config.json",
        "tokenizer_config.json",
        "modules.json",
        "config_sentence_transformers.json",
        *LIMITS_FILES,
    }
)
_WEIGHTS: Final = "model.safetensors"


def files_of_repository(
    name: str, repository: Repository, *, data_dir: Path, precision: str = ""
) -> ModelFiles | StaticTable:
    """Fetches what a model needs and reads it as a folder.

    Args:
        name: what users call it.
        repository: where it is.
        data_dir: where exports and notes are kept.
        precision: what is asked for, see `files_of_folder`.

    Raises:
        ModelLoadError: it cannot be fetched, is damaged or is not supported; says what to do.
    """
    folder = repository.fetch(_notes(repository.names))
    origin = str(repository.commit)
    with told(name):
        try:
            _check(repository.names)
            if is_static(folder):
                repository.fetch([_WEIGHTS])
                return replace(static_table(name, folder), revision=origin)
            graph = _fetch_weights(repository, folder, data_dir, precision)
        except ValueError as error:
            raise ModelLoadError(name, f"{origin}: {error}") from error
    files = files_of_folder(
        name, folder, data_dir=data_dir, graph=graph, repository=repository.commit.repository, precision=precision
    )
    return replace(files, revision=origin)


def tokenizer_of_repository(name: str, repository: Repository) -> Path:
    """Fetches the tokenizer alone, without the weights.

    Raises:
        ModelLoadError: it cannot be fetched, or there is none.
    """
    folder = repository.fetch(_notes(repository.names))
    with told(name):
        try:
            _check(repository.names)
            transformer = "" if is_static(folder) else _transformer(folder)
        except ValueError as error:
            raise ModelLoadError(name, f"{repository.commit}: {error}") from error
    own = f"{transformer}/{_TOKENIZER}"
    return folder / (own if own in repository.names else _TOKENIZER)


def _check(names: Iterable[str]) -> None:
    if not any(PurePosixPath(name).name == _TOKENIZER for name in _notes(names)):
        raise ValueError(
            "tokenizer.json is missing; load the repository with its library, save the fast tokenizer beside the "
            "model in a folder of yours, and name that folder"
        )


def _notes(names: Iterable[str]) -> list[str]:
    paths = [PurePosixPath(name) for name in names]
    return [str(path) for path in paths if path.name in _NOTES and len(path.parts) <= 2 and path.parts[0] != "onnx"]


def _transformer(folder: Path) -> str:
    return next(iter(_modules(folder, "Transformer")), "")


def _modules(folder: Path, wanted: str) -> list[str]:
    """Return the folders of the modules of one kind, relative to the model's."""
    found = [path.relative_to(folder).as_posix() for kind, path in module_folders(folder) if kind == wanted]
    return ["" if path == "." else path for path in found]


def _fetch_weights(repository: Repository, folder: Path, data_dir: Path, precision: str) -> Path | None:
    """Fetch the weights; return the ONNX file that is served, None if it is made of safetensors."""
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
        raise ValueError(f"{weights.graph} keeps weights in {lost[0]}, which the repository has not")
    repository.fetch([weights.graph, *data])
    return linked(folder, weights.graph, data)


def linked(folder: Path, graph: str, data: list[str]) -> Path:
    """Return the path of a graph in the hub's cache under which ONNX Runtime finds its data files, too."""
    from fastembed.common.onnx_external_data import link_external_data  # noqa: PLC0415 (slow, only for a hub's models)

    return link_external_data(folder, graph, data)
