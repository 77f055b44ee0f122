"""The engines of the models that a worker serves."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from embedmill.model_spec import ModelSpec
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.loading import load
from embedmill_worker.engine.transformer.session import runtime
from embedmill_worker.models.fingerprint import Model
from embedmill_worker.models.precision import in_precision
from embedmill_worker.models.registry import resolve
from embedmill_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Engines:
    """Engines by model name, loaded in the main process before the fork, or on first use if children are spawned."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._loaded: dict[str, Engine] = {}

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._loaded.values())

    def load_all(self) -> None:
        """Load and warm every model, then freeze the heap so that children share it copy-on-write.

        Raises:
            ModelLoadError: a model cannot be served.
        """
        # Hashing files while ONNX Runtime is imported saves 0.1 s. The thread ends before the fork.
        with ThreadPoolExecutor(max_workers=1) as pool:
            verified = pool.submit(lambda: [self._resolve(spec) for spec in self._settings.models])
            runtime()
            for files in verified.result():
                self._load(files)
        gc.collect()
        gc.freeze()

    def get(self, name: str) -> Engine:
        """Return a model's engine; load it if this process has not loaded it.

        Raises:
            KeyError: the worker does not serve it.
            ModelLoadError: the model cannot be served.
        """
        if name not in self._loaded:
            self._load(self._resolve({spec.name: spec for spec in self._settings.models}[name]))
        return self._loaded[name]

    def _resolve(self, spec: ModelSpec) -> Model:
        found = resolve(spec, data_dir=self._settings.data_dir, precision=self._settings.precision)
        return in_precision(found, self._settings.precision, data_dir=self._settings.data_dir)

    def _load(self, files: Model) -> None:
        origin = f" from {files.revision}" if files.revision else ""
        log.info("loading %s%s", files.name, origin, extra={"action": "load_model"})
        self._loaded[files.name] = load(files, cache_dir=self._settings.data_dir / "probes", exact=self._settings.exact)

    @property
    def default(self) -> str:
        """Name of the model for requests that do not name one."""
        return self._settings.model_names[0]
