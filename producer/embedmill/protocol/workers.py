"""The entry of a worker, which it writes to its liveness key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from embedmill.errors import MessageError
from embedmill.limits import MAX_WORKER_CHILDREN, MAX_WORKER_MODELS
from embedmill.protocol.codec import check_entry_size, is_label


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A live worker: a Celery main process and its child processes."""

    #: Id of this start of the process, so that the claims of a dead worker are never taken for those of a new one.
    worker_id: str
    #: Celery's node name.
    name: str
    pid: int
    host: str
    #: ``ready`` or ``stopping``.
    state: str
    children: int
    #: Model name → fingerprint.
    models: Mapping[str, str]
    #: Ids of the running Celery tasks; a claim of this worker with another id has lost its process.
    active: tuple[str, ...] = field(default=())
    #: Protocol version of the records that the worker reads and writes; the first workers wrote no version.
    protocol: int = 1

    def to_json(self) -> str:
        """Return the entry as JSON, as the worker writes it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str | bytes) -> WorkerInfo:
        """Read an entry; fields of newer workers are ignored.

        Raises:
            MessageError: the data is not a worker's entry.
        """
        check_entry_size(data)
        try:
            values = json.loads(data)
            known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
            known["active"] = tuple(known.get("active", ()))
            worker = cls(**known)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise MessageError(f"unreadable worker entry ({type(error).__name__})") from None
        strings = (worker.worker_id, worker.name, worker.host, worker.state, *worker.active)
        numbers = (worker.pid, worker.children, worker.protocol)
        if not (
            all(is_label(value) for value in strings)
            and all(type(value) is int and 0 <= value < 1 << 31 for value in numbers)
            and max(worker.children, len(worker.active)) <= MAX_WORKER_CHILDREN
            and isinstance(worker.models, dict)
            and len(worker.models) <= MAX_WORKER_MODELS
            and all(is_label(value) for pair in worker.models.items() for value in pair)
        ):
            raise MessageError("unreadable worker entry: a field has a value that no worker writes")
        return worker
