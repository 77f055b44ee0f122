"""Liveness in the worker's main process: timers that beat and that detect when it stops consuming."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import bootsteps
from celery.exceptions import WorkerTerminate
from celery.worker import state
from celery.worker.consumer import Consumer

from embedmill.limits import LIVENESS_PERIOD_S
from embedmill_worker import exit_codes, health

if TYPE_CHECKING:
    from embedmill_worker.service.node import Node

log = logging.getLogger(__name__)

#: Seconds between two checks for dead children. Celery checks when a child's pipe closes, which is a moment too early
#: to reap the child, and then only every five seconds.
CHILDREN_PERIOD_S: Final = 0.2

#: Seconds after which a worker is stalled if work waits, a child is idle and no task begins.
STALL_AFTER_S: Final = 12.0

#: Seconds beyond its time limit after which a task that still runs shows that limits are not enforced.
OVERDUE_AFTER_S: Final = 12.0

#: Seconds that a stalled worker reports its state before it exits.
STALL_GRACE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """State of a worker's main process at one beat."""

    at_s: float
    children: int
    #: Tasks that children have begun since the start.
    begun: int
    #: Running tasks: id → time limit in seconds; 0: no limit.
    active: Mapping[str, float]
    #: Tasks taken from Redis that no child has begun.
    taken: int
    #: Messages in this worker's queues; None: Redis did not answer.
    waiting: int | None


class StallWatch:
    """Detector of a stalled worker, which compares its beats."""

    def __init__(self) -> None:
        self._begun = -1
        self._idle_since_s: float | None = None
        self._first_seen_s: dict[str, float] = {}

    def check(self, beat: Beat) -> str:
        """Return why the worker is stalled at this beat; "" if it is not."""
        self._first_seen_s = {task: self._first_seen_s.get(task, beat.at_s) for task in beat.active}
        for task, limit_s in beat.active.items():
            over_s = beat.at_s - self._first_seen_s[task] - limit_s
            if limit_s and over_s > OVERDUE_AFTER_S:
                return f"a task has run {over_s:.0f} s beyond its limit of {limit_s:.0f} s"
        # A Redis that does not answer says nothing about this worker.
        has_work = beat.waiting is not None and beat.waiting + beat.taken > 0
        if not has_work or len(beat.active) >= beat.children or beat.begun != self._begun:
            self._begun, self._idle_since_s = beat.begun, None
            return ""
        if self._idle_since_s is None:
            self._idle_since_s = beat.at_s
        idle_s = beat.at_s - self._idle_since_s
        if idle_s < STALL_AFTER_S:
            return ""
        return f"{beat.waiting} messages wait and {beat.taken} are taken, but no child has begun one for {idle_s:.0f} s"


class Liveness(bootsteps.StartStopStep):
    """A step of Celery's consumer that beats and sweeps while it runs; restarted after every lost connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "embedmill.liveness"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._node: Node = consumer.app.node
        self._timers: list[Any] = []
        self._watch = StallWatch()
        self._waiting: int | None = None
        self._stalled_since_s: float | None = None

    def start(self, consumer: Any) -> None:
        """Start sweeping and beating, with the first beat as soon as the consumer consumes."""
        self._watch = StallWatch()
        self._timers = [
            consumer.timer.call_after(0, self._beat, (consumer,)),
            consumer.timer.call_repeatedly(LIVENESS_PERIOD_S, self._beat, (consumer,)),
        ]
        self._node.start_sweeping()
        if look := getattr(consumer.pool, "maintain_pool", None):
            self._timers.append(consumer.timer.call_repeatedly(CHILDREN_PERIOD_S, look))

    def stop(self, consumer: Any) -> None:
        """Stop the timers; the liveness key outlives them for a while."""
        self._node.pause_sweeping()
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    shutdown = stop

    def _beat(self, consumer: Any) -> None:
        children = getattr(consumer.pool, "num_processes", None) or 1
        active = list(state.active_requests)
        limits_s = {request.id: float((request.time_limits or (0,))[0] or 0) for request in active}
        now_s = time.monotonic()
        reason = self._watch.check(
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
        worker_state = health.STALLED if reason else health.READY
        self._waiting = self._node.beat(state=worker_state, reason=reason, children=children, active=limits_s)
        self._react(reason, now_s, consumer)

    def _react(self, reason: str, now_s: float, consumer: Any) -> None:
        if not reason:
            self._stalled_since_s = None
            return
        if self._stalled_since_s is None:
            self._stalled_since_s = now_s
            log.error(
                "this worker is stalled: %s; it exits in %.0f s unless it recovers",
                reason,
                STALL_GRACE_S,
                extra={"action": "stalled"},
            )
        if now_s - self._stalled_since_s >= STALL_GRACE_S:
            log.critical("this worker exits because it is stalled: %s", reason, extra={"action": "exit"})
            end_now(self._node, consumer.pool, exit_codes.STALLED)


def _unconsumed(consumer: Any) -> str:
    """Return which of its queues a worker does not consume from; "" if it consumes from all."""
    names = [queue.name for queue in consumer.app.amqp.queues.consume_from.values()]
    missing = [name for name in names if not consumer.task_consumer.consuming_from(name)]
    return f"it does not consume from {', '.join(missing)}" if missing else ""


def end_now(node: Node, pool: Any, code: int) -> None:
    """Exit at once and kill the children. Their claims end immediately, and no crash is counted against their texts."""
    node.leave()
    for child in list(getattr(getattr(pool, "_pool", None), "_pool", ())):
        with suppress(OSError, TypeError):
            os.kill(child.pid, signal.SIGKILL)
    logging.shutdown()
    os._exit(code)


def end_after_grace(node: Node, pool: Any) -> None:
    """End a stopping worker when its grace period is over, even if tasks still run.

    Celery also enforces time limits during a stop; this bounds the stop if a task's limit exceeds the grace period.
    """

    def end() -> None:
        reason = "this worker exits: tasks still run after its grace period of %.0f s; their chunks will be re-queued"
        log.critical(reason, node.grace_s, extra={"action": "exit"})
        end_now(node, pool, exit_codes.GRACE)

    timer = threading.Timer(node.grace_s, end)
    timer.daemon = True
    timer.start()


class PatientConsumer(Consumer):
    """Celery's consumer that counts as live while it waits for Redis, because a restart would not help."""

    def start(self) -> None:
        """Run.

        Celery 5.7.0 loses the exit code when file descriptors run out; it is kept, so that the worker is restarted.
        """
        try:
            super().start()
        except WorkerTerminate as end:
            self.controller.exitcode = end.code  # type: ignore[attr-defined]  # missing in the stubs
            raise

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Drop a message that cannot be decoded; Celery would log its body."""
        self._drop(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Drop a message that is not a valid task; Celery would log its body."""
        self._drop(message, exc)

    def _drop(self, message: Any, exc: BaseException) -> None:
        log.warning("a message was dropped: it cannot be read (%s)", type(exc).__name__, extra={"action": "dropped"})
        message.reject_log_error(log, message.channel.connection_errors)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes, and update the health file meanwhile."""
        ensure = conn.ensure_connection
        node: Node = self.app.node  # type: ignore[attr-defined]  # set on EmbedmillCelery

        def ensure_connection(
            errback: Any = None, max_retries: Any = None, callback: Any = None, **options: Any
        ) -> Any:
            def each_second() -> None:
                node.tell("Redis cannot be reached")
                if callback is not None:
                    callback()

            return ensure(errback, max_retries, callback=each_second, **options)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)
