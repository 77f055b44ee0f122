"""Patches of Celery's prefork pool and kombu's Redis channel, which end a worker that loses Redis, and of billiard.

Each patch names the version in which its fault was seen. Tests that really break the connection show the faults of
pool and channel. The fault of billiard's shared memory is that it leaves folders behind.
"""

from __future__ import annotations

import mmap
import signal
from contextlib import suppress
from typing import Any, Final

import billiard
from billiard import heap
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from kombu.transport import redis as transport
from redis.exceptions import ConnectionError, OutOfMemoryError

#: Exit codes of a child that another process has ended.
KILLED: Final = (-signal.SIGKILL, -signal.SIGTERM)


class SteadyPool(AsynPool):
    """A pool that survives the death of a child at any time, even while the child is registered with the event loop."""

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Skip a child that is known to have ended: it has no descriptor, so Celery 5.7.0 would end the worker."""
        if getattr(proc, "_sentinel_poll", proc) is not None:
            super()._track_child_process(proc, hub)  # type: ignore[misc]

    def did_start_ok(self) -> bool:
        """Replace children that ended before the event loop began; return False if all ended by themselves.

        Celery 5.7.0 ends the worker if one child was killed in that moment.
        """
        pool: Any = self
        exit_codes = pool._join_exited_workers()
        if sum(code not in KILLED for code in exit_codes) >= pool._processes:
            return False
        if exit_codes:
            pool._repopulate_pool(exit_codes)
        return True


class Prefork(TaskPool):
    """Celery's prefork pool with a SteadyPool."""

    Pool = SteadyPool


class NamelessArena:
    """A replacement for billiard's ``Arena``: memory that forked children share without a file or folder."""

    def __init__(self, size: int, fd: int = -1) -> None:
        """Map the memory; ``fd`` is -1, because children are forked."""
        self.size = size
        self.fd = fd
        self.buffer = mmap.mmap(fd, size)


def mend_shared_memory() -> None:
    """Keep billiard from leaving folders behind.

    billiard 4.3.2 makes a folder ``pymp-…`` for the counters of its children and removes it only if the worker exits
    normally. Children that are spawned, not forked, need the file in it, so they keep it.
    """
    if billiard.get_start_method() == "fork":
        vars(heap)["Arena"] = NamelessArena


def mend_transport() -> None:
    """Patch kombu's Redis transport; calling it again has no effect."""
    if not hasattr(transport.Channel, "is_mended"):
        transport.Channel.is_mended = True  # type: ignore[attr-defined]
        _mend_closed_channels()
        _mend_full_redis()


def _mend_closed_channels() -> None:
    """Make a closed channel raise a connection error, which Celery handles.

    Celery 5.7.0 closes the connection while tasks with ``acks_late`` run; restoring or acknowledging them then finds a
    channel without a transport, and the AttributeError ends the worker. This was seen only with the channel of remote
    control, which is off here; the patch stays for users who turn it on. It does not affect open channels.
    """
    channel: Any = transport.Channel
    original = channel._connparams

    def _connparams(self: Any, asynchronous: bool = False) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the broker's channel is closed")
        return original(self, asynchronous=asynchronous)

    channel._connparams = _connparams


def _mend_full_redis() -> None:
    """Make the restoring of unacknowledged messages wait while Redis is full.

    kombu 5.7 takes a lock to restore them, which a full Redis refuses. Celery treats that as a lost connection, and a
    worker that loses five in a second exits, so that nothing drains the full Redis.
    """
    qos: Any = transport.QoS
    original = qos.restore_visible

    def restore_visible(self: Any, *args: Any, **options: Any) -> None:
        with suppress(OutOfMemoryError):
            original(self, *args, **options)

    qos.restore_visible = restore_visible
