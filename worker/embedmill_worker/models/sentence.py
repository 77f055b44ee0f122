"""What a sentence-transformers folder says about pooling, length and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from embedmill_worker.models.dense import Dense
from embedmill_worker.models.digest import read_json
from embedmill_worker.models.files import Pooling
from embedmill_worker.models.modules import Modules
from embedmill_worker.models.prompts import known_prompts

#: Limits above this are a tokenizer's way to say that it has none (1e30).
_NO_LIMIT_TOKENS = 1_000_000
#: Rows of the position table before position 0, for the kin of RoBERTa.
_ROBERTA_OFFSET = 2
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
#: Names under which sentence-transformers looks for the prompt of passages; the first one wins.
_PASSAGE_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """How the vectors of a folder's model are made."""

    #: Where tokenizer, configuration and weights of the transformer lie.
    folder: Path
    pooling: Pooling
    #: Whether somebody said so, or it is our guess for a bare folder.
    is_pooling_stated: bool
    #: Whether the tokens of a prompt count in pooling.
    pools_prompt: bool = True
    layers: tuple[Dense, ...] = ()
    normalize: bool
    #: Longest input, special tokens included.
    max_tokens: int
    prompts: Mapping[str, str]
    #: Value of the graph's input `task_id` by input type, if it has one.
    task_ids: Mapping[str, int] = field(default_factory=dict)
    #: Whether `position_ids`, if a graph wants them, are 0, 1, 2…
    counts_from_zero: bool = True

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Reads a folder; without `modules.json` vectors are mean-pooled and normalised.

        Raises:
            ValueError: a file is damaged, or asks for what cannot be done; names it.
            OSError: a file cannot be read.
        """
        modules = Modules.read(folder)
        if read_json(modules.transformer / "sentence_bert_config.json").get("do_lower_case"):
            raise ValueError("do_lower_case in sentence_bert_config.json is not supported; lower texts yourself")
        config = read_json(modules.transformer / "config.json")
        return cls(
            folder=modules.transformer,
            pooling=modules.pooling,
            is_pooling_stated=modules.is_stated,
            pools_prompt=modules.pools_prompt,
            layers=modules.layers,
            normalize=modules.normalize,
            max_tokens=_max_tokens(modules.transformer, config),
            prompts=_prompts(folder, name),
            task_ids=task_ids(config.get("lora_adaptations") or ()),
            counts_from_zero=config.get("model_type") not in _ROBERTA_TYPES,
        )


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> int:
    positions = token_limit(config.get("max_position_embeddings"))
    if positions and config.get("model_type") in _ROBERTA_TYPES:
        positions -= _ROBERTA_OFFSET
    stated = token_limit(read_json(folder / "sentence_bert_config.json").get("max_seq_length"))
    tokenizer = token_limit(read_json(folder / "tokenizer_config.json").get("model_max_length"))
    limit = stated or tokenizer or positions
    if not limit:
        raise ValueError(
            "no file says how long a text may be; write "
            '{"max_seq_length": 512} or what fits the model into sentence_bert_config.json'
        )
    return min(limit, positions) if positions else limit


def token_limit(value: Any) -> int:
    """Reads a limit in tokens from a config's value; 0 if that is none."""
    is_limit = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _NO_LIMIT_TOKENS
    return int(value) if is_limit else 0


def task_ids(tasks: Any) -> dict[str, int]:
    """Gives the task by input type, from the tasks of a model in order; without an input type texts are passages."""
    names = list(tasks)
    if not {"retrieval.query", "retrieval.passage"} <= set(names):
        return {}
    passage = names.index("retrieval.passage")
    return {"": passage, "query": names.index("retrieval.query"), "passage": passage}


def _prompts(folder: Path, name: str) -> dict[str, str]:
    """Prefixes by input type; the default prompt is for texts of none."""
    config = read_json(folder / "config_sentence_transformers.json")
    stated = config.get("prompts") or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str | None) for text in stated.values()):
        raise ValueError("prompts in config_sentence_transformers.json is not a table of texts")
    default = config.get("default_prompt_name")
    if default is not None and default not in stated:
        raise ValueError(
            f"default_prompt_name {default!r} in config_sentence_transformers.json names none of its prompts"
        )
    prompts = {str(kind): text for kind, text in stated.items() if text}
    if not prompts:
        return known_prompts(name) or known_prompts(folder.resolve().name)
    passage = next((prompts[kind] for kind in _PASSAGE_PROMPTS if kind in prompts), "")
    used = {"": prompts.get(default or "", ""), "query": prompts.get("query", ""), "passage": passage}
    return {kind: text for kind, text in used.items() if text}
