"""Cuts of texts into jobs, and of jobs into chunks of about equal cost: arithmetic on lengths, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedmill.limits import CHUNK_TARGET_S, LONGEST_CHUNK_S, MAX_CHUNK_TEXTS, MAX_JOB_TEXTS, MAX_WINDOW_CHARS
from embedmill.protocol.cards import ModelCard

#: Special tokens that every text has besides its own (CLS and SEP).
SPECIAL_TOKENS: Final = 2.0

#: Characters per second that one core tokenizes. They matter for fast models, and for texts far beyond a model's limit,
#: which are tokenized whole to report their length. So a chunk holds at most 400,000 characters, or one text.
TOKENIZED_CHARS_PER_S: Final = 1.6e6

#: Characters whose tokenization counts as one token's inference, at most, however slow the model is.
MAX_CHARS_PER_COST: Final = 400.0

#: Smallest chunk, as a share of that of ``CHUNK_TARGET_S``. A smaller chunk would not be worth its round trip through
#: Redis and Celery (1 to 1.6 ms).
MIN_CHUNK_SHARE: Final = 1 / 8

#: Share of the interactive requests that may wait for a free child process longer than with two of them.
SLOWEST_SHARE: Final = 0.01


def split_into_jobs(
    texts: Sequence[str], *, max_texts: int = MAX_JOB_TEXTS, max_chars: int = MAX_WINDOW_CHARS
) -> list[tuple[int, int]]:
    """Return the (start, stop) of each job's texts, in order; an empty input makes one empty job.

    A text longer than ``max_chars`` has a job of its own; the client rejects it.
    """
    cuts, start, chars = [], 0, 0
    for position, text in enumerate(texts):
        if position > start and (position - start == max_texts or chars + len(text) > max_chars):
            cuts.append((start, position))
            start, chars = position, 0
        chars += len(text)
    return [*cuts, (start, len(texts))]


def estimate_costs(char_counts: Sequence[int], card: ModelCard) -> npt.NDArray[np.float64]:
    """Return each text's cost in tokens, estimated from its length in characters, float64 (n,)."""
    chars = np.asarray(char_counts, dtype=np.float64)
    tokens = np.minimum(chars / card.chars_per_token + SPECIAL_TOKENS, card.max_tokens)
    chars_per_cost = min(MAX_CHARS_PER_COST, TOKENIZED_CHARS_PER_S / card.tokens_per_s)
    return np.asarray(tokens + chars / chars_per_cost, dtype=np.float64)


def chunk_budget(card: ModelCard, seconds: float = CHUNK_TARGET_S) -> float:
    """Return the number of tokens that one core embeds in a number of seconds."""
    return max(card.tokens_per_s * seconds, 16.0)


def bulk_chunk_s(children: int) -> float:
    """Return the seconds of one core's work in the largest bulk chunk of a fleet.

    An interactive text waits for the first child process that becomes free. Of n that are at any place of chunks of t
    seconds, none becomes free within t × (1 - p^(1/n)) seconds with probability p. So chunks may grow with the fleet
    such that this wait remains what it is with two child processes, and Redis has no more work for a larger fleet.
    """

    def share(n: int) -> float:
        return float(1 - SLOWEST_SHARE ** (1 / n))

    return min(LONGEST_CHUNK_S, CHUNK_TARGET_S * share(2) / share(max(2, children)))


def cut(
    costs: npt.NDArray[np.float64], *, budget: float, smallest: float, children: int, waiting: float = 0.0
) -> list[npt.NDArray[np.uint32]]:
    """Cut texts into chunks: costliest texts first, similar lengths together, smaller chunks at the end.

    A chunk gets the remaining cost divided by twice the number of child processes, within the bounds (guided
    self-scheduling, Polychronopoulos and Kuck 1987), so that no child process idles at the end of a job. Work that
    waits in the lane besides counts as remaining. Every chunk has at least one text.

    Args:
        costs: estimated tokens of each text, (n,).
        budget: tokens of the largest chunk.
        smallest: tokens of the smallest chunk.
        children: number of child processes that serve the lane.
        waiting: tokens of other jobs that wait in the lane.

    Returns:
        The positions of each chunk's texts, uint32. Every position is in exactly one chunk.
    """
    order = np.argsort(-costs, kind="stable").astype(np.uint32)
    spent = np.concatenate(([0.0], np.cumsum(costs[order])))
    total = spent[-1]
    chunks = []
    start = 0
    while start < len(order):
        share = (total - spent[start] + waiting) / (2 * max(children, 1))
        target = min(max(share, smallest), budget)
        end = int(np.searchsorted(spent, spent[start] + target, side="right")) - 1
        end = max(start + 1, min(end, start + MAX_CHUNK_TEXTS, len(order)))
        chunks.append(order[start:end])
        start = end
    return chunks
