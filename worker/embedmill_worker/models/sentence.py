"""What a sentence-transformers folder says about pooling, length and prompts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedmill_worker.models.digest import read_json
from embedmill_worker.models.files import Pooling
from embedmill_worker.models.prompts import known_prompts

_MODULES = "modules.json"
#: Limits above this are a tokenizer's way to say that it has none (1e30).
_NO_LIMIT_TOKENS = 1_000_000
#: Rows of the position table before position 0, for the kin of RoBERTa.
_ROBERTA_OFFSET = 2
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")

#: Switches of a Pooling module's config before sentence-transformers 6, and what it calls them since.
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """How the vectors of a folder's model are made."""

    pooling: Pooling
    #: Whether somebody said so, or it is our guess for a bare folder.
    is_pooling_stated: bool
    normalize: bool
    #: Longest input, special tokens included.
    max_tokens: int
    prompts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Reads a folder; without `modules.json` vectors are mean-pooled and normalised.

        Raises:
            ValueError: a file is damaged, or asks for what cannot be done; names it.
        """
        pooling, normalize = _modules(folder)
        return cls(
            pooling=pooling,
            is_pooling_stated=(folder / _MODULES).is_file(),
            normalize=normalize,
            max_tokens=_max_tokens(folder),
            prompts=_prompts(folder, name),
        )


def _modules(folder: Path) -> tuple[Pooling, bool]:
    path = folder / _MODULES
    if not path.is_file():
        return Pooling.MEAN, True
    try:
        modules = [
            (str(module["type"]).rpartition(".")[2], str(module["path"])) for module in json.loads(path.read_bytes())
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); restore it") from None
    unsupported = sorted({kind for kind, _ in modules} - {"Transformer", "Pooling", "Normalize"})
    if unsupported:
        raise ValueError(
            f"modules.json has {', '.join(unsupported)}, only Transformer, Pooling and Normalize are supported"
        )
    pooling = [where for kind, where in modules if kind == "Pooling"]
    if len(pooling) != 1:
        raise ValueError(f"modules.json has {len(pooling)} Pooling modules, exactly 1 is supported")
    return _pooling(_inside(folder, pooling[0]) / "config.json"), modules[-1][0] == "Normalize"


def _pooling(path: Path) -> Pooling:
    config = read_json(path)
    if not config:
        raise ValueError(f"{path} is missing or empty; restore it")
    stated = config.get("pooling_mode", [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or "mean")
    modes = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1 or modes[0] not in (Pooling.MEAN, Pooling.CLS, Pooling.MAX):
        raise ValueError(f"pooling {' + '.join(map(str, modes))} is not supported, only mean, cls or max")
    if config.get("include_prompt") is False:
        raise ValueError("pooling that leaves the prompt out (include_prompt false) is not supported")
    return Pooling(modes[0])


def _max_tokens(folder: Path) -> int:
    config = read_json(folder / "config.json")
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


def _prompts(folder: Path, name: str) -> dict[str, str]:
    config = read_json(folder / "config_sentence_transformers.json")
    stated = config.get("prompts") or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str) for text in stated.values()):
        raise ValueError("prompts in config_sentence_transformers.json is not a table of texts")
    if config.get("default_prompt_name"):
        raise ValueError(
            "default_prompt_name in config_sentence_transformers.json is not supported; remove it, and pass input_type"
        )
    prompts = {str(kind): text for kind, text in stated.items() if text}
    if not prompts:
        return known_prompts(name) or known_prompts(folder.resolve().name)
    if "document" in prompts:
        prompts.setdefault("passage", prompts["document"])
    return prompts


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"modules.json names {relative!r}, which lies outside the folder")
    return path
