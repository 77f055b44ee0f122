"""``client.dead`` of a ``FakeEmbeddingClient``: it crashes on no text, so it holds what a test puts in."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import TYPE_CHECKING

from embedmill import dead_letter
from embedmill.dead_letter import DeadLetter
from embedmill.dead_letters import check_limit
from embedmill.errors import UnknownLetterError

if TYPE_CHECKING:
    from embedmill.testing import FakeEmbeddingClient, FakeJob


class FakeDeadLetters:
    """``DeadLetters`` in memory; the letters are given oldest first, each with an id of its own."""

    def __init__(self, client: FakeEmbeddingClient, letters: Iterable[DeadLetter]) -> None:
        self._client = client
        self._letters = {dead_letter.check_id(letter.id): letter for letter in letters}

    def list(self, *, limit: int = 100) -> builtins.list[DeadLetter]:
        """Give the newest letters; see ``DeadLetters.list``."""
        self._client._check_open()
        return [*reversed(self._letters.values())][: check_limit(limit)]

    def get(self, letter_id: str) -> DeadLetter:
        """Give one letter; see ``DeadLetters.get``."""
        self._client._check_open()
        try:
            return self._letters[dead_letter.check_id(letter_id)]
        except KeyError:
            raise UnknownLetterError(letter_id) from None

    def requeue(self, letter_id: str, text: str | None = None) -> FakeJob:
        """Submit the text again; see ``DeadLetters.requeue``."""
        letter = self.get(letter_id)
        options = letter.options
        job = self._client.submit(
            [dead_letter.text_to_requeue(letter, text)],
            model=letter.model,
            input_type=options.input_type,
            dimensions=options.dimensions,
            dtype=options.dtype,
            truncate=options.truncate,
            lane=letter.lane,
            job_id=f"requeued-{letter_id}",
        )
        self.drop(letter_id)
        return job

    def drop(self, letter_id: str) -> bool:
        """Forget a letter; see ``DeadLetters.drop``."""
        self._client._check_open()
        return self._letters.pop(dead_letter.check_id(letter_id), None) is not None

    def drop_all(self) -> int:
        """Forget all letters; see ``DeadLetters.drop_all``."""
        self._client._check_open()
        dropped = len(self._letters)
        self._letters.clear()
        return dropped
