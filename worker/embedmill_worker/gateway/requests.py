"""What every API asks of the queue, and what it gets. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embedmill.jobs.chunking import SPECIAL_TOKENS
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import EmbeddingReply


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Texts and what is wanted of them, whatever API they came by."""

    texts: Sequence[str] = field(repr=False)
    #: None: the default one.
    model: str | None = None
    options: EmbedOptions = field(default_factory=EmbedOptions)
    #: Lane that the request asks for; None: the caller's.
    lane: str | None = None
    #: Becomes a part of the job's id, and so of the workers' log.
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A reply without rejected texts, and the card of the model that made it."""

    reply: EmbeddingReply
    card: ModelCard

    @property
    def tokens(self) -> int:
        """Tokens that the model has read: what was cut off does not count."""
        counts: list[int] = self.reply.token_counts.tolist()
        return sum(min(count, self.card.max_tokens) for count in counts)

    @property
    def truncated(self) -> list[int]:
        """Positions of the texts of which only the beginning was read."""
        positions: list[int] = self.reply.truncated.nonzero()[0].tolist()
        return positions


def estimate_tokens(texts: Sequence[str], card: ModelCard) -> int:
    """Return the tokens that texts will take, from their lengths."""
    own = SPECIAL_TOKENS * len(texts) + sum(map(len, texts)) / card.chars_per_token
    return round(min(own, card.max_tokens * len(texts)))
