"""The worker's settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from embedmill.errors import SettingsError
from embedmill.limits import MAX_WORKER_MODELS
from embedmill.model_spec import ModelSpec
from embedmill.safe.printable import printable
from embedmill.settings import ClientSettings, data_dir, default_data_dir, is_tenant, naming, whole_number
from embedmill.urls import mask_url
from embedmill_worker.environment import is_on
from embedmill_worker.health import HEALTH_FILE_ENV
from embedmill_worker.jobs.claims import Policy

#: Model served if ``EMBEDMILL_MODEL`` is not set; it comes as a data wheel and needs no model hub.
DEFAULT_MODEL: Final = "all-MiniLM-L6-v2"

#: Seconds that a stopping worker has to finish its running tasks; longer than any task's time limit.
DEFAULT_GRACE_S: Final = 80.0

PRECISIONS: Final = ("fp32", "bf16", "int8")

#: Field → environment variable that an error about the field names.
_VARIABLES: Final = {
    "namespace": "EMBEDMILL_NAMESPACE",
    "model": "EMBEDMILL_MODEL",
    "models": "EMBEDMILL_MODEL",
    "precision": "EMBEDMILL_PRECISION",
    "concurrency": "EMBEDMILL_CONCURRENCY",
    "cache_url": "EMBEDMILL_CACHE_URL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker: what it serves, and how."""

    redis_url: str
    namespace: str
    #: The first is the default model.
    models: tuple[ModelSpec, ...] = (ModelSpec(name=DEFAULT_MODEL, place=DEFAULT_MODEL),)
    #: Precision to run models in: fp32, bf16 or int8. Empty keeps that of a model's files: fp32 for named models.
    precision: str = ""
    #: Run models that are not batch-invariant (bf16) one text at a time, so that every bit is reproducible.
    exact: bool = False
    #: Child processes; 0: one per CPU that this process may use.
    concurrency: int = 0
    #: Folder of models and measurements.
    data_dir: Path = field(default_factory=lambda: default_data_dir(os.environ))
    #: Serve even if live workers serve another fingerprint under the same model name.
    rollover: bool = False
    #: Store texts in dead letters, where everyone with access to this Redis can read them for 30 days.
    keep_dead_texts: bool = False
    #: Redis URL of the embedding cache; empty: no cache.
    cache_url: str = ""
    #: File that the worker's health is written to; None: no file.
    health_file: Path | None = None
    #: Seconds from SIGTERM until tasks that still run are left to other workers.
    grace_s: float = DEFAULT_GRACE_S
    #: How lanes are shared between tenants.
    policy: Policy = field(default_factory=Policy)
    #: Name of the setting that the Redis URL came from, for errors.
    url_name: str = field(default="redis_url", compare=False)

    def __post_init__(self) -> None:
        ClientSettings(redis_url=self.redis_url, url_name=self.url_name, namespace=self.namespace)
        if self.cache_url:
            ClientSettings(redis_url=self.cache_url, url_name="cache_url")
        if not self.models:
            raise SettingsError("models", "''", f"name at least one model, as in {DEFAULT_MODEL}")
        if len(self.models) > MAX_WORKER_MODELS:
            reason = f"one worker serves at most {MAX_WORKER_MODELS}; start several"
            raise SettingsError("models", f"{len(self.models)} models", reason)
        if self.precision not in ("", *PRECISIONS):
            raise SettingsError("precision", self.precision, f"it is not one of {', '.join(PRECISIONS)}")
        if self.concurrency < 0:
            raise SettingsError("concurrency", str(self.concurrency), "give a number from 1, or auto")

    def __repr__(self) -> str:
        url = mask_url(self.redis_url)
        return f"WorkerSettings(redis_url={url!r}, namespace={self.namespace!r}, models={self.model_names})"

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names under which the models are served."""
        return tuple(model.name for model in self.models)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> WorkerSettings:
        """Read the ``EMBEDMILL_…`` variables.

        Raises:
            SettingsError: a value is invalid.
        """
        env = os.environ if environ is None else environ
        client = ClientSettings.from_env(environ=env)
        with naming(_VARIABLES):
            return cls(
                redis_url=client.redis_url,
                url_name=client.url_name,
                namespace=client.namespace,
                models=ModelSpec.parse_all(env.get("EMBEDMILL_MODEL", "")) or ModelSpec.parse_all(DEFAULT_MODEL),
                precision=env.get("EMBEDMILL_PRECISION", ""),
                exact=is_on(env.get("EMBEDMILL_EXACT", "")),
                concurrency=_concurrency(env.get("EMBEDMILL_CONCURRENCY") or "auto"),
                data_dir=data_dir(env),
                rollover=is_on(env.get("EMBEDMILL_ROLLOVER", "")),
                keep_dead_texts=is_on(env.get("EMBEDMILL_KEEP_DEAD_TEXTS", "")),
                cache_url=env.get("EMBEDMILL_CACHE_URL", ""),
                health_file=Path(env[HEALTH_FILE_ENV]) if env.get(HEALTH_FILE_ENV) else None,
                policy=Policy(
                    weights=_weights(env.get("EMBEDMILL_TENANT_WEIGHTS", "")),
                    max_flight=whole_number(env, "EMBEDMILL_TENANT_CAP", 0),
                ),
                grace_s=float(whole_number(env, "EMBEDMILL_GRACE_S", int(DEFAULT_GRACE_S))),
            )


def _weights(value: str) -> dict[str, float]:
    """Read ``tenant=weight``, by comma."""
    weights = {}
    for pair in filter(None, value.replace(" ", "").split(",")):
        tenant, _, weight = pair.partition("=")
        if not is_tenant(tenant) or not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", weight) or float(weight) <= 0:
            reason = "give tenants and their weights by comma, as in gold=3,free=0.5"
            raise SettingsError("EMBEDMILL_TENANT_WEIGHTS", printable(value), reason)
        weights[tenant] = float(weight)
    return weights


def _concurrency(value: str) -> int:
    if value == "auto":
        return 0
    if not value.isdecimal() or int(value) < 1:
        raise SettingsError("EMBEDMILL_CONCURRENCY", value, "give a number from 1, or auto")
    return int(value)
