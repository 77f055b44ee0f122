"""Celery's part of liveness: timers in the worker's main process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any, ClassVar, Final

from celery import bootsteps
from celery.exceptions import WorkerTerminate
from celery.worker import state
from celery.worker.consumer import Consumer

from embedmill.limits import LIVENESS_PERIOD_S
from embedmill_worker import exit_codes, health
from embedmill_worker.service.node import Node
from embedmill_worker.service.stall import STALL_GRACE_S, Beat, StallWatch

log = logging.getLogger(__name__)

#: Seconds between two looks for dead children. Celery looks when a child's pipe closes, which is a moment before the
#: child can be waited for, and then only every five seconds.
CHILDREN_PERIOD_S: Final = 0.2


class Liveness(bootsteps.StartStopStep):
    """Beats and lets sweep while the consumer runs; started anew after every lost connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    node: ClassVar[Node]

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timers: list[Any] = []
        self._watch = StallWatch()
        self._waiting: int | None = None
        self._stalled_since_s: float | None = None

    @classmethod
    def of(cls, node: Node) -> type[Liveness]:
        """Give the step for one node, as Celery wants a class."""
        return type("NodeLiveness", (cls,), {"node": node, "name": "embedmill.liveness"})

    def start(self, consumer: Any) -> None:
        """Beat as soon as the consumer consumes, then regularly."""
        self._watch = StallWatch()
        self._timers = [
            consumer.timer.call_after(0, self._beat, (consumer,)),
            consumer.timer.call_repeatedly(LIVENESS_PERIOD_S, self._beat, (consumer,)),
        ]
        self.node.start_sweeping()
        if look := getattr(consumer.pool, "maintain_pool", None):
            self._timers.append(consumer.timer.call_repeatedly(CHILDREN_PERIOD_S, look))

    def stop(self, consumer: Any) -> None:
        """Stop the timers; the liveness key outlives them for a while."""
        self.node.pause_sweeping()
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    shutdown = stop

    def _beat(self, consumer: Any) -> None:
        children = getattr(consumer.pool, "num_processes", None) or 1
        active = list(state.active_requests)
        limits_s = {request.id: float((request.time_limits or (0,))[0] or 0) for request in active}
        now_s = time.monotonic()
        reason = self._watch.judge(
            Beat(
                at_s=now_s,
                children=children,
                begun=sum(state.total_count.values()),
                active=limits_s,
                taken=len(set(state.reserved_requests) - set(active)),
                waiting=self._waiting,
            )
        )
        reason = reason or _unconsumed(consumer)
        said = health.STALLED if reason else health.READY
        self._waiting = self.node.beat(state=said, reason=reason, children=children, active=limits_s)
        self._react(reason, now_s, consumer)

    def _react(self, reason: str, now_s: float, consumer: Any) -> None:
        if not reason:
            self._stalled_since_s = None
            return
        if self._stalled_since_s is None:
            self._stalled_since_s = now_s
            log.error(
                "this worker is stalled: %s; it ends itself in %.0f s unless it goes on",
                reason,
                STALL_GRACE_S,
                extra={"action": "stalled"},
            )
        if now_s - self._stalled_since_s >= STALL_GRACE_S:
            log.critical("this worker ends itself: %s", reason, extra={"action": "exit"})
            end_now(self.node, consumer.pool, exit_codes.STALLED)


def _unconsumed(consumer: Any) -> str:
    """Say which of its queues a worker does not consume from; "" if it consumes from all."""
    names = [queue.name for queue in consumer.app.amqp.queues.consume_from.values()]
    missing = [name for name in names if not consumer.task_consumer.consuming_from(name)]
    return f"it does not consume from {', '.join(missing)}" if missing else ""


def end_now(node: Node, pool: Any, code: int) -> None:
    """End this worker, whatever its children do: its claims are dead at once, and no crash is laid to their texts."""
    node.leave()
    for child in list(getattr(getattr(pool, "_pool", None), "_pool", ())):
        with suppress(OSError, TypeError):
            os.kill(child.pid, signal.SIGKILL)
    logging.shutdown()
    os._exit(code)


def end_after_grace(node: Node, pool: Any) -> None:
    """Let a stopping worker finish what it has begun, but not for ever.

    Celery enforces time limits while it stops, too; this bounds the stop where a task's limit is longer than the grace.
    """

    def end() -> None:
        log.critical("this worker did not finish within its %.0f s of grace", node.grace_s, extra={"action": "exit"})
        end_now(node, pool, exit_codes.GRACE)

    timer = threading.Timer(node.grace_s, end)
    timer.daemon = True
    timer.start()


class PatientConsumer(Consumer):
    """Celery's consumer, which is live while it waits for Redis: a restart would mend nothing."""

    node: ClassVar[Node]

    @classmethod
    def of(cls, node: Node) -> type[PatientConsumer]:
        """Give the class for one node."""
        return type("NodeConsumer", (cls,), {"node": node})

    def start(self) -> None:
        """Run; an end for want of descriptors keeps its exit code, which Celery 5.7.0 forgets: it must be restarted."""
        try:
            super().start()
        except WorkerTerminate as end:
            self.controller.exitcode = end.code  # type: ignore[attr-defined]  # the stubs leave it out
            raise

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Drop what cannot be read, without the body that Celery would log."""
        self._drop(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Drop what a task cannot be made of; the same."""
        self._drop(message, exc)

    def _drop(self, message: Any, exc: BaseException) -> None:
        log.warning("a message was dropped: it cannot be read (%s)", type(exc).__name__, extra={"action": "dropped"})
        message.reject_log_error(log, message.channel.connection_errors)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes, and go on telling so."""
        ensure = conn.ensure_connection

        def ensure_connection(
            errback: Any = None, max_retries: Any = None, callback: Any = None, **options: Any
        ) -> Any:
            def each_second() -> None:
                self.node.tell("Redis cannot be reached")
                if callback is not None:
                    callback()

            return ensure(errback, max_retries, callback=each_second, **options)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)
