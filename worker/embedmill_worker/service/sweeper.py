"""A thread for sweeps, with its own connections, so that the main process goes on however long a sweep takes.

The main process forks children while the thread lives. A fork copies every lock in its current state, so it waits until
the thread rests; the thread holds ``busy`` at all other times. The wait is short: a thread that is busy for more than
``FORK_PATIENCE_S`` is waiting for a Redis that does not answer, and holds no other lock.
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

#: Timeout of a sweep, in seconds; one over a million jobs takes far less.
SWEEP_TIMEOUT_S: Final = 3_600.0

#: Seconds that a fork waits for the thread to rest: a page takes some milliseconds.
FORK_PATIENCE_S: Final = 0.1


class RestingLink(RedisTransport):
    """A connection to Redis that holds ``busy`` while it runs a flow, except in the flow's pauses."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.busy = threading.Lock()

    def run(self, flow: Flow[T], *, timeout_s: float, outage_s: float = OUTAGE_S) -> T:
        """Run a flow and return its result; see ``RedisTransport.run``."""
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
    """The sweeping thread. It ends with the main process; children do not have it."""

    def __init__(self, link: RestingLink) -> None:
        self._link = link
        self._is_started = False
        self._may_sweep = threading.Event()
        self._holds_fork = False

    def start(self, reconciler: Reconciler) -> None:
        """Start sweeping, or resume after a ``pause``. For the main process, after its first children are forked."""
        self._may_sweep.set()
        if not self._is_started:
            self._is_started = True
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork
            )
            threading.Thread(target=self._run, args=(reconciler,), name="embedmill-sweeper", daemon=True).start()

    def pause(self) -> None:
        """Start no further sweep; a sweep under way is finished."""
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
        except Exception as error:  # of any kind: the thread must live on
            log.error("sweep failed (%s)", type(error).__name__, extra={"action": "sweep"})

    def _before_fork(self) -> None:
        self._holds_fork = self._link.busy.acquire(timeout=FORK_PATIENCE_S)

    def _after_fork(self) -> None:
        if self._holds_fork:
            self._link.busy.release()
