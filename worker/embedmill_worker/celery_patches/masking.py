"""What a worker's libraries log and raise, without the texts that they would show (Celery 5.7.0, redis-py 8.1.0).

Texts come through a worker's main process as arguments of tasks and of Redis's commands, and both libraries show these:
Celery's pools log each task's at DEBUG, and redis-py puts a pipeline's failed command into its error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from redis.client import Pipeline

#: How Celery's pools begin the line that holds a task's arguments.
_APPLY: Final = "TaskPool: Apply"


def mask_arguments() -> None:
    """Let no library of this process show the arguments of a task or of a command; again changes nothing."""
    logging.getLogger("celery.pool").addFilter(_has_no_arguments)
    pipeline: Any = Pipeline
    pipeline.annotate_exception = _name_command


def _has_no_arguments(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_APPLY)


def _name_command(self: Any, exception: Exception, number: int, command: Sequence[Any]) -> None:
    """Say which command of a pipeline failed, as redis-py does, but without its arguments."""
    name = command[0] if command else ""
    said = exception.args[0] if exception.args else ""
    exception.args = (f"Command # {number} ({name}) of pipeline caused error: {said}", *exception.args[1:])
