"""fastembed's registry of models and its downloads; nothing else imports fastembed."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmill.errors import ModelLoadError
from embedmill_worker import environment
from embedmill_worker.models.access import OWN_FOLDER, is_file, locked_folder, storing, told
from embedmill_worker.models.digest import is_inside, read_json, read_note, sha256_of, write_atomically
from embedmill_worker.models.files import ModelFiles, Pooling
from embedmill_worker.models.graph_files import files_of_graph
from embedmill_worker.models.prompts import known_prompts
from embedmill_worker.models.sentence import SentenceConfig, task_ids, token_limit
from embedmill_worker.models.static import StaticTable, static_table

if TYPE_CHECKING:
    from fastembed.common.model_description import DenseModelDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What one of fastembed's classes does with its graphs."""

    pooling: Pooling
    normalize: bool
    #: Number or name of the graph's output.
    output: int | str = 0
    #: Whether texts are padded to the longest that the model reads.
    pads_to_longest: bool = False


_RULES = {
    "OnnxTextEmbedding": _Rule(pooling=Pooling.CLS, normalize=True),
    "CLIPOnnxEmbedding": _Rule(pooling=Pooling.NONE, normalize=False),
    "SiglipOnnxTextEmbedding": _Rule(pooling=Pooling.CLS, normalize=True, output="pooler_output", pads_to_longest=True),
    "PooledNormalizedEmbedding": _Rule(pooling=Pooling.MEAN, normalize=True),
    "PooledEmbedding": _Rule(pooling=Pooling.MEAN, normalize=False),
    "JinaEmbeddingV3": _Rule(pooling=Pooling.MEAN, normalize=True),
    "BuiltinSentenceEmbedding": _Rule(pooling=Pooling.NONE, normalize=False, output=1),
    "LastTokenNormalizedEmbedding": _Rule(pooling=Pooling.LAST_TOKEN, normalize=True),
}
#: The class of tables of token vectors, which have no graph.
_STATIC = "StaticTextEmbedding"
#: A large file in the hub's cache is named by its sha256.
_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """One dense text model of fastembed's registry."""

    name: str
    dimension: int
    bytes: int
    description: str
    #: Why it cannot be served; empty if it can.
    refusal: str


def registered_models() -> list[RegisteredModel]:
    """Lists fastembed's dense text models, those that cannot be served included."""
    return [
        RegisteredModel(
            name=description.model,
            dimension=description.dim or 0,
            bytes=round(description.size_in_GB * 1e9),
            description=f"{description.description.split(', Prefixes')[0]}, {description.license}",
            refusal=_refusal(kind),
        )
        for kind, description in _registry()
    ]


def files_of_registered(name: str, *, data_dir: Path, download: bool = True) -> ModelFiles | StaticTable | None:
    """Resolves a name of fastembed's registry, fetching its files if need be; None if it is not there.

    The digests of a finished download are written down; files that no longer match are fetched again.

    Raises:
        ModelLoadError: the model cannot be served, fetched, stored or read; says what to do.
    """
    found = next(((kind, item) for kind, item in _registry() if item.model.lower() == name.lower()), None)
    if found is None:
        return None
    kind, description = found
    if refusal := _refusal(kind):
        raise ModelLoadError(name, f"{refusal}, which is not supported; `embedmill models list` shows those that are")
    wanted = _wanted(kind, description)
    hub = data_dir / "hub"
    manifest = hub / "manifests" / f"{description.model.replace('/', '--')}.json"
    with told(name, instead=OWN_FOLDER):
        try:
            folder = _recorded_folder(manifest, hub) or _fetched(
                name, description, wanted, manifest, hub, download=download
            )
            if kind == _STATIC:
                return static_table(name, folder, table=description.model_file, normalize=True)
            return _graph(name, folder, description, _RULES[kind], data_dir=data_dir)
        except ValueError as error:
            raise ModelLoadError(name, f"{error}; if {hub} is deleted, it is fetched again") from error


def _registry() -> Iterator[tuple[str, "DenseModelDescription"]]:
    """Name of fastembed's class, and the model; in fastembed's order, in which the first match wins."""
    environment.prepare()  # fastembed imports onnxruntime
    from fastembed.text.text_embedding import TextEmbedding  # noqa: PLC0415 (slow, only for its models)

    for kind in TextEmbedding.EMBEDDINGS_REGISTRY:
        for description in kind._list_supported_models():
            yield kind.__name__, description


def _refusal(kind: str) -> str:
    return "" if kind in (*_RULES, _STATIC) else f"it is embedded by fastembed's {kind}"


def _wanted(kind: str, description: "DenseModelDescription") -> list[str]:
    """The files that a model is made of."""
    configs = ["tokenizer.json"] if kind == _STATIC else ["tokenizer.json", "tokenizer_config.json"]
    return [description.model_file, *description.additional_files, *configs]


def _graph(name: str, folder: Path, description: "DenseModelDescription", rule: _Rule, *, data_dir: Path) -> ModelFiles:
    from fastembed.common.onnx_external_data import link_external_data  # noqa: PLC0415 (as above)

    tokenizer = read_json(folder / "tokenizer_config.json")
    limits = [token_limit(tokenizer.get(key)) for key in ("model_max_length", "max_length")]
    max_tokens = min((limit for limit in limits if limit), default=0)
    if not max_tokens:
        raise ValueError("tokenizer_config.json does not say how long a text may be")
    sentence = SentenceConfig(
        folder=folder,
        pooling=rule.pooling,
        is_pooling_stated=True,
        normalize=rule.normalize,
        max_tokens=max_tokens,
        prompts=known_prompts(description.model),
        task_ids=task_ids(sorted(description.tasks or {}, key=(description.tasks or {}).__getitem__)),
    )
    with storing(folder):
        graph = link_external_data(folder, description.model_file, description.additional_files)
    return files_of_graph(
        name,
        graph,
        folder / "tokenizer.json",
        sentence,
        data_dir=data_dir,
        output=rule.output,
        fixed_tokens=max_tokens if rule.pads_to_longest else 0,
        pad_id=_pad_id(folder, tokenizer) if rule.pads_to_longest else 0,
    )


def _pad_id(folder: Path, tokenizer_config: dict[str, Any]) -> int:
    """The padding token, looked for where fastembed does."""
    from tokenizers import Tokenizer  # noqa: PLC0415 (only for models that pad to a fixed length)

    tokenizer = Tokenizer.from_buffer(read_note(folder / "tokenizer.json"))
    padding = tokenizer.padding or {}
    stated = padding.get("pad_id", read_json(folder / "config.json").get("pad_token_id"))
    found = tokenizer.token_to_id(str(tokenizer_config.get("pad_token"))) if stated is None else int(stated)
    if found is None:
        raise ValueError("neither tokenizer.json, config.json nor tokenizer_config.json names the padding token")
    return found


def _recorded_folder(manifest: Path, hub: Path) -> Path | None:
    """The folder of a finished download, if every file is as it was then."""
    folder, damaged = _recorded(manifest, hub)
    return None if damaged else folder


def _recorded(manifest: Path, hub: Path) -> tuple[Path | None, list[Path]]:
    """The folder of a finished download, and its files that are no longer what they were."""
    try:
        recorded: dict[str, Any] = read_json(manifest)
        folder, digests = hub / recorded["folder"], dict(recorded["sha256"])
        paths = {folder / file: digest for file, digest in digests.items()}
    except (KeyError, TypeError, ValueError):
        return None, []
    if not all(is_inside(path, hub) for path in paths):
        raise ValueError(f"{manifest} names files outside of {hub}; delete it")
    return folder, [path for path, digest in paths.items() if not is_file(path) or sha256_of(path) != digest]


def _fetched(
    name: str,
    description: "DenseModelDescription",
    wanted: list[str],
    manifest: Path,
    hub: Path,
    *,
    download: bool,
) -> Path:
    """Fetches what is missing or damaged; one process at a time."""
    with locked_folder(hub):
        folder, damaged = _recorded(manifest, hub)
        if folder and not damaged:
            return folder
        for path in damaged:
            logger.warning("%s is damaged and is fetched again", path, extra={"action": "fetch_model"})
            _delete(path, hub)
        folder = _download(name, description, hub, download=download)
        if download and not all((folder / file).is_file() for file in wanted):
            # fastembed takes a cached graph for a complete download; without it, it asks the hub.
            with storing(folder):
                (folder / description.model_file).unlink(missing_ok=True)
            folder = _download(name, description, hub, download=download)
        digests = {file: sha256_of(folder / file) for file in wanted}
        for file, digest in digests.items():
            stated = (folder / file).resolve().name
            if _SHA256.fullmatch(stated) and stated != digest:
                _delete(folder / file, hub)
                raise ValueError(f"{file} was damaged on its way and is deleted; start again to fetch it")
        recorded = {"folder": str(folder.relative_to(hub)), "sha256": digests}
        write_atomically(manifest, json.dumps(recorded, indent=1).encode())
        return folder


def _delete(path: Path, hub: Path) -> None:
    with storing(path):
        if is_inside(path, hub):
            path.resolve().unlink(missing_ok=True)  # the hub's cache keeps the content elsewhere and links to it
        path.unlink(missing_ok=True)


def _download(name: str, description: "DenseModelDescription", hub: Path, *, download: bool) -> Path:
    from fastembed.text.onnx_embedding import OnnxTextEmbedding  # noqa: PLC0415

    try:
        return Path(OnnxTextEmbedding.download_model(description, str(hub), retries=1, local_files_only=not download))
    except Exception as error:  # whatever the hub's client raises
        why = (
            "it was not fetched before and downloads are off" if not download else f"it could not be fetched ({error})"
        )
        raise ModelLoadError(
            name,
            f"{why}; check that the hub or HF_ENDPOINT can be reached, "
            f"or name a folder with the model: {name}=/path/to/folder",
        ) from error
