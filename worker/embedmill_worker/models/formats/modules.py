"""`modules.json`: the modules that sentence-transformers applies; read, never executed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedmill_worker.models.disk import exists, is_file, is_inside, read_json, read_note, sha256_of
from embedmill_worker.models.files import Activation, Dense, Pooling

_MODULES = "modules.json"
#: File of a Dense module's weights, beside its `config.json`.
_DENSE_WEIGHTS = "model.safetensors"
#: Package whose modules are supported by class name; all others are code that comes with the model.
_PACKAGE = "sentence_transformers."
#: Supported modules; Dropout has no effect in a trained model.
_SUPPORTED = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")

#: Switch of a Pooling module's config before sentence-transformers 6 → pooling mode since then.
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING = {
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
    "mean": Pooling.MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST_TOKEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Processing that a folder's modules ask for."""

    #: Folder of the transformer's tokenizer, configuration and weights.
    transformer: Path
    pooling: Pooling
    #: Whether the tokens of a prompt count in pooling.
    pools_prompt: bool = True
    layers: tuple[Dense, ...] = ()
    #: Whether vectors are scaled to L2 length 1 at the end.
    normalize: bool
    #: Whether `modules.json` states this; otherwise it is our guess for a bare folder.
    is_stated: bool
    #: File that states the pooling.
    pooling_source: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder; without `modules.json`, vectors are mean-pooled and normalised.

        Raises:
            ValueError: a file is damaged, or asks for something unsupported; the message names it.
            OSError: a file cannot be read.
        """
        if not exists(folder / _MODULES):
            rule = "the rule for models without modules.json"
            return cls(transformer=folder, pooling=Pooling.MEAN, normalize=True, is_stated=False, pooling_source=rule)
        modules = module_folders(folder)
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
            raise ValueError(f"modules.json has {', '.join(kinds)}; one Transformer and one Pooling must come first")
        pooling, pools_prompt = _pooling(modules[1][1] / "config.json")
        layers: list[Dense] = []
        is_normalized = False
        for kind, where in modules[2:]:
            if kind == "Dense":
                layers.append(_dense(where, normalizes_first=is_normalized))
            is_normalized = kind == "Normalize" or (kind == "Dropout" and is_normalized)
        return cls(
            transformer=modules[0][1],
            pooling=pooling,
            pools_prompt=pools_prompt,
            layers=tuple(layers),
            normalize=is_normalized,
            is_stated=True,
            pooling_source=(modules[1][1] / "config.json").relative_to(folder).as_posix(),
        )


def module_folders(folder: Path) -> list[tuple[str, Path]]:
    """Return each module's class and folder; an empty list without `modules.json`.

    Raises:
        ValueError: the file is damaged, or names a module that is not supported.
        OSError: the file cannot be read.
    """
    path = folder / _MODULES
    if not exists(path):
        return []
    try:
        stated = [(str(module["type"]), str(module["path"])) for module in json.loads(read_note(path))]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); restore it") from None
    if foreign := sorted({kind for kind, _ in stated if not kind.startswith(_PACKAGE)}):
        raise ValueError(f"modules.json names {', '.join(foreign)}; code that comes with a model is never executed")
    modules = [(kind.rpartition(".")[2], _inside(folder, where)) for kind, where in stated]
    if unsupported := sorted({kind for kind, _ in modules} - set(_SUPPORTED)):
        raise ValueError(f"modules.json has {', '.join(unsupported)}, only {', '.join(_SUPPORTED)} are supported")
    return modules


def _pooling(path: Path) -> tuple[Pooling, bool]:
    config = read_json(path)
    if not config:
        raise ValueError(f"{path} is missing or empty; restore it")
    stated = config.get("pooling_mode", [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or "mean")
    modes = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise ValueError(f"pooling {' + '.join(map(str, modes))} is not supported, only one of {', '.join(_POOLING)}")
    return _POOLING[modes[0]], config.get("include_prompt") is not False


def _inside(folder: Path, relative: str) -> Path:
    path = folder / relative
    if not is_inside(path, folder):
        raise ValueError(f"modules.json names {relative!r}, which lies outside the folder")
    return path


def _dense(folder: Path, *, normalizes_first: bool) -> Dense:
    """Read a Dense module's folder.

    Raises:
        ValueError: it is damaged, or asks for something unsupported; the message names it.
        OSError: a file cannot be read.
    """
    config, weights = read_json(folder / "config.json"), folder / _DENSE_WEIGHTS
    if not config:
        raise ValueError(f"{folder / 'config.json'} is missing or empty; restore it")
    if not is_file(weights):
        raise ValueError(f"{weights} is missing (weights in a pickle are never opened); save them as safetensors")
    names = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if names != {"sentence_embedding"} or config.get("use_residual"):
        raise ValueError(f"{folder.name} is a Dense layer of token vectors or with a residual, which is not supported")
    try:
        return Dense(
            inputs=int(config["in_features"]),
            outputs=int(config["out_features"]),
            has_bias=bool(config.get("bias", True)),
            activation=_activation(config),
            normalizes_first=normalizes_first,
            weights=weights,
            weights_sha256=sha256_of(weights),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error!r}); restore it") from None


def _activation(config: dict[str, Any]) -> Activation:
    """Return the activation by the name of its torch class; nothing is imported."""
    stated = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh")
    kind = stated.rpartition(".")[2]
    if not stated.startswith("torch.nn.") or kind not in tuple(Activation):
        raise ValueError(f"activation_function {stated} is not supported, only torch's {', '.join(Activation)}")
    return Activation(kind)
