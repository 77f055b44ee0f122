"""Model cards, by which workers announce their models. No I/O here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_DIMENSION
from embedmill.protocol.codec import check_entry_size, is_label
from embedmill.protocol.vectors import Dtype, check_binary

if TYPE_CHECKING:
    from embedmill.protocol.options import EmbedOptions

#: Smallest and largest rate in a card, so that estimates stay numbers that Redis counts exactly.
SLOWEST: Final = 1e-3

FASTEST: Final = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What workers announce about a model; clients size chunks by it."""

    name: str
    fingerprint: str
    #: Length of a vector; 0 in the card of an unknown model.
    dimension: int
    #: Most tokens that the model reads, special tokens included.
    max_tokens: int
    #: Characters per token of ordinary text, for estimates.
    chars_per_token: float
    #: Tokens per second and core, for estimates.
    tokens_per_s: float
    precision: str = "fp32"
    #: How a vector depends on its batch: exact (batch-invariant), close or variant.
    batch_class: str = "exact"
    #: What was fetched from a hub, as "org/name@commit"; empty for files that were on the worker's disk.
    revision: str = ""

    def check(self, options: EmbedOptions) -> None:
        """Raise InvalidRequestError if the model cannot serve the options; an unknown model may serve any."""
        asked = options.dimensions or self.dimension
        if not self.dimension:
            return
        if asked > self.dimension:
            reason = f"{asked} is more than the {self.dimension} of {self.name}; ask for at most {self.dimension}"
            raise InvalidRequestError("dimensions", reason)
        if options.dtype is Dtype.BINARY:
            check_binary(asked)

    def to_json(self) -> str:
        """Return the card as JSON, as workers publish it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str | bytes) -> ModelCard:
        """Read a card; fields of newer workers are ignored.

        Raises:
            MessageError: the data is not a card.
        """
        check_entry_size(data)
        try:
            values = json.loads(data)
            card = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise MessageError(f"unreadable model card ({type(error).__name__})") from None
        strings = (card.name, card.fingerprint, card.precision, card.batch_class, card.revision)
        sizes = (card.dimension, card.max_tokens)
        rates = (card.chars_per_token, card.tokens_per_s)
        if not (
            all(is_label(value) for value in strings)
            and all(type(size) is int and 0 < size < 1 << 31 for size in sizes)
            and card.dimension <= MAX_DIMENSION
            and all(type(rate) in (float, int) and SLOWEST <= rate <= FASTEST for rate in rates)
        ):
            raise MessageError("unreadable model card: a field has a value that no worker writes")
        return card


#: The card that a client assumes for a model that no worker has announced.
UNKNOWN_CARD: Final = ModelCard(
    name="", fingerprint="", dimension=0, max_tokens=512, chars_per_token=3.0, tokens_per_s=2_000.0
)
