"""Celery's part of liveness: timers in the worker's main process."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from celery import bootsteps
from celery.worker import state

from embedmill.limits import LIVENESS_PERIOD_S
from embedmill_worker.node import Node
from embedmill_worker.reconciler import SWEEP_PERIOD_S

#: Seconds between two looks for dead children. Celery looks when a child's pipe closes, which is a moment before the
#: child can be waited for, and then only every five seconds.
CHILDREN_PERIOD_S: Final = 0.2


class Liveness(bootsteps.StartStopStep):
    """Beats and sweeps while the consumer runs; started anew after every lost connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    node: ClassVar[Node]

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timers: list[Any] = []

    @classmethod
    def of(cls, node: Node) -> type[Liveness]:
        """Give the step for one node, as Celery wants a class."""
        return type("NodeLiveness", (cls,), {"node": node, "name": "embedmill.liveness"})

    def start(self, consumer: Any) -> None:
        """Beat at once, then regularly."""
        self._beat(consumer)
        self._timers = [
            consumer.timer.call_repeatedly(LIVENESS_PERIOD_S, self._beat, (consumer,)),
            consumer.timer.call_repeatedly(SWEEP_PERIOD_S, self.node.sweep),
        ]
        if look := getattr(consumer.pool, "maintain_pool", None):
            self._timers.append(consumer.timer.call_repeatedly(CHILDREN_PERIOD_S, look))

    def stop(self, consumer: Any) -> None:
        """Stop the timers; the liveness key outlives them for a while."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    shutdown = stop

    def _beat(self, consumer: Any) -> None:
        children = getattr(consumer.pool, "num_processes", None) or 1
        active = [request.id for request in list(state.active_requests)]
        self.node.beat(state="ready", children=children, active=active)
