"""What a sentence-transformers folder says about pooling, length and prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedmill_worker.models.disk import exists, read_json
from embedmill_worker.models.files import Pooling, SentenceConfig
from embedmill_worker.models.formats.modules import Modules
from embedmill_worker.models.formats.prompts import known_pooling, known_prompts

#: Limits above this are a tokenizer's way to say that it has none (1e30).
_NO_LIMIT_TOKENS = 1_000_000
#: Rows of the position table before position 0, for the kin of RoBERTa.
_ROBERTA_OFFSET = 2
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
#: Names under which sentence-transformers looks for the prompt of passages; the first one wins.
_PASSAGE_PROMPTS = ("document", "passage", "corpus")
#: Where sentence-transformers keeps the longest input; all but the first name are of its early versions.
LIMITS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
#: What says how vectors are made where no file does.
_BARE = "the rule for models without modules.json"
#: How the source of prefixes begins that were taken from a name.
FAMILY_SOURCE = "the family of the name"


def read_sentence_config(folder: Path, *names: str) -> SentenceConfig:
    """Read a folder; without `modules.json` vectors are mean-pooled and normalised.

    Args:
        folder: it.
        names: what else the model is called, its repository's name, say; a family's name tells prefixes.

    Raises:
        ValueError: a file is damaged, or asks for what cannot be done; names it.
        OSError: a file cannot be read.
    """
    modules = Modules.read(folder)
    limits, limits_place = _limits(modules.transformer)
    if limits.get("do_lower_case"):
        raise ValueError(f"do_lower_case in {limits_place} is not supported; lower texts yourself")
    config = read_json(modules.transformer / "config.json")
    max_tokens, said = _max_tokens(modules.transformer, config)
    prompts, told = _prompts(folder, names)
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
            "max_tokens": said,
            "query": told,
            "passage": told,
        },
    )


def _limits(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the file that sentence-transformers keeps a model's limits in, and its name."""
    found = next((name for name in LIMITS_FILES if exists(folder / name)), LIMITS_FILES[0])
    return read_json(folder / found), found


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the longest input, and which file says so."""
    positions = token_limit(config.get("max_position_embeddings"))
    if positions and config.get("model_type") in _ROBERTA_TYPES:
        positions -= _ROBERTA_OFFSET
    limits, place = _limits(folder)
    stated = {
        place: token_limit(limits.get("max_seq_length")),
        "tokenizer_config.json": token_limit(read_json(folder / "tokenizer_config.json").get("model_max_length")),
        "config.json": positions,
    }
    limit, said = next(((limit, name) for name, limit in stated.items() if limit), (0, ""))
    if not limit:
        raise ValueError(
            "no file says how long a text may be; write "
            '{"max_seq_length": 512} or what fits the model into sentence_bert_config.json'
        )
    return (positions, "config.json") if 0 < positions < limit else (limit, said)


def token_limit(value: Any) -> int:
    """Read a limit in tokens from a config's value; 0 if that is none."""
    is_limit = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _NO_LIMIT_TOKENS
    return int(value) if is_limit else 0


def task_ids(tasks: Any) -> dict[str, int]:
    """Return the task by input type, from the tasks of a model in order; without an input type texts are passages."""
    names = list(tasks)
    if not {"retrieval.query", "retrieval.passage"} <= set(names):
        return {}
    passage = names.index("retrieval.passage")
    return {"": passage, "query": names.index("retrieval.query"), "passage": passage}


def _prompts(folder: Path, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the prefixes by input type, and what says so; the default prompt is for texts of no input type."""
    place = "config_sentence_transformers.json"
    config = read_json(folder / place)
    stated = config.get("prompts") or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str | None) for text in stated.values()):
        raise ValueError(f"prompts in {place} is not a table of texts")
    default = config.get("default_prompt_name")
    if default is not None and default not in stated:
        raise ValueError(f"default_prompt_name {default!r} in {place} names none of its prompts")
    prompts = {str(kind): text for kind, text in stated.items() if text}
    if not prompts:
        return _by_name((*names, folder.resolve().name))
    passage = next((prompts[kind] for kind in _PASSAGE_PROMPTS if kind in prompts), "")
    used = {"": prompts.get(default or "", ""), "query": prompts.get("query", ""), "passage": passage}
    return {kind: text for kind, text in used.items() if text}, place


def _pooling_by_name(names: Sequence[str], pooling: Pooling, source: str) -> tuple[Pooling, str]:
    """Return the pooling of the family that one of the names belongs to, else what was given."""
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
            f"it is a {stated or kind}, which scores texts and gives no vectors; name a model that embeds, or write a "
            "modules.json that says how to pool it"
        )


def _by_name(names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the prefixes of the family that one of the names belongs to; the first that does."""
    for name in names:
        if prompts := known_prompts(name):
            return prompts, f"{FAMILY_SOURCE} {name}"
    return {}, "nothing: no file states prefixes, and the name is of no family that has them"
