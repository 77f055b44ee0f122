"""The Celery app. All of Celery's settings are made here, so that it needs no flags."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from celery import Celery, signals
from celery.apps.worker import Worker
from kombu import Exchange, Queue

from embedmill.canvas import EMBED_TASK
from embedmill.errors import EmbedError
from embedmill.protocol.keys import LANES, Keyspace
from embedmill.settings import ClientSettings
from embedmill.transport.sync import RedisTransport
from embedmill_worker import exit_codes
from embedmill_worker.celery_patches import message_guard
from embedmill_worker.celery_patches.messages import CHUNK_TASK
from embedmill_worker.celery_patches.pool import mend_shared_memory, mend_transport
from embedmill_worker.cpu import usable_cpus
from embedmill_worker.engine.engines import Engines
from embedmill_worker.jobs import embed_task
from embedmill_worker.jobs.claims import Bell
from embedmill_worker.service.broker import broker_settings
from embedmill_worker.service.liveness import Liveness, PatientConsumer, end_after_grace
from embedmill_worker.service.node import Node
from embedmill_worker.service.sweeper import RestingLink, Sweeper
from embedmill_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Seconds after which an unacknowledged message of ``embedmill.embed`` is redelivered; far above its time limit.
VISIBILITY_TIMEOUT_S: Final = 300

#: Time limit of one ``embedmill.embed`` in seconds: a chunk's minimum limit plus 20 times a chunk's expected time.
EMBED_TIME_LIMIT_S: Final = 60


class QuietWorker(Worker):
    """Celery's worker without mingle and gossip, which cost a second at start and leak queues, and without events."""

    def on_after_init(self, *args: Any, **options: Any) -> None:
        """Set up logging before the models are loaded, so that a first start of several minutes shows its progress."""
        super().on_after_init(*args, **options)
        self.setup_logging()

    def __init__(self, *args: Any, **options: Any) -> None:
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        super().__init__(*args, **{**options, **quiet})


class EmbedmillCelery(Celery):
    """A Celery app with the worker's ``node``; its ``worker`` command starts a ``QuietWorker``."""

    node: Node

    @cached_property
    def Worker(self) -> Any:
        """The class that Celery's command line starts."""
        return self.subclass_with_self(QuietWorker)


def build(settings: WorkerSettings) -> Celery:
    """Build the app without connecting or loading models; that happens when a worker starts."""
    keys = Keyspace(settings.namespace)
    app = EmbedmillCelery("embedmill", set_as_current=False)
    app.conf.update(configuration(settings, keys))
    lane_of = {keys.queue(m, lane): (m, lane) for m in settings.model_names for lane in LANES}
    sweeper = Sweeper(RestingLink(client_settings(settings)))
    node = Node(settings, Engines(settings), keys, RedisTransport(client_settings(settings)), sweeper)
    app.node = node
    app.steps["consumer"].add(Liveness)
    app.conf.worker_consumer = PatientConsumer

    @app.task(name=CHUNK_TASK, shared=False, bind=True, ignore_result=True, acks_late=False, max_retries=0)
    def chunk(self: Any) -> None:
        queue = self.request.delivery_info["routing_key"]
        if queue not in lane_of:
            log.warning(
                "task %s is for queue %s, which this worker does not serve; task dropped",
                self.request.id,
                queue,
                extra={"action": "no_lane"},
            )
            return
        model, lane = lane_of[queue]
        node.work(Bell(model=model, lane=lane, token=self.request.id))

    @app.task(name=EMBED_TASK, shared=False, acks_late=True, time_limit=EMBED_TIME_LIMIT_S, resultrepr_maxsize=64)
    def embed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        # Bound here, not by Python: its TypeError would quote a text that was passed as an argument's name.
        call = embed_task.read_call(args, kwargs, settings.model_names)
        return embed_task.embed(node.engine(call.model), call)

    connect_signals(app, node)
    return app


def configuration(settings: WorkerSettings, keys: Keyspace) -> dict[str, Any]:
    """Return Celery's settings."""
    ns = settings.namespace
    lanes = [keys.queue(model, lane) for lane in LANES for model in settings.model_names]
    # A lost doorbell is made good by the next one, so Redis keeps no unacknowledged copy of it. A copy would cost
    # round trips, fail when Redis is full, and re-queue once more what a killed worker had taken.
    doorbells = [Queue(name, Exchange(ns), routing_key=name, no_ack=True) for name in lanes]
    tasks = Queue(keys.embed_queue, Exchange(ns), routing_key=keys.embed_queue)
    broker = broker_settings(settings.redis_url)
    return {
        **broker,
        "task_queues": [*doorbells, tasks],
        "task_default_queue": keys.embed_queue,
        # Tasks that follow embedmill.embed in a canvas use other queues, which are not configured here.
        "task_create_missing_queues": True,
        "task_serializer": "json",
        "result_serializer": "msgpack",
        "accept_content": ["json", "msgpack"],
        "result_accept_content": ["json", "msgpack"],
        "result_expires": 3_600,
        # Storing a result of embedmill.embed is retried while Redis restarts; otherwise the task would fail.
        "result_backend_always_retry": True,
        "result_backend_base_sleep_between_retries_ms": 100,
        "result_backend_max_sleep_between_retries_ms": 1_000,
        "result_backend_max_retries": 60,
        "result_extended": False,
        "task_track_started": False,
        "worker_pool": "embedmill_worker.celery_patches.pool:Prefork",
        "worker_concurrency": settings.concurrency or usable_cpus(),
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_send_task_events": False,
        # Anyone who can write to Redis could stop workers with it. ``embedmill status`` shows what they do.
        "worker_enable_remote_control": False,
        "worker_proc_alive_timeout": 120,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": True,
        "worker_redirect_stdouts": False,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A key of the wrong type in place of a queue is treated like a Redis outage: wait, do not exit.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            **broker["broker_transport_options"],
            "queue_order_strategy": "embedmill_worker.celery_patches.queue_order:LaneOrder",
            "priority_steps": [0],
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_key": keys.unacked,
            "unacked_index_key": f"{keys.unacked}_index",
            "unacked_mutex_key": f"{keys.unacked}_mutex",
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
        },
        # A user's own Celery on the same Redis shares no exchange with this one.
        "control_exchange": f"{ns}.control",
        "event_exchange": f"{ns}.events",
        "event_queue_prefix": f"{ns}.events",
        "task_default_exchange": ns,
        "task_default_routing_key": keys.embed_queue,
    }


def connect_signals(app: Celery, node: Node) -> None:
    """Connect the node to the worker's signals. The app holds the handlers, so they live as long as it does."""
    workers: list[Any] = []

    @_of_workers(app, signals.worker_init)
    def on_init(sender: Any, **_: Any) -> None:
        workers.append(sender)
        message_guard.mask_arguments()
        mend_transport()
        mend_shared_memory()
        start(node, sender.hostname)
        message_guard.guard(node.limits_s(), remote_control=app.conf.worker_enable_remote_control)

    @_of_workers(app, signals.worker_ready)
    def on_ready(sender: Any, **_: Any) -> None:
        node.log_models()

    @_of_workers(app, signals.task_failure)
    def on_failure(sender: Any, task_id: str = "", exception: Any = None, **_: Any) -> None:
        if type(exception).__name__ in LOST_CHILD:
            node.release(task_id, was_killed=was_killed(exception))

    @_of_workers(app, signals.worker_shutdown)
    def on_shutdown(sender: Any, **_: Any) -> None:
        node.leave()

    def on_stopping(sender: Any = None, **_: Any) -> None:  # the sender is a host name here
        for worker in workers:
            if worker.hostname == sender:
                node.stop_soon()
                end_after_grace(node, worker.pool)

    signals.worker_shutting_down.connect(on_stopping, weak=False)
    signals.after_setup_logger.connect(quieten, weak=False)


def _of_workers(app: Celery, signal: Any) -> Callable[[Callable[..., None]], None]:
    """Return a decorator that connects a handler to a signal of this app's workers, and of no other app's."""

    def connect(handler: Callable[..., None]) -> None:
        def handle(sender: Any = None, **values: Any) -> None:
            if sender is not None and sender.app is app:
                handler(sender, **values)

        signal.connect(handle, weak=False)

    return connect


#: Errors that Celery's main process reports for a lost child. Children report all other errors themselves.
LOST_CHILD: Final = ("WorkerLostError", "TimeLimitExceeded", "Terminated")

#: Signals from outside: from an operator, a supervisor or the kernel when memory runs out.
KILLS: Final = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SystemExit", "KeyboardInterrupt")


def was_killed(error: Any) -> bool:
    """Return whether billiard's error says that a child was killed from outside, rather than crashed or too slow."""
    name, message = type(error).__name__, str(error)
    return name == "Terminated" or (name == "WorkerLostError" and any(kill in message for kill in KILLS))


def start(node: Node, hostname: str) -> None:
    """Load the models and announce them, or exit with a code that says why not."""
    try:
        node.start(hostname)
    except EmbedError as error:
        log.critical("%s", error, extra={"action": "exit"})
        raise SystemExit(exit_codes.of(error)) from None
    except Exception as error:  # Celery would log it and go on, without a model
        log.critical("the worker cannot start: %s: %s", type(error).__name__, error, extra={"action": "exit"})
        raise SystemExit(exit_codes.FAILURE) from None


def quieten(**_: Any) -> None:
    """Turn off Celery's log lines per task, which are too costly at hundreds of chunks a second."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


def client_settings(settings: WorkerSettings) -> ClientSettings:
    """Return the settings that a Redis connection needs."""
    return ClientSettings(redis_url=settings.redis_url, url_name=settings.url_name, namespace=settings.namespace)
