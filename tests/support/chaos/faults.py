"""What strikes: each fault is done for real to a mill that has work in flight, and says whom it hit, if anybody."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import redis

from embedmill.protocol.keys import LANES, Keyspace
from support.breakable import BreakableValkey
from support.chaos.proxy import Proxy
from support.clock import Clock
from support.servers import plain_redis

MODEL = "all-MiniLM-L6-v2"

#: Seconds that a worker is frozen: longer than its liveness key lives, so that others take its chunks meanwhile.
ZOMBIE_S = 13.0

#: Seconds until work is in flight again after a fault; far beyond what any recovery takes.
PATIENCE_S = 120.0

#: Seconds until a fault that hit nobody is tried again.
AGAIN_S = 0.2

#: What stands in a counter's place.
GARBAGE = (b"abc \xff", b"", b"-5", b"1e999", b"9007199254740991")

#: Seconds beside the true time to which Redis's clock is set.
STEPS_S = (-7_200, -3_600, -60, 0, 60, 3_600)

#: How a fault begins its answer that found no victim.
NOBODY = "nobody"
NO_CONNECTION = f"{NOBODY}: no connection is open"


class Faults:
    """One mill's faults, drawn from one seed."""

    def __init__(
        self, mill, valkey: BreakableValkey, proxy: Proxy, rng: random.Random, clock: Clock | None = None
    ) -> None:
        self._mill, self._valkey, self._proxy, self._rng = mill, valkey, proxy, rng
        self._clock = clock
        self._keys = Keyspace(mill.namespace)
        self._later: list[threading.Thread] = []
        self._frozen: set[int] = set()
        #: Main processes that a fault ended: every other end of a worker is a bug.
        self.ended: set[int] = set()

    @property
    def kinds(self) -> dict[str, Callable[[], str]]:
        """Every kind of fault by name."""
        return {
            "kill child": lambda: self._signal_child(signal.SIGKILL),
            "stop child": lambda: self._signal_child(signal.SIGTERM),
            "kill worker": self._kill_worker,
            "stop worker": self._stop_worker,
            "freeze worker": self._freeze_worker,
            "freeze child": self._freeze_child,
            "kill connections": self._kill_connections,
            "kill Redis": self._kill_redis,
            "freeze Redis": self._freeze_redis,
            "drop connections": self._drop,
            "delay traffic": self._delay,
            "swallow traffic": self._swallow,
            "empty Redis": self._empty_redis,
            "spoil counters": self._spoil_counters,
            "step clock": self._step_clock,
        }

    def strike(self, kind: str) -> tuple[str, str]:
        """Does one fault as soon as work is in flight and somebody is there to be hit; gives whom, and what was."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            in_flight = self.wait_for_work()
            whom = self.kinds[kind]()
            if not whom.startswith(NOBODY):
                return whom, in_flight
            time.sleep(AGAIN_S)
        raise AssertionError(f"{kind}: {whom}, for {PATIENCE_S:.0f} s")

    def wait_for_work(self) -> str:
        """Waits until chunks are under work; gives what is in flight."""
        deadline = time.monotonic() + PATIENCE_S
        with plain_redis(self._valkey.url, socket_timeout=5) as server:
            while time.monotonic() < deadline:
                with suppress(redis.RedisError):
                    if said := self._in_flight(server):
                        return said
                time.sleep(0.02)
        raise AssertionError(f"no work was in flight for {PATIENCE_S:.0f} s")

    def _in_flight(self, server: redis.Redis) -> str:
        jobs = [job for lane in LANES for job in server.zrange(self._keys.active(MODEL, lane), 0, -1)]
        n_held = sum(b":" not in token for token in server.hkeys(self._keys.held))
        return f"{len(jobs)} jobs, {n_held} chunks under work" if n_held else ""

    def settle(self) -> None:
        """Waits until every fault that takes a while is over, and undoes what is left of them."""
        for thread in self._later:
            thread.join(60)
        for pid in list(self._frozen):
            self._thaw(pid)
        self._proxy.delay_s = 0.0
        self._proxy.swallows.clear()

    def _after(self, seconds: float, undo: Callable[[], object]) -> None:
        thread = threading.Timer(seconds, undo)
        thread.start()
        self._later.append(thread)

    def _live_workers(self) -> list:
        return [w for w in self._mill.workers if w.process.poll() is None and w.pid not in self._frozen]

    def _signal_child(self, sig: signal.Signals) -> str:
        pid = self._any_child()
        return f"child {pid}" if pid and _signal(pid, sig) else f"{NOBODY}: no child is up"

    def _any_child(self) -> int | None:
        children = [pid for worker in self._live_workers() for pid in _children(worker) if pid not in self._frozen]
        return self._rng.choice(children) if children else None

    def _any_worker(self):
        workers = self._live_workers()
        return self._rng.choice(workers) if workers else None

    def _kill_worker(self) -> str:
        if (worker := self._any_worker()) is None:
            return f"{NOBODY}: all workers are frozen"
        self.ended.add(worker.pid)
        worker.kill()
        self._replace(worker)
        return f"worker {worker.pid} and its children"

    def _replace(self, worker) -> None:
        self._mill.start_worker(ready=False, EMBEDMILL_REDIS_URL=worker.env["EMBEDMILL_REDIS_URL"])

    def _stop_worker(self) -> str:
        if (worker := self._any_worker()) is None:
            return f"{NOBODY}: all workers are frozen"
        self.ended.add(worker.pid)
        worker.process.terminate()
        self._replace(worker)
        return f"worker {worker.pid}"

    def _freeze_worker(self) -> str:
        workers = self._live_workers()
        if len(workers) < 2:
            return f"{NOBODY}: one worker must be left"
        worker = self._rng.choice(workers)
        pids = [worker.pid, *_children(worker)]
        self._freeze(pids)
        return f"worker {worker.pid} and its children, for {ZOMBIE_S:.0f} s"

    def _freeze_child(self) -> str:
        pid = self._any_child()
        if pid is None:
            return f"{NOBODY}: no child is up"
        self._freeze([pid])
        return f"child {pid}, for {ZOMBIE_S:.0f} s or until its time limit"

    def _freeze(self, pids: list[int]) -> None:
        self._frozen.update(pids)
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        self._after(ZOMBIE_S, lambda: [self._thaw(pid) for pid in pids])

    def _thaw(self, pid: int) -> None:
        _signal(pid, signal.SIGCONT)
        self._frozen.discard(pid)

    def _kill_connections(self) -> str:
        with plain_redis(self._valkey.url, socket_timeout=5) as server:
            own = server.client_id()
            others = [int(c["id"]) for c in server.client_list() if int(c["id"]) != own]
            victims = self._rng.sample(others, k=max(1, len(others) // 3)) if others else []
            killed = sum(server.client_kill_filter(_id=str(victim)) for victim in victims)
        return f"{killed} of {len(others)} connections" if killed else NO_CONNECTION

    def _drop(self) -> str:
        dropped = self._proxy.drop()
        return f"{dropped} connections of the proxy" if dropped else NO_CONNECTION

    def _kill_redis(self) -> str:
        pid = self._valkey.pid
        self._valkey.kill()
        time.sleep(self._rng.uniform(0, 1.5))
        self._valkey.restart(60)
        return f"Redis {pid}"

    def _freeze_redis(self) -> str:
        seconds = self._rng.uniform(1.0, 6.0)
        self._valkey.pause()
        time.sleep(seconds)
        self._valkey.resume()
        return f"Redis {self._valkey.pid}, for {seconds:.1f} s"

    def _empty_redis(self) -> str:
        with plain_redis(self._valkey.url, socket_timeout=5) as server:
            n_keys = server.dbsize()
            server.flushall()
        return f"{n_keys} keys"

    def _spoil_counters(self) -> str:
        """Write garbage into every counter of a lane; the sweep is to put them right."""
        lane = self._rng.choice(LANES)
        key = self._keys.lane(MODEL, lane)
        with plain_redis(self._valkey.url, socket_timeout=5) as server:
            names = server.hkeys(key)
            if names:
                server.hset(key, mapping={name: self._rng.choice(GARBAGE) for name in names})
        return f"{key}: {len(names)} counters" if names else f"{NOBODY}: {key} has no counters"

    def _step_clock(self) -> str:
        """Set Redis's clock forth or back."""
        assert self._clock is not None, "the server's clock cannot be set"
        seconds = self._rng.choice(STEPS_S)
        self._clock.move(seconds)
        return f"to {seconds} s beside the true time"

    def _delay(self) -> str:
        if not (hit := self._proxy.connections):
            return NO_CONNECTION
        seconds = self._rng.uniform(0.05, 0.5)
        self._proxy.delay_s = seconds
        time.sleep(self._rng.uniform(1.0, 3.0))
        self._proxy.delay_s = 0.0
        return f"{hit} connections, {seconds:.2f} s each piece"

    def _swallow(self) -> str:
        if not (hit := self._proxy.connections):
            return NO_CONNECTION
        seconds = self._rng.uniform(1.0, 8.0)
        self._proxy.swallows.set()
        time.sleep(seconds)
        if is_cut := self._rng.random() < 0.5:
            self._proxy.drop()
        self._proxy.swallows.clear()
        return f"{hit} connections, for {seconds:.1f} s{', then cut' if is_cut else ''}"


def _signal(pid: int, sig: signal.Signals) -> bool:
    """Sends it; says whether there was such a process."""
    with suppress(ProcessLookupError):
        os.kill(pid, sig)
        return True
    return False


def _children(worker) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return worker.children
    return []
