"""From texts to chunks of about equal cost: pure arithmetic on lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedmill.limits import CHUNK_TARGET_S, MAX_CHUNK_BYTES, MAX_CHUNK_TEXTS
from embedmill.protocol import ModelCard

#: Tokens that every text has besides its own (CLS and SEP).
SPECIAL_TOKENS: Final = 2.0

#: Characters that cost as much to tokenize as one token costs in the model. Counts only for texts
#: far beyond the model's limit, which are tokenized whole to report their length.
CHARS_PER_TOKENIZED_COST: Final = 400.0

#: Tokens of the largest chunk whatever a card says: texts of that cost, in characters of 4 bytes, fit a packed chunk.
MAX_BUDGET_TOKENS: Final = MAX_CHUNK_BYTES / (4 * CHARS_PER_TOKENIZED_COST) / 2

#: The smallest chunk, as a part of the largest: below it a chunk's round trip through Redis and
#: Celery (1 to 1.6 ms) shows.
MIN_CHUNK_SHARE: Final = 1 / 8


def estimate_costs(char_counts: Sequence[int], card: ModelCard) -> npt.NDArray[np.float64]:
    """Estimate each text's cost in tokens from its length in characters, float64 (n,)."""
    chars = np.asarray(char_counts, dtype=np.float64)
    tokens = np.minimum(chars / card.chars_per_token + SPECIAL_TOKENS, card.max_tokens)
    return np.asarray(tokens + chars / CHARS_PER_TOKENIZED_COST, dtype=np.float64)


def chunk_budget(card: ModelCard) -> float:
    """Give the tokens that one core embeds in ``CHUNK_TARGET_S``."""
    return min(max(card.tokens_per_s * CHUNK_TARGET_S, 16.0), MAX_BUDGET_TOKENS)


def cut(costs: npt.NDArray[np.float64], *, budget: float, children: int) -> list[npt.NDArray[np.uint32]]:
    """Cut texts into chunks: costliest texts first, similar lengths together, smaller chunks at the end.

    A chunk takes its share of what is left among twice the children, between an eighth of the budget and
    the budget (guided self-scheduling, Polychronopoulos and Kuck 1987), so that no child idles at the end
    of a job; always at least one text.

    Args:
        costs: estimated tokens of each text, (n,).
        budget: tokens of the largest chunk.
        children: processes that serve the lane.

    Returns:
        For each chunk the positions of its texts, uint32; together every position exactly once.
    """
    order = np.argsort(-costs, kind="stable").astype(np.uint32)
    spent = np.concatenate(([0.0], np.cumsum(costs[order])))
    total = spent[-1]
    chunks = []
    start = 0
    while start < len(order):
        share = (total - spent[start]) / (2 * max(children, 1))
        target = min(max(share, budget * MIN_CHUNK_SHARE), budget)
        end = int(np.searchsorted(spent, spent[start] + target, side="right")) - 1
        end = max(start + 1, min(end, start + MAX_CHUNK_TEXTS, len(order)))
        chunks.append(order[start:end])
        start = end
    return chunks
