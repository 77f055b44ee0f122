"""embedmill in a Celery canvas: the task ``embedmill.embed`` as a signature, and its result as arrays.

    chain(extract.s(), embedmill.signature(dtype="float16")).apply_async()

The caller's own Celery app publishes the task. Its broker must be the Redis that the workers use, without a
``global_keyprefix``. To read results, the app must accept msgpack (``result_accept_content=["json", "msgpack"]``).
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

#: Name of the Celery task that embeds texts.
EMBED_TASK: Final = "embedmill.embed"


class _Texts(list[str]):
    """A list whose repr shows the number of texts. Celery's copies keep it, so no repr of a chain shows a text."""

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
    """Make a signature of ``embedmill.embed``. No text shows in its repr or in the headers of its message.

    Args:
        texts: no more than one chunk holds; None: the result of the previous task in a chain.
        model: the model's name; None: the worker's default model.
        input_type: see ``EmbeddingClient.embed``.
        dimensions: see ``EmbeddingClient.embed``.
        dtype: see ``EmbeddingClient.embed``.
        truncate: see ``EmbeddingClient.embed``.
        namespace: prefix of the queue; None: ``EMBEDMILL_NAMESPACE``, else ``embedmill``.

    Returns:
        A signature whose result ``vectors_of`` and ``rejected_of`` read.

    Raises:
        RequestError: the texts or options cannot be served.
        SettingsError: the model or the namespace is not a valid name.
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
    # Only the namespace is used; passing a URL keeps from_env from taking those of an `embedmill up` on this machine.
    settings = ClientSettings.from_env(DEFAULT_REDIS_URL, namespace=namespace)
    from celery.canvas import Signature  # noqa: PLC0415  slower to import than everything else here

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
    """Return the vectors in a result of ``embedmill.embed``, (n, columns).

    Rows of rejected texts are NaN, or zeros for integer and binary dtypes.

    Raises:
        MessageError: ``result`` is not a result of ``embedmill.embed``.
    """
    return _part_of(result).vectors


def rejected_of(result: Mapping[str, Any]) -> tuple[Rejected, ...]:
    """Return the texts without a vector in a result of ``embedmill.embed``, sorted by position.

    Raises:
        MessageError: ``result`` is not a result of ``embedmill.embed``.
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
