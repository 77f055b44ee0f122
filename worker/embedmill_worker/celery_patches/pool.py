"""Celery's prefork pool and kombu's Redis channel, mended where the released ones end a worker that loses Redis.

Each part says which version it was seen in. Both are found by tests that break the connection for real. And billiard's
shared memory, mended where it leaves folders behind.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import billiard
from billiard import heap
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from kombu.transport import redis as transport
from redis.exceptions import ConnectionError, OutOfMemoryError


class SteadyPool(AsynPool):
    """A pool that outlives the death of a child at any moment, also while it is registered with the event loop."""

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Pass over a child whose end has been seen: it has no descriptor, and Celery 5.7.0 ends the worker over it."""
        if getattr(proc, "_sentinel_poll", proc) is not None:
            super()._track_child_process(proc, hub)  # type: ignore[misc]

    def did_start_ok(self) -> bool:
        """Replace children that died before the event loop began; False if all did.

        Celery 5.7.0 ends the worker over one that was killed in that moment.
        """
        pool: Any = self
        exited = pool._join_exited_workers()
        if len(exited) >= pool._processes:
            return False
        if exited:
            pool._repopulate_pool(exited)
        return True


class Prefork(TaskPool):
    """Celery's prefork pool with a SteadyPool."""

    Pool = SteadyPool


class NamelessArena:
    """In the place of billiard's ``Arena``: memory that forked children share without a file, and so no folder."""

    def __init__(self, size: int, fd: int = -1) -> None:
        """Map it; ``fd`` is none, as children are forked."""
        self.size = size
        self.fd = fd
        self.buffer = mmap.mmap(fd, size)


def mend_shared_memory() -> None:
    """Keep the temporary folder clean.

    billiard 4.3.2 makes a folder ``pymp-…`` for the counters of its children and removes it only if the worker ends in
    order. Children that are not forked need the file in it.
    """
    if billiard.get_start_method() == "fork":
        vars(heap)["Arena"] = NamelessArena


def mend_transport() -> None:
    """Mend kombu's Redis transport; again changes nothing."""
    if not hasattr(transport.Channel, "is_mended"):
        transport.Channel.is_mended = True  # type: ignore[attr-defined]
        _mend_closed_channels()
        _mend_full_redis()


def _mend_closed_channels() -> None:
    """Let a closed channel raise a connection error, which Celery handles.

    Celery 5.7.0 closes the connection under tasks of ``acks_late``; what is then restored or acknowledged finds a
    channel without a transport, and the AttributeError ends the worker. Seen only with the channel of remote control,
    which is off here; it stays mended for who turns it on. On a channel that is open this changes nothing.
    """
    channel: Any = transport.Channel
    original = channel._connparams

    def _connparams(self: Any, asynchronous: bool = False) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise ConnectionError("the broker's channel is closed")
        return original(self, asynchronous=asynchronous)

    channel._connparams = _connparams


def _mend_full_redis() -> None:
    """Let unacknowledged messages wait to be restored while Redis is full.

    kombu 5.7 takes a lock for it, which a full Redis refuses; Celery takes that for a lost connection, and a worker
    that loses five in a second ends, so that nobody drains what fills Redis.
    """
    qos: Any = transport.QoS
    original = qos.restore_visible

    def restore_visible(self: Any, *args: Any, **options: Any) -> None:
        with suppress(OutOfMemoryError):
            original(self, *args, **options)

    qos.restore_visible = restore_visible
