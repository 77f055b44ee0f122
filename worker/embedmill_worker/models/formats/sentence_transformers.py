"""Settings of a sentence-transformers folder: pooling, maximum length and prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedmill_worker.models.disk import exists, read_json
from embedmill_worker.models.files import Pooling, SentenceConfig
from embedmill_worker.models.formats.modules import Modules
from embedmill_worker.models.formats.prompts import known_pooling, known_prompts

#: Limits above this mean no limit; tokenizers write 1e30.
_NO_LIMIT_TOKENS = 1_000_000
#: Rows of the position table before position 0, for RoBERTa and its relatives.
_ROBERTA_OFFSET = 2
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
#: Names under which sentence-transformers looks for the prompt of passages; the first one wins.
_PASSAGE_PROMPTS = ("document", "passage", "corpus")
#: Files in which sentence-transformers keeps the maximum length; all but the first are of early versions.
LIMITS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
#: Source of settings that no file states.
_BARE = "the rule for models without modules.json"
#: Beginning of the source of settings that were derived from a name.
FAMILY_SOURCE = "the family of the name"


def read_sentence_config(folder: Path, *names: str) -> SentenceConfig:
    """Read a folder; without `modules.json`, vectors are mean-pooled and normalised.

    Args:
        folder: the folder.
        names: other names of the model, such as its repository's; a family's name implies prefixes.

    Raises:
        ValueError: a file is damaged, or asks for something unsupported; the message names it.
        OSError: a file cannot be read.
    """
    modules = Modules.read(folder)
    limits, limits_place = _limits(modules.transformer)
    if limits.get("do_lower_case"):
        raise ValueError(f"do_lower_case in {limits_place} is not supported; lower-case texts yourself")
    config = read_json(modules.transformer / "config.json")
    max_tokens, limit_source = _max_tokens(modules.transformer, config)
    prompts, prompt_source = _prompts(folder, names)
    pooling, pooling_source = modules.pooling, modules.pooling_source
    if not modules.is_stated:
        pooling, pooling_source = _pooling_by_name((*names, folder.resolve().name), pooling, pooling_source)
    _refuse_classifier(folder, config, is_stated=modules.is_stated)
    return SentenceConfig(
        folder=modules.transformer,
        pooling=pooling,
        is_pooling_stated=modules.is_stated,
        pools_prompt=modules.pools_prompt,
        layers=modules.layers,
        normalize=modules.normalize,
        max_tokens=max_tokens,
        prompts=prompts,
        task_ids=task_ids(config.get("lora_adaptations") or ()),
        counts_from_zero=config.get("model_type") not in _ROBERTA_TYPES,
        sources={
            "pooling": pooling_source,
            "normalize": "modules.json" if modules.is_stated else _BARE,
            "max_tokens": limit_source,
            "query": prompt_source,
            "passage": prompt_source,
        },
    )


def _limits(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the content and name of the file in which sentence-transformers keeps a model's limits."""
    found = next((name for name in LIMITS_FILES if exists(folder / name)), LIMITS_FILES[0])
    return read_json(folder / found), found


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the maximum tokens of an input, and the file that states it."""
    positions = token_limit(config.get("max_position_embeddings"))
    if positions and config.get("model_type") in _ROBERTA_TYPES:
        positions -= _ROBERTA_OFFSET
    limits, place = _limits(folder)
    stated = {
        place: token_limit(limits.get("max_seq_length")),
        "tokenizer_config.json": token_limit(read_json(folder / "tokenizer_config.json").get("model_max_length")),
        "config.json": positions,
    }
    limit, source = next(((limit, name) for name, limit in stated.items() if limit), (0, ""))
    if not limit:
        raise ValueError(
            "no file states the maximum length of a text; write "
            '{"max_seq_length": 512} or the value that fits the model into sentence_bert_config.json'
        )
    return (positions, "config.json") if 0 < positions < limit else (limit, source)


def token_limit(value: Any) -> int:
    """Return the limit in tokens that a config's value states; 0 if it states none."""
    is_limit = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _NO_LIMIT_TOKENS
    return int(value) if is_limit else 0


def task_ids(tasks: Any) -> dict[str, int]:
    """Return the task's number by input type, from a model's ordered tasks; texts without a type are passages."""
    names = list(tasks)
    if not {"retrieval.query", "retrieval.passage"} <= set(names):
        return {}
    passage = names.index("retrieval.passage")
    return {"": passage, "query": names.index("retrieval.query"), "passage": passage}


def _prompts(folder: Path, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the prefixes by input type, and their source; the default prompt is for texts without an input type."""
    place = "config_sentence_transformers.json"
    config = read_json(folder / place)
    stated = config.get("prompts") or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str | None) for text in stated.values()):
        raise ValueError(f"prompts in {place} is not a table of texts")
    default = config.get("default_prompt_name")
    if default is not None and default not in stated:
        raise ValueError(f"default_prompt_name {default!r} in {place} is not one of its prompts")
    prompts = {str(kind): text for kind, text in stated.items() if text}
    if not prompts:
        return _by_name((*names, folder.resolve().name))
    passage = next((prompts[kind] for kind in _PASSAGE_PROMPTS if kind in prompts), "")
    used = {"": prompts.get(default or "", ""), "query": prompts.get("query", ""), "passage": passage}
    return {kind: text for kind, text in used.items() if text}, place


def _pooling_by_name(names: Sequence[str], pooling: Pooling, source: str) -> tuple[Pooling, str]:
    """Return the pooling of the family that one of the names belongs to, or else the given pooling."""
    for name in names:
        if known := known_pooling(name):
            return known, f"{FAMILY_SOURCE} {name}"
    return pooling, source


def _refuse_classifier(folder: Path, config: Mapping[str, Any], *, is_stated: bool) -> None:
    """Raise ValueError for rerankers and classifiers, whose hidden states were not trained to be compared."""
    kinds = config.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    stated = read_json(folder / "config_sentence_transformers.json").get("model_type")
    if stated == "CrossEncoder" or (kind.endswith("ForSequenceClassification") and not is_stated):
        raise ValueError(
            f"it is a {stated or kind}, which scores texts and returns no vectors; name an embedding model, or write a "
            "modules.json that states its pooling"
        )


def _by_name(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the prefixes of the first name's family that has any, and their source."""
    for name in names:
        if prompts := known_prompts(name):
            return prompts, f"{FAMILY_SOURCE} {name}"
    return {}, "nothing: no file states prefixes, and the name is not of a family that has them"
