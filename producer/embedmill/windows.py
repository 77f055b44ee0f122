"""Where ``embed()`` cuts a long input into jobs. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from embedmill.limits import MAX_JOB_TEXTS, MAX_WINDOW_CHARS


def windows(
    texts: Sequence[str], *, max_texts: int = MAX_JOB_TEXTS, max_chars: int = MAX_WINDOW_CHARS
) -> list[tuple[int, int]]:
    """Give (start, stop) of each job's texts, in order; at least one, which may be empty.

    A text longer than ``max_chars`` stands alone: the client rejects it by itself.
    """
    cuts, start, chars = [], 0, 0
    for position, text in enumerate(texts):
        if position > start and (position - start == max_texts or chars + len(text) > max_chars):
            cuts.append((start, position))
            start, chars = position, 0
        chars += len(text)
    return [*cuts, (start, len(texts))]
