"""A guard for incoming messages: kombu's Redis transport reads them through ``messages``, and drops those refused.

A dropped doorbell is made good by the next one. Seen in kombu 5.7.0: bytes that are not
JSON, or JSON without the expected fields, raise in the event loop and end the worker.

The guard also keeps texts out of libraries' logs and errors (Celery 5.7.0, redis-py 8.1.0). Texts pass through a
worker's main process as arguments of tasks and of Redis commands: Celery's pools log a task's arguments at DEBUG, and
redis-py puts the failed command of a pipeline into its error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from queue import Empty
from typing import Any, Final

from kombu.transport import redis as transport
from redis.client import Pipeline

from embedmill.errors import MessageError
from embedmill_worker.celery_patches import messages

log = logging.getLogger(__name__)

#: Beginning of the log line in which Celery's pools show a task's arguments.
_APPLY: Final = "TaskPool: Apply"


def guard(limits_s: Mapping[str, float] | None = None, *, remote_control: bool = False) -> None:
    """Make kombu read all messages through ``messages``; those of remote control pass unchanged if it is on.

    Args:
        limits_s: queue of doorbells → time limit of its tasks in seconds.
        remote_control: whether it is on.
    """
    kombu: Any = transport
    if getattr(kombu.loads, "is_guard", False):
        return
    kombu.loads = _reading(kombu.loads if remote_control else None)
    kombu.QoS.restore_by_tag = _restoring(kombu.QoS.restore_by_tag)
    kombu.QoS.ack = _forgetting(kombu.QoS.ack)
    kombu.QoS.reject = _forgetting(kombu.QoS.reject)
    kombu.Transport._deliver = _delivering(kombu.Transport._deliver, limits_s or {})


def _reading(original: Callable[[str], Any] | None) -> Callable[[str], Any]:
    def loads(data: str) -> Any:
        """Read a message or an unacknowledged delivery; raise Empty if it is refused, so that kombu takes the next."""
        try:
            return messages.read_delivery(data) if data.startswith("[") else messages.read_message(data)
        except MessageError as error:
            if original is not None and '"task"' not in data[:4_096]:
                return original(data)
            log.warning("a message of %d characters was dropped: %s", len(data), error, extra={"action": "dropped"})
            raise Empty from None

    loads.is_guard = True  # type: ignore[attr-defined]
    return loads


def _delivering(original: Any, limits_s: Mapping[str, float]) -> Any:
    def _deliver(self: Any, message: Any, queue: str) -> None:
        """Set routing key and time limit by the queue that the message came from, whatever the message claims."""
        if not isinstance(message, dict):
            log.warning("a delivery in queue %s was dropped: it is not a message", queue, extra={"action": "dropped"})
            raise Empty
        if "task" in message["headers"]:
            message["properties"]["delivery_info"]["routing_key"] = queue
            if queue in limits_s:
                message["headers"]["timelimit"] = [limits_s[queue], None]
        original(self, message, queue)

    return _deliver


def _forgetting(original: Any) -> Any:
    def forget(self: Any, delivery_tag: Any, **how: Any) -> None:
        """Skip a delivery that has no unacknowledged copy, such as a doorbell: there is nothing to remove.

        kombu 5.7.0 would remove it in a transaction all the same. That is one round trip per chunk, and a full Redis
        7.0 refuses it: the worker would treat its connection as lost, again and again.
        """
        if delivery_tag in self._delivered:
            original(self, delivery_tag, **how)

    return forget


def _restoring(original: Any) -> Any:
    def restore_by_tag(self: Any, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Remove a delivery that cannot be read, instead of failing on it for ever."""
        try:
            original(self, tag, client, leftmost)
        except Empty:
            with self.channel.conn_or_acquire(client) as connection, connection.pipeline() as pipe:
                self._remove_from_indices(tag, pipe).execute()

    return restore_by_tag


def mask_arguments() -> None:
    """Keep libraries from showing the arguments of tasks and commands; calling it again has no effect."""
    logging.getLogger("celery.pool").addFilter(_has_no_arguments)
    pipeline: Any = Pipeline
    pipeline.annotate_exception = _name_command


def _has_no_arguments(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_APPLY)


def _name_command(self: Any, exception: Exception, number: int, command: Sequence[Any]) -> None:
    """Name the command of a pipeline that failed, as redis-py does, but without its arguments."""
    name = command[0] if command else ""
    reason = exception.args[0] if exception.args else ""
    exception.args = (f"Command # {number} ({name}) of pipeline caused error: {reason}", *exception.args[1:])
