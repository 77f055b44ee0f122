"""Starts the gateway: settings, logs and the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embedmill.errors import SettingsError
from embedmill.model_spec import ModelSpec
from embedmill.settings import data_dir
from embedmill.whereabouts import Whereabouts
from embedmill_worker.batches.scheduler import BatchScheduler, open_store
from embedmill_worker.batches.store import FileStore
from embedmill_worker.gateway import server
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.service import EmbeddingService
from embedmill_worker.gateway.settings import GatewaySettings


def run(environ: Mapping[str, str], *, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: a value that cannot work, or an address where it cannot listen.
    """
    logging.basicConfig(level=log_level, format="[%(asctime)s: %(levelname)s/gateway] %(message)s")
    for library in ("uvicorn", "httpx", "httpcore"):  # httpx would log the URLs of webhooks
        logging.getLogger(library).setLevel(logging.WARNING)
    settings = GatewaySettings.from_env(environ)
    folder = data_dir(environ)
    detokenizer = Detokenizer(folder, read_specs(environ))
    store = open_store(_files_dir(environ, folder) / settings.client.namespace) if settings.port else None
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, detokenizer, store))
    except* SettingsError as group:
        raise group.exceptions[0] from None
    finally:
        if store is not None:
            store.close()


async def _serve(settings: GatewaySettings, detokenizer: Detokenizer, store: FileStore | None) -> None:
    metrics = Metrics()
    service = EmbeddingService(settings, metrics)
    scheduler = BatchScheduler(store, service, detokenizer) if store is not None else None
    await server.serve(service, metrics, detokenizer, store, scheduler)


def _files_dir(environ: Mapping[str, str], data: Path) -> Path:
    given = environ.get("EMBEDMILL_FILES_DIR")
    return Path(given) if given else data / "files"


def _loop_factory() -> Callable[[], Any] | None:
    try:
        import uvloop  # noqa: PLC0415  there is none for every platform
    except ModuleNotFoundError:
        return None
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


def read_specs(environ: Mapping[str, str]) -> dict[str, ModelSpec]:
    """Return the models whose place this machine knows: those of the environment, and of a running ``up``."""
    running = Whereabouts.read(data_dir(environ))
    values = [*(running.models if running else ()), *filter(None, environ.get("EMBEDMILL_MODEL", "").split(","))]
    return {spec.name: spec for spec in map(ModelSpec.parse, values)}
