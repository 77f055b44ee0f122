"""Which texts run together: short, length-sorted batches under a budget of padded tokens. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Padded tokens a run. Measured, one core, MiniLM, fp32: 320 to 512 are alike, 256 costs 3 % on short
#: texts, 1,024 costs 10 % on mixed ones and more memory.
MAX_BATCH_TOKENS: Final = 384


def plan(token_counts: Sequence[int], *, max_batch_tokens: int = MAX_BATCH_TOKENS) -> list[list[int]]:
    """Cut texts into batches of similar length.

    Args:
        token_counts: tokens of each text, special tokens included.
        max_batch_tokens: bound on longest × count of a batch; a longer text makes a batch of its own.

    Returns:
        Positions, every one exactly once, shortest texts first.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    for position in sorted(range(len(token_counts)), key=token_counts.__getitem__):
        # Sorted: this text is the longest of its batch.
        if batch and token_counts[position] * (len(batch) + 1) > max_batch_tokens:
            batches.append(batch)
            batch = []
        batch.append(position)
    if batch:
        batches.append(batch)
    return batches
