"""Dense layers after pooling, as sentence-transformers keeps them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from embedmill_worker.models.access import is_file
from embedmill_worker.models.disk import read_json, sha256_of

#: Where their weights lie, beside `config.json`.
_WEIGHTS = "model.safetensors"


class Activation(StrEnum):
    """What follows a dense layer."""

    IDENTITY = "Identity"
    TANH = "Tanh"
    RELU = "ReLU"
    SIGMOID = "Sigmoid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """One layer: (n, inputs) to (n, outputs)."""

    inputs: int
    outputs: int
    has_bias: bool
    activation: Activation
    #: Whether vectors are scaled to L2 length 1 before it.
    normalizes_first: bool
    #: safetensors with `linear.weight` (outputs, inputs) and `linear.bias`.
    weights: Path
    weights_sha256: str

    @classmethod
    def read(cls, folder: Path, *, normalizes_first: bool) -> Self:
        """Reads a module's folder.

        Raises:
            ValueError: it is damaged, or asks for what cannot be done; names it.
            OSError: a file cannot be read.
        """
        config, weights = read_json(folder / "config.json"), folder / _WEIGHTS
        if not config:
            raise ValueError(f"{folder / 'config.json'} is missing or empty; restore it")
        if not is_file(weights):
            raise ValueError(f"{weights} is missing (weights in a pickle are never opened); save them as safetensors")
        names = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
        if names != {"sentence_embedding"} or config.get("use_residual"):
            raise ValueError(
                f"{folder.name} is a Dense layer of token vectors or with a residual, which is not supported"
            )
        try:
            return cls(
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

    @property
    def parts(self) -> tuple[object, ...]:
        """All of it that changes vectors."""
        return (self.weights_sha256, self.activation.value, self.has_bias, self.normalizes_first)


def _activation(config: dict[str, Any]) -> Activation:
    """The activation by its class's name, torch's only; nothing is imported."""
    stated = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh")
    kind = stated.rpartition(".")[2]
    if not stated.startswith("torch.nn.") or kind not in tuple(Activation):
        raise ValueError(f"activation_function {stated} is not supported, only torch's {', '.join(Activation)}")
    return Activation(kind)
