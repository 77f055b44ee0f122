"""Architectures that can be exported, BERT and its relatives, as `config.json` describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Part of the fingerprint; raise it when exported graphs may return other vectors.
EXPORTER = "embedmill-bert/3"
#: The graphs' only output, (batch, tokens, hidden).
OUTPUT = "last_hidden_state"

#: `hidden_act` → node of our graph: exact erf gelu, or its tanh approximation.
ACTIVATIONS = {"gelu": "Gelu", "gelu_new": "FastGelu", "gelu_fast": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}

#: Model type → rows of the position table from `pad_token_id` to position 0.
_POSITION_ROWS = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1, "distilbert": 0, "mpnet": 1}

#: Usual key → DistilBERT's key for the same value.
_DISTILBERT_KEYS = {
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """Names of tensors within one layer, without `.weight` and `.bias`."""

    #: Prefix of a layer, with its number.
    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    inner: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"


BERT = LayerNames()
DISTILBERT = LayerNames(
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    inner="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
)
MPNET = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """A BERT-family encoder; an instance exists only for an architecture that the exporter supports."""

    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    #: Rows of the position table, including those that no text reaches.
    position_rows: int
    #: Row of the position table that position 0 uses: 0, or `pad_token_id` + 1 for RoBERTa.
    first_position: int
    #: Rows of the table of token types; 0 for models without one.
    token_types: int
    epsilon: float
    activation: str
    names: LayerNames = BERT
    #: Rows of the table of relative attention bias; 0 for models without one.
    relative_buckets: int = 0

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of an input, special tokens included."""
        return self.position_rows - self.first_position

    @property
    def has_token_types(self) -> bool:
        """Whether the graph takes `token_type_ids`; RoBERTa has one type and no such input."""
        return self.token_types > 1

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Read `config.json`.

        Raises:
            ValueError: the architecture is not supported, or a value is missing; the message names it.
        """
        model_type = config.get("model_type")
        if model_type == "distilbert":
            config = {
                **config,
                **{ours: config[theirs] for ours, theirs in _DISTILBERT_KEYS.items() if theirs in config},
            }
        _refuse_unsupported(config)
        has_types = model_type not in ("distilbert", "mpnet")
        try:
            is_roberta = _POSITION_ROWS[str(model_type)] > 0
            return cls(
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                position_rows=int(config["max_position_embeddings"]),
                first_position=int(config.get("pad_token_id", 1)) + 1 if is_roberta else 0,
                token_types=int(config.get("type_vocab_size", 2)) if has_types else 0,
                epsilon=float(config.get("layer_norm_eps", 1e-12)),
                activation=str(config.get("hidden_act", "gelu")),
                names={"distilbert": DISTILBERT, "mpnet": MPNET}.get(str(model_type), BERT),
                relative_buckets=int(config.get("relative_attention_num_buckets", 32)) if model_type == "mpnet" else 0,
            )
        except KeyError as error:
            raise ValueError(f"config.json has no {error}") from None
        except TypeError as error:
            raise ValueError(f"config.json has a value of the wrong type ({error})") from None

    def __post_init__(self) -> None:
        sizes = (self.layers, self.heads, self.hidden, self.intermediate, self.vocabulary)
        if (
            min(sizes) < 1
            or min(self.first_position, self.token_types, self.relative_buckets) < 0
            or self.max_tokens < 2
        ):
            raise ValueError("config.json has sizes below 1")
        if self.hidden % self.heads:
            raise ValueError(f"hidden_size {self.hidden} is not a multiple of num_attention_heads {self.heads}")


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type not in _POSITION_ROWS and config.get("auto_map"):
        raise ValueError(
            f"model_type {model_type!r} is code that comes with the model (auto_map) and is never executed; "
            "put an ONNX file (model.onnx) into the folder"
        )
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
