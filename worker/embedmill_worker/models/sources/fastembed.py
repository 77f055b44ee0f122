"""fastembed's registry: names, repositories and rules of its models."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmill.errors import ModelLoadError
from embedmill_worker import environment
from embedmill_worker.models.disk import read_json, read_note, storing, told
from embedmill_worker.models.files import ModelFiles, Pooling, SentenceConfig
from embedmill_worker.models.formats.onnx_model import files_of_graph
from embedmill_worker.models.formats.prompts import known_prompts
from embedmill_worker.models.formats.sentence_transformers import FAMILY_SOURCE, task_ids, token_limit
from embedmill_worker.models.formats.static import StaticTable, static_table
from embedmill_worker.models.sources.hub import Repository, linked

if TYPE_CHECKING:
    from fastembed.common.model_description import DenseModelDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Processing that one of fastembed's classes applies to its graphs."""

    pooling: Pooling
    normalize: bool
    #: Number or name of the graph's output to use.
    output: int | str = 0
    #: Whether texts are padded to the longest that the model reads.
    pads_to_longest: bool = False


RULES = {
    "OnnxTextEmbedding": _Rule(pooling=Pooling.CLS, normalize=True),
    "CLIPOnnxEmbedding": _Rule(pooling=Pooling.NONE, normalize=False),
    "SiglipOnnxTextEmbedding": _Rule(pooling=Pooling.CLS, normalize=True, output="pooler_output", pads_to_longest=True),
    "PooledNormalizedEmbedding": _Rule(pooling=Pooling.MEAN, normalize=True),
    "PooledEmbedding": _Rule(pooling=Pooling.MEAN, normalize=False),
    "JinaEmbeddingV3": _Rule(pooling=Pooling.MEAN, normalize=True),
    "BuiltinSentenceEmbedding": _Rule(pooling=Pooling.NONE, normalize=False, output=1),
    "LastTokenNormalizedEmbedding": _Rule(pooling=Pooling.LAST_TOKEN, normalize=True),
}
#: fastembed's class for tables of token vectors, which have no graph.
STATIC = "StaticTextEmbedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A dense text model of fastembed's registry."""

    name: str
    dimension: int
    bytes: int
    description: str
    #: Repository on the hub.
    repository: str
    #: Why it cannot be served; empty if it can.
    refusal: str


def registered_models() -> list[RegisteredModel]:
    """List fastembed's dense text models, including those that cannot be served."""
    return [
        RegisteredModel(
            name=description.model,
            dimension=description.dim or 0,
            bytes=round(description.size_in_GB * 1e9),
            description=f"{description.description.split(', Prefixes')[0]}, {description.license}",
            repository=str(description.sources.hf),
            refusal=_refusal(kind),
        )
        for kind, description in described_by_fastembed()
    ]


def find_registered(name: str) -> RegisteredModel | None:
    """Return the model of this name; None if fastembed has none."""
    return next((model for model in registered_models() if model.name.lower() == name.lower()), None)


def files_of_registered(
    name: str, model: RegisteredModel, repository: Repository, *, data_dir: Path
) -> ModelFiles | StaticTable:
    """Fetch a model of fastembed's registry.

    Args:
        name: name that users give it.
        model: the registry's entry.
        repository: the model's repository.
        data_dir: folder that keeps facts about graphs.

    Raises:
        ModelLoadError: the model cannot be fetched, stored or read; the message gives a hint.
    """
    kind, description = next((kind, item) for kind, item in described_by_fastembed() if item.model == model.name)
    folder = repository.fetch(_wanted(kind, description))
    with told(name):
        try:
            files = (
                static_table(name, folder, table=description.model_file, normalize=True)
                if kind == STATIC
                else _graph(name, folder, description, kind, data_dir=data_dir)
            )
        except ValueError as error:
            raise ModelLoadError(name, f"{repository.commit}: {error}") from error
    return replace(files, revision=str(repository.commit))


def described_by_fastembed() -> Iterator[tuple[str, "DenseModelDescription"]]:
    """Yield each model with the name of its fastembed class, in fastembed's order; the first match wins."""
    environment.prepare()  # fastembed imports onnxruntime
    from fastembed.text.text_embedding import TextEmbedding  # noqa: PLC0415 (slow, only for its models)

    for kind in TextEmbedding.EMBEDDINGS_REGISTRY:
        for description in kind._list_supported_models():
            yield kind.__name__, description


def _refusal(kind: str) -> str:
    return "" if kind in (*RULES, STATIC) else f"it is embedded by fastembed's {kind}"


def _wanted(kind: str, description: "DenseModelDescription") -> list[str]:
    """Return the files that a model needs."""
    configs = ["tokenizer.json"] if kind == STATIC else ["tokenizer.json", "tokenizer_config.json"]
    return [description.model_file, *description.additional_files, *configs]


def _graph(name: str, folder: Path, description: "DenseModelDescription", kind: str, *, data_dir: Path) -> ModelFiles:
    rule = RULES[kind]
    tokenizer = read_json(folder / "tokenizer_config.json")
    limits = [token_limit(tokenizer.get(key)) for key in ("model_max_length", "max_length")]
    max_tokens = min((limit for limit in limits if limit), default=0)
    if not max_tokens:
        raise ValueError("tokenizer_config.json does not state the maximum length of a text")
    sentence = SentenceConfig(
        folder=folder,
        pooling=rule.pooling,
        is_pooling_stated=True,
        normalize=rule.normalize,
        max_tokens=max_tokens,
        prompts=known_prompts(description.model),
        task_ids=task_ids(sorted(description.tasks or {}, key=(description.tasks or {}).__getitem__)),
        sources={
            **dict.fromkeys(("pooling", "normalize"), f"fastembed's {kind}"),
            "max_tokens": "tokenizer_config.json",
            **dict.fromkeys(("query", "passage"), f"{FAMILY_SOURCE} {description.model}"),
        },
    )
    with storing(folder):
        graph = linked(folder, description.model_file, description.additional_files)
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
    """Return the id of the padding token, from the files that fastembed reads."""
    from tokenizers import Tokenizer  # noqa: PLC0415 (only for models that pad to a fixed length)

    tokenizer = Tokenizer.from_buffer(read_note(folder / "tokenizer.json"))
    padding = tokenizer.padding or {}
    stated = padding.get("pad_id", read_json(folder / "config.json").get("pad_token_id"))
    found = tokenizer.token_to_id(str(tokenizer_config.get("pad_token"))) if stated is None else int(stated)
    if found is None:
        raise ValueError("neither tokenizer.json, config.json nor tokenizer_config.json names the padding token")
    return found
