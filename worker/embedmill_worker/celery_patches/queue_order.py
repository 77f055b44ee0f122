"""The order in which a worker checks its queues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

#: Bulk queues come first at least once in this many messages, so that interactive work never starves them.
BULK_TURN: Final = 10

_BULK: Final = ".bulk"


class LaneOrder:
    """A ``queue_order_strategy`` of kombu: interactive first, bulk in one turn of ten, models in rotation.

    It has the methods of ``kombu.utils.scheduling.round_robin_cycle``.
    """

    def __init__(self, it: Iterable[str] | None = None) -> None:
        self._queues = list(it or ())
        self._turns_without_bulk = 0

    def update(self, it: Iterable[str]) -> None:
        """Replace the queues by those that are consumed now."""
        self._queues = list(it)

    def consume(self, n: int) -> Sequence[str]:
        """Return the first ``n`` queues in the order in which Redis checks them."""
        bulk = [queue for queue in self._queues if queue.endswith(_BULK)]
        others = [queue for queue in self._queues if not queue.endswith(_BULK)]
        is_bulk_turn = self._turns_without_bulk >= BULK_TURN - 1
        return (bulk + others if is_bulk_turn else others + bulk)[:n]

    def rotate(self, last_used: str) -> str:
        """Move the queue that a message came from behind the others of its lane; return it."""
        if last_used in self._queues:
            self._queues.remove(last_used)
            self._queues.append(last_used)
        self._turns_without_bulk = 0 if last_used.endswith(_BULK) else self._turns_without_bulk + 1
        return last_used
