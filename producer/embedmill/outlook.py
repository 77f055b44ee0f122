"""What a client knows of the workers: refreshed now and then, used to choose a model and to size chunks."""

from __future__ import annotations

import time
from typing import Final

from embedmill.errors import InvalidRequestError, SettingsError, UnknownModelError
from embedmill.flows import JobState, JobStatus, Landscape
from embedmill.protocol import UNKNOWN_CARD, ModelCard
from embedmill.settings import check_model_name

#: Seconds after which the cards and workers are read again.
FRESH_S: Final = 5.0


class Outlook:
    """The latest Landscape, and the choices that follow from it."""

    def __init__(self, default_model: str | None) -> None:
        self._default_model = default_model
        self._landscape = Landscape(cards={}, workers=())
        self._read_at_s = float("-inf")

    def is_stale(self) -> bool:
        """Say whether the cards should be read again."""
        return time.monotonic() - self._read_at_s > FRESH_S

    def update(self, landscape: Landscape) -> None:
        """Take what was read."""
        self._landscape = landscape
        # Nothing announced yet: look again at the next call.
        self._read_at_s = time.monotonic() if landscape.workers else float("-inf")

    def choose(self, model: str | None) -> tuple[str, ModelCard, int]:
        """Give the model's name, its card (or a guess, if none is announced) and the processes that serve it.

        Raises:
            UnknownModelError: none is named and not exactly one is announced.
            InvalidRequestError: no model can have this name.
        """
        cards = self._landscape.cards
        name = model or self._default_model
        if name is None:
            if len(cards) != 1:
                raise UnknownModelError("", tuple(sorted(cards)))
            name = next(iter(cards))
        try:
            check_model_name(name)
        except SettingsError as error:
            raise InvalidRequestError("model", error.reason) from None
        return name, cards.get(name, UNKNOWN_CARD), self._landscape.children(name)

    def dimension(self, model: str) -> int:
        """Give the announced dimension, 0 if there is none."""
        card = self._landscape.cards.get(model)
        return card.dimension if card else 0

    def hint(self, status: JobStatus) -> str:
        """Say why a job may not be done."""
        if status.state is JobState.QUEUED and not any(status.model in w.models for w in self._landscape.workers):
            return f"No worker serves {status.model}; start one with EMBEDMILL_MODEL={status.model}."
        return f"{status.chunks_done} of {status.chunks} chunks are done."
