"""The architectures that are exported: BERT and its kin, as `config.json` describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Our graph node for each `hidden_act`: exact erf gelu, and its tanh approximation.
ACTIVATIONS = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_fast": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}

#: Model types, and how many rows of the position table lie before position 0 relative to `pad_token_id`.
_POSITION_ROWS = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """A BERT-family encoder; a value exists only for what the exporter can do."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    #: Rows of the position table, those that no text reaches included.
    position_rows: int
    #: Row of the position table that position 0 uses: 0, or `pad_token_id` + 1 for RoBERTa.
    first_position: int
    token_types: int
    epsilon: float
    activation: str

    @property
    def max_tokens(self) -> int:
        """Longest input, special tokens included."""
        return self.position_rows - self.first_position

    @property
    def has_token_types(self) -> bool:
        """Whether the graph takes `token_type_ids`; RoBERTa has one type and no such input."""
        return self.token_types > 1

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Reads `config.json`.

        Raises:
            ValueError: the architecture is not supported, or a value is missing; names which.
        """
        _refuse_unsupported(config)
        try:
            is_roberta = _POSITION_ROWS[config["model_type"]] > 0
            return cls(
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                position_rows=int(config["max_position_embeddings"]),
                first_position=int(config.get("pad_token_id", 1)) + 1 if is_roberta else 0,
                token_types=int(config.get("type_vocab_size", 2)),
                epsilon=float(config.get("layer_norm_eps", 1e-12)),
                activation=str(config.get("hidden_act", "gelu")),
            )
        except KeyError as error:
            raise ValueError(f"config.json has no {error}") from None
        except TypeError as error:
            raise ValueError(f"config.json has a value of the wrong type ({error})") from None

    def __post_init__(self) -> None:
        sizes = (self.layers, self.heads, self.hidden, self.intermediate, self.vocabulary, self.token_types)
        if min(sizes) < 1 or self.first_position < 0 or self.max_tokens < 2:
            raise ValueError("config.json has sizes below 1")
        if self.hidden % self.heads:
            raise ValueError(f"hidden_size {self.hidden} is not a multiple of num_attention_heads {self.heads}")


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type not in _POSITION_ROWS:
        raise ValueError(
            f"model_type {model_type!r} is not exported, only {', '.join(_POSITION_ROWS)}; "
            "put an ONNX file (model.onnx) into the folder"
        )
    refused = {
        "position_embedding_type": config.get("position_embedding_type", "absolute") not in ("absolute", None),
        "is_decoder": bool(config.get("is_decoder")),
        "add_cross_attention": bool(config.get("add_cross_attention")),
        "adapters": bool(config.get("adapters")),
        "embedding_size": config.get("embedding_size", config.get("hidden_size")) != config.get("hidden_size"),
        "hidden_act": config.get("hidden_act", "gelu") not in ACTIVATIONS,
    }
    for option, is_refused in refused.items():
        if is_refused:
            raise ValueError(
                f"{option} {config.get(option)!r} is not exported; put an ONNX file (model.onnx) into the folder"
            )
