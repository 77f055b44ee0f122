"""One worker as Redis sees it: it starts, beats, reconciles, works and leaves."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

from embedmill.errors import BrokerUnavailableError, FingerprintError, KeyConflictError, QueueError
from embedmill.jobs.request import longest_limit_s
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo
from embedmill.transport.flow import Flow, T
from embedmill.transport.sync import RedisTransport
from embedmill_worker import health
from embedmill_worker.cache.cached_engine import TABLE_TOKENS_PER_S, CachedEngine
from embedmill_worker.cache.store import EmbeddingCache, read_info
from embedmill_worker.engine import Embedder, Engine
from embedmill_worker.engine.engines import Engines
from embedmill_worker.health import Health
from embedmill_worker.jobs import announcements, claims
from embedmill_worker.jobs.claims import Bell
from embedmill_worker.jobs.processor import GOING_ON_S, ChunkProcessor
from embedmill_worker.jobs.reconciler import Reconciler
from embedmill_worker.service.sweeper import Sweeper
from embedmill_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Seconds that the main process waits for Redis in one beat: it must stay free for Celery.
BEAT_TIMEOUT_S: Final = 1.0

#: Seconds between two tries to reach Redis at start-up.
START_PAUSE_S: Final = 2.0

#: Variable that passes the worker's id to spawned children.
WORKER_ID_ENV: Final = "EMBEDMILL_WORKER_ID"


class Node:
    """State of one worker, created in the main process before the fork and used by it and by its children."""

    def __init__(
        self, settings: WorkerSettings, engines: Engines, keys: Keyspace, link: RedisTransport, sweeper: Sweeper
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._keys = keys
        self._link = link
        self._sweeper = sweeper
        self._worker_id = os.environ.get(WORKER_ID_ENV, "")
        self._is_spawned = bool(self._worker_id)
        self._name = ""
        self._took_s = 0.0
        self._state = health.STARTING
        self._reached_at_s = 0.0
        models = settings.model_names
        self._queues = (*(keys.queue(model, lane) for model in models for lane in LANES), keys.embed_queue)
        #: One byte that forked children share: whether the worker stops.
        self._flag = mmap.mmap(-1, 1)
        self._cache = EmbeddingCache(settings.cache_url, settings.namespace) if settings.cache_url else None

    def start(self, name: str) -> None:
        """Load the models, check that live workers serve the same ones under their names, and announce them.

        Raises:
            ModelLoadError: a model cannot be served.
            FingerprintError: live workers serve other fingerprints.
            SettingsError: the cache's Redis cannot be used as a cache.
        """
        began_s = time.monotonic()
        self._worker_id = f"{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}"
        os.environ[WORKER_ID_ENV] = self._worker_id
        self._name = name
        self.tell()
        self._engines.load_all()
        cards = [engine.card for engine in self._engines]
        others = self._patiently(lambda: announcements.other_fingerprints(self._keys, cards))
        if others and not self._settings.rollover:
            model, theirs = next(iter(others.items()))
            raise FingerprintError(model, next(c.fingerprint for c in cards if c.name == model), theirs)
        if self._cache is not None:
            self._cache.check(self._patiently(read_info))
        self._patiently(lambda: announcements.announce_cards(self._keys, cards))
        self._took_s = time.monotonic() - began_s

    def log_models(self) -> None:
        """Log what is served; call this once Celery has set up logging."""
        for engine in self._engines:
            log.info(
                "%s: fingerprint %s, dimension %d, max %d tokens, %s, %s, %.0f tokens/s per core; loaded in %.2f s",
                engine.card.name,
                engine.card.fingerprint,
                engine.card.dimension,
                engine.card.max_tokens,
                engine.card.precision,
                engine.card.batch_class,
                engine.card.tokens_per_s,
                self._took_s,
                extra={"action": "model_ready"},
            )

    def limits_s(self) -> dict[str, float]:
        """Return the time limit in seconds of one task of each lane's queue."""
        cards = [engine.card for engine in self._engines]
        return {
            self._keys.queue(card.name, lane): GOING_ON_S + longest_limit_s(card) for card in cards for lane in LANES
        }

    @property
    def name(self) -> str:
        """Celery's node name; "" before the start."""
        return self._name

    @property
    def grace_s(self) -> float:
        """Seconds from SIGTERM until tasks that still run are left to other workers."""
        return self._settings.grace_s

    def beat(self, *, state: str, reason: str = "", children: int, active: Iterable[str]) -> int | None:
        """Renew the liveness key. If Redis does not answer, the next beat tries again.

        Returns:
            Messages in this worker's queues; None: Redis did not answer.
        """
        self._state = state
        info = WorkerInfo(
            worker_id=self._worker_id,
            name=self._name,
            pid=os.getpid(),
            host=socket.gethostname(),
            state=state,
            children=children,
            models={engine.card.name: engine.card.fingerprint for engine in self._engines},
            active=tuple(active),
            protocol=PROTOCOL_VERSION,
        )
        cards = [engine.card for engine in self._engines]
        waiting = self._quietly(announcements.beat(self._keys, info, cards), "beat")
        if waiting is not None:
            self._reached_at_s = health.now_s()
        self.tell(reason)
        return waiting

    def tell(self, reason: str = "") -> None:
        """Write the health file, if one is configured."""
        if self._settings.health_file is None:
            return
        now_s = health.now_s()
        report = Health(
            pid=os.getpid(), state=self._state, beat_at_s=now_s, reached_at_s=self._reached_at_s, reason=reason
        )
        try:
            health.write(self._settings.health_file, report)
        except OSError as error:
            message = "%s cannot be written: %s; set EMBEDMILL_HEALTH_FILE to a file that you may write"
            log.warning(message, self._settings.health_file, error.strerror, extra={"action": "health"})

    def start_sweeping(self) -> None:
        """Start looking for lost work in the background."""
        policy = self._settings.policy
        self._sweeper.start(Reconciler(self._keys, self._worker_id, max_flight=policy.max_flight))

    def pause_sweeping(self) -> None:
        """Leave lost work to others until sweeping is started again."""
        self._sweeper.pause()

    def release(self, token: str, *, was_killed: bool) -> None:
        """Re-queue the chunk of a lost child. If Redis does not answer, the reconciler does it later.

        Args:
            token: id of the task that the child was processing.
            was_killed: whether a signal from outside ended it, not a crash or its time limit.
        """
        why = "lost" if was_killed else "crashed"
        if ref := self._quietly(claims.give_back_token(self._keys, token, why), "release"):
            how = "was killed" if was_killed else "died"
            log.warning(
                "child process %s while processing chunk %s; chunk re-queued", how, ref, extra={"action": "release"}
            )

    def stop_soon(self) -> None:
        """Have child processes end after the chunk that they work on."""
        self._flag[0] = 1

    def _is_stopping(self) -> bool:
        return self._is_spawned or self._flag[0] != 0  # a spawned child has a byte of its own

    def leave(self) -> None:
        """Delete the liveness key, so that nobody waits for it to expire."""
        self._state = health.STOPPING
        self.tell()
        self._quietly(announcements.leave(self._keys, self._worker_id), "leave")

    def work(self, bell: Bell) -> None:
        """Process the next chunk of the lane that has rung, in a child process."""
        processor = ChunkProcessor(
            link=self._link,
            keys=self._keys,
            worker_id=self._worker_id,
            keeps_texts=self._settings.keep_dead_texts,
            policy=self._settings.policy,
            queues=self._queues,
            is_stopping=self._is_stopping,
        )
        processor.work(bell, self._cached(self._engines.get(bell.model)))

    def engine(self, model: str | None) -> Embedder:
        """Return the engine of a served model; None: of the default model.

        Raises:
            KeyError: the model is not served.
        """
        return self._cached(self._engines.get(model or self._engines.default))

    def _cached(self, engine: Engine) -> Embedder:
        if self._cache is None or engine.card.tokens_per_s > TABLE_TOKENS_PER_S:
            return engine
        return CachedEngine(engine=engine, cache=self._cache, is_exact=self._settings.exact)

    def _patiently(self, make_flow: Callable[[], Flow[T]]) -> T:
        """Run a flow; wait as long as Redis takes to come up."""
        while True:
            try:
                return self._link.run(make_flow(), timeout_s=5.0)
            except (BrokerUnavailableError, KeyConflictError) as error:
                log.warning("%s; trying again", error, extra={"action": "wait_for_redis"})
                time.sleep(START_PAUSE_S)

    def _quietly(self, flow: Flow[T], action: str) -> T | None:
        try:
            return self._link.run(flow, timeout_s=BEAT_TIMEOUT_S, outage_s=0.0)
        except QueueError as error:
            log.warning("%s failed: %s", action, error, extra={"action": action})
            return None
