"""What the engine needs to know to run a model: its files and how its vectors are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from embedmill.errors import ModelLoadError
from embedmill_worker.models.disk import is_file

#: Hexadecimal characters of a sha256.
_SHA256_CHARS = 64


class Pooling(StrEnum):
    """How the token vectors of a text become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    #: The sum over the square root of the length.
    MEAN_SQRT_LEN = "mean_sqrt_len"
    #: The mean, each token weighted by its position, from 1.
    WEIGHTED_MEAN = "weighted_mean"
    LAST_TOKEN = "last_token"  # noqa: S105 (no password)
    #: The graph itself puts out (batch, dimension).
    NONE = "none"


class BackEnd(StrEnum):
    """What runs a graph; each rounds in its own way."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Activation(StrEnum):
    """What follows a dense layer."""

    IDENTITY = "Identity"
    TANH = "Tanh"
    RELU = "ReLU"
    SIGMOID = "Sigmoid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A dense layer after pooling: (n, inputs) to (n, outputs)."""

    inputs: int
    outputs: int
    has_bias: bool
    activation: Activation
    #: Whether vectors are scaled to L2 length 1 before it.
    normalizes_first: bool
    #: safetensors with `linear.weight` (outputs, inputs) and `linear.bias`.
    weights: Path
    weights_sha256: str

    @property
    def parts(self) -> tuple[object, ...]:
        """All of it that changes vectors."""
        return (self.weights_sha256, self.activation.value, self.has_bias, self.normalizes_first)


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
    #: Which file or name says so: of "pooling", "normalize", "max_tokens", "query" and "passage" (prefixes).
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on this machine's disk; a value exists only if its files do.

    Raises:
        ModelLoadError: a file is missing or a value is impossible.
    """

    #: What users call it.
    name: str
    #: The ONNX file.
    graph: Path
    #: `tokenizer.json`.
    tokenizer: Path
    #: The graph's output that is used; empty for its first.
    output: str = ""
    pooling: Pooling
    #: Whether the tokens of a prompt count in pooling.
    pools_prompt: bool = True
    #: What pooled vectors go through.
    layers: tuple[Dense, ...] = ()
    #: Whether vectors are scaled to L2 length 1 at the end.
    normalize: bool
    #: Longest input, special tokens included; longer texts are truncated or rejected.
    max_tokens: int
    #: Prefix by input type, as in {"query": "query: ", "passage": "passage: "}; empty for most models.
    prompts: Mapping[str, str] = field(default_factory=dict)
    #: Value of the graph's input `task_id` by input type ("": none given); empty for graphs without it.
    task_ids: Mapping[str, int] = field(default_factory=dict)
    #: Every text is padded with `pad_id` to so many tokens; 0: to the longest of its batch.
    fixed_tokens: int = 0
    pad_id: int = 0
    #: What the arithmetic is done in: "fp32", "bf16", "int8"; "w4" for weights alone…
    precision: str = "fp32"
    back_end: BackEnd = BackEnd.ONNXRUNTIME
    #: The fp32 model that this is another precision of, which tells its price.
    reference: "ModelFiles | None" = None
    #: Who made the graph, if we did ("embedmill-bert/3"); empty for a graph found as it is.
    exporter: str = ""
    weights_sha256: str
    tokenizer_sha256: str
    #: Where it was fetched from, as "org/name@commit"; empty for files that were here.
    revision: str = ""
    #: Which file or name says how vectors are made, see `SentenceConfig`.
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in (self.graph, self.tokenizer):
            if not is_file(path):
                raise ModelLoadError(self.name, f"{path} is missing; restore it or name another folder")
        if self.max_tokens < 2:
            raise ModelLoadError(self.name, f"max_tokens is {self.max_tokens}, must be at least 2")
        for what, value in (("weights_sha256", self.weights_sha256), ("tokenizer_sha256", self.tokenizer_sha256)):
            if len(value) != _SHA256_CHARS or not set(value) <= set("0123456789abcdef"):
                raise ModelLoadError(self.name, f"{what} is not {_SHA256_CHARS} lower-case hexadecimal characters")
        object.__setattr__(self, "pooling", Pooling(self.pooling))
        object.__setattr__(self, "prompts", MappingProxyType(dict(self.prompts)))
        object.__setattr__(self, "task_ids", MappingProxyType(dict(self.task_ids)))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @property
    def paths(self) -> dict[str, Path]:
        """The files in use, by what they are."""
        return {"graph": self.graph, "tokenizer": self.tokenizer}
