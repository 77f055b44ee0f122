"""Description of a model for the engine: its files, and how its vectors are computed."""

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
    """Method that combines the token vectors of a text into one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    #: Sum, divided by the square root of the length.
    MEAN_SQRT_LEN = "mean_sqrt_len"
    #: Mean, each token weighted by its position, counted from 1.
    WEIGHTED_MEAN = "weighted_mean"
    LAST_TOKEN = "last_token"  # noqa: S105 (not a password)
    #: No pooling: the graph itself returns (batch, dimension).
    NONE = "none"


class BackEnd(StrEnum):
    """Library that runs a graph; each rounds differently."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Activation(StrEnum):
    """Activation after a dense layer."""

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
        """Values that change vectors, for the fingerprint."""
        return (self.weights_sha256, self.activation.value, self.has_bias, self.normalizes_first)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """Description of how the vectors of a folder's model are computed."""

    #: Folder of the transformer's tokenizer, configuration and weights.
    folder: Path
    pooling: Pooling
    #: Whether a file states the pooling; otherwise it is our guess for a bare folder.
    is_pooling_stated: bool
    #: Whether the tokens of a prompt count in pooling.
    pools_prompt: bool = True
    layers: tuple[Dense, ...] = ()
    normalize: bool
    #: Maximum tokens of an input, special tokens included.
    max_tokens: int
    prompts: Mapping[str, str]
    #: Value of the graph's input `task_id` by input type, if it has one.
    task_ids: Mapping[str, int] = field(default_factory=dict)
    #: Whether `position_ids`, if a graph takes them, are 0, 1, 2…
    counts_from_zero: bool = True
    #: File or name that "pooling", "normalize", "max_tokens", "query" and "passage" (prefixes) come from.
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on this machine's disk; an instance exists only if its files do.

    Raises:
        ModelLoadError: a file is missing or a value is invalid.
    """

    #: Name that users give it.
    name: str
    #: Path of the ONNX file.
    graph: Path
    #: Path of `tokenizer.json`.
    tokenizer: Path
    #: Output of the graph to use; empty for its first.
    output: str = ""
    pooling: Pooling
    #: Whether the tokens of a prompt count in pooling.
    pools_prompt: bool = True
    #: Dense layers after pooling.
    layers: tuple[Dense, ...] = ()
    #: Whether vectors are scaled to L2 length 1 at the end.
    normalize: bool
    #: Maximum tokens of an input, special tokens included; longer texts are truncated or rejected.
    max_tokens: int
    #: Prefix by input type, as in {"query": "query: ", "passage": "passage: "}; empty for most models.
    prompts: Mapping[str, str] = field(default_factory=dict)
    #: Value of the graph's input `task_id` by input type ("" for texts without one); empty if it has none.
    task_ids: Mapping[str, int] = field(default_factory=dict)
    #: Number of tokens to pad every text to, with `pad_id`; 0: pad to the longest of the batch.
    fixed_tokens: int = 0
    pad_id: int = 0
    #: Precision of the arithmetic: "fp32", "bf16", "int8"; "w4" if only weights are quantized…
    precision: str = "fp32"
    back_end: BackEnd = BackEnd.ONNXRUNTIME
    #: The fp32 original; used to measure what this precision costs and gains.
    reference: "ModelFiles | None" = None
    #: Our exporter, if it built the graph ("embedmill-bert/3"); empty for a graph that was found.
    exporter: str = ""
    weights_sha256: str
    tokenizer_sha256: str
    #: Origin of a fetched model, as "org/name@commit"; empty for local files.
    revision: str = ""
    #: Files or names that the settings come from; see `SentenceConfig`.
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
        """Files in use, by role."""
        return {"graph": self.graph, "tokenizer": self.tokenizer}
