"""Sweeps in a thread of its own, with connections of its own: however long one takes, the main process goes on.

The main process forks children while the thread lives. A fork copies every lock as it is at that moment, so it waits
until the thread rests: the thread is ``busy`` while it does anything else. It does not wait long: a thread that is busy
for more than ``FORK_PATIENCE_S`` waits for a Redis that does not answer, and holds nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final

from embedmill.errors import QueueError
from embedmill.settings import ClientSettings
from embedmill.transport.flow import Flow, Offload, RoundTrip, Sleep, T
from embedmill.transport.sync import OUTAGE_S, RedisTransport
from embedmill_worker.jobs.reconciler import SWEEP_PERIOD_S, Reconciler

log = logging.getLogger(__name__)

#: Seconds that a sweep may take: far more than one over a million jobs.
SWEEP_TIMEOUT_S: Final = 3_600.0

#: Seconds that a fork waits for the thread to rest: a page takes some milliseconds.
FORK_PATIENCE_S: Final = 0.1


class RestingLink(RedisTransport):
    """A link that is busy in all it does but a flow's pauses."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.busy = threading.Lock()

    def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Drive a flow to its result; see ``RedisTransport.run``."""
        with self.busy:
            return super().run(flow, timeout_s=timeout_s, outage_s=outage_s)

    def _do(self, step: RoundTrip | Offload | Sleep, deadline_s: float, outage_s: float) -> Any:
        if not isinstance(step, Sleep):
            return super()._do(step, deadline_s, outage_s)
        self.busy.release()
        try:
            return super()._do(step, deadline_s, outage_s)
        finally:
            self.busy.acquire()


class Sweeper:
    """The thread. It ends with its process; children have none."""

    def __init__(self, link: RestingLink) -> None:
        self._link = link
        self._is_started = False
        self._may_sweep = threading.Event()
        self._holds_fork = False

    def start(self, reconciler: Reconciler) -> None:
        """Sweep from now on; again after a ``pause``. For the main process, once its first children are forked."""
        self._may_sweep.set()
        if not self._is_started:
            self._is_started = True
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork
            )
            threading.Thread(target=self._run, args=(reconciler,), name="embedmill-sweeper", daemon=True).start()

    def pause(self) -> None:
        """Begin no further sweep; one under way goes on to its end."""
        self._may_sweep.clear()

    def _run(self, reconciler: Reconciler) -> None:
        period = threading.Event()
        while True:
            self._may_sweep.wait()
            self._sweep(reconciler)
            period.wait(SWEEP_PERIOD_S)

    def _sweep(self, reconciler: Reconciler) -> None:
        try:
            self._link.run(reconciler.sweep(), timeout_s=SWEEP_TIMEOUT_S, outage_s=0.0)
        except QueueError as error:
            log.warning("sweep failed: %s", error, extra={"action": "sweep"})
        except Exception as error:  # whatever it is: the thread must live on
            log.error("sweep failed (%s)", type(error).__name__, extra={"action": "sweep"})

    def _before_fork(self) -> None:
        self._holds_fork = self._link.busy.acquire(timeout=FORK_PATIENCE_S)

    def _after_fork(self) -> None:
        if self._holds_fork:
            self._link.busy.release()
