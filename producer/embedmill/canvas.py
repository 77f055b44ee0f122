"""embedmill in a Celery canvas: the task ``embedmill.embed`` as a signature, and its result as an array.

    chain(extract.s(), embedmill.signature(dtype="float16")).apply_async()

The caller's own app publishes it, on the Redis that the workers use and without a ``global_keyprefix``; to read the
result it accepts msgpack (``result_accept_content=["json", "msgpack"]``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.jobs.assembly import part_of
from embedmill.jobs.request import check_texts
from embedmill.limits import MAX_CHUNK_TEXTS
from embedmill.model_spec import check_model_name
from embedmill.protocol.chunks import unpack_rejected
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions, InputType
from embedmill.protocol.vectors import Dtype, DtypeName, Vectors
from embedmill.reply import Rejected, ReplyPart
from embedmill.settings import DEFAULT_REDIS_URL, ClientSettings

if TYPE_CHECKING:
    from celery.canvas import Signature

#: The Celery task that takes texts and gives vectors.
EMBED_TASK: Final = "embedmill.embed"


class _Texts(list[str]):
    """Texts whose repr counts them. Celery's copies keep it, so no repr of a signature or a chain shows a text."""

    def __repr__(self) -> str:
        return f"<{len(self)} texts>"


def signature(
    texts: Sequence[str] | None = None,
    *,
    model: str | None = None,
    input_type: InputType | None = None,
    dimensions: int | None = None,
    dtype: DtypeName = "float32",
    truncate: bool = True,
    namespace: str | None = None,
) -> Signature[Any]:
    """Make a signature of ``embedmill.embed`` that shows no text in its repr or in its message's headers.

    Args:
        texts: at most one chunk's cost of them; None: the result of the task before it in a chain.
        model: name; None: the worker's default.
        input_type: see ``EmbeddingClient.embed``, as are the next three.
        dimensions: see ``EmbeddingClient.embed``.
        dtype: see ``EmbeddingClient.embed``.
        truncate: see ``EmbeddingClient.embed``.
        namespace: None: ``EMBEDMILL_NAMESPACE``, else ``embedmill``.

    Raises:
        RequestError: texts or options that cannot be served.
        SettingsError: a name that cannot be one.
    """
    options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
    args = () if texts is None else (_Texts(check_texts(texts)),)
    asked = {
        "model": None if model is None else check_model_name(model),
        "input_type": options.input_type,
        "dimensions": options.dimensions,
        "dtype": str(options.dtype),
        "truncate": options.truncate,
    }
    # The caller's Celery knows its broker: what an `embedmill up` of this machine says is not meant.
    settings = ClientSettings.from_env(DEFAULT_REDIS_URL, namespace=namespace)
    from celery.canvas import Signature  # noqa: PLC0415  takes longer to import than all else here

    return Signature(
        EMBED_TASK,
        args=args,
        kwargs={name: value for name, value in asked.items() if value is not None},
        options={
            "queue": Keyspace(settings.namespace).embed_queue,
            "argsrepr": repr(*args) if args else "<texts>",
            "kwargsrepr": "<options>",
        },
    )


def vectors_of(result: Mapping[str, Any]) -> Vectors:
    """Return the vectors in a result of ``embedmill.embed``, (n, columns); rows of rejected texts are NaN or zeros.

    Raises:
        MessageError: it is no such result.
    """
    return _part_of(result).vectors


def rejected_of(result: Mapping[str, Any]) -> tuple[Rejected, ...]:
    """Return the texts without a vector in a result of ``embedmill.embed``, by position.

    Raises:
        MessageError: it is no such result.
    """
    return tuple(sorted(_part_of(result).rejected, key=lambda rejected: rejected.index))


def _part_of(result: Mapping[str, Any]) -> ReplyPart:
    try:
        data, (count, columns), dtype = result["vectors"], result["shape"], Dtype.parse(result["dtype"])
        rows = np.frombuffer(data, dtype=dtype.numpy).reshape(count, columns)
        rejected = unpack_rejected(result.get("rejected", []))
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRequestError, MessageError) as error:
        raise MessageError(f"not a result of {EMBED_TASK} ({type(error).__name__})") from None
    if len(rows) > MAX_CHUNK_TEXTS or any(one.index >= len(rows) for one in rejected):
        raise MessageError(f"not a result of {EMBED_TASK} (it holds {len(rows)} rows, or rejects a text beyond them)")
    return part_of(np.arange(len(rows), dtype=np.uint32), rows, rejected)
