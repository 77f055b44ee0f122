"""Validation of Celery messages, which are rebuilt from their known fields, each of a known type. No I/O.

Anyone who can write to Redis can put anything into a queue. Celery and kombu decompress, decode and unpack a message
before they validate it, and an unexpected value ends the worker; so every message is validated here first.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

import msgpack
from kombu.exceptions import KombuError
from kombu.serialization import loads

from embedmill.canvas import EMBED_TASK
from embedmill.errors import MessageError
from embedmill.limits import MAX_MESSAGE_BYTES
from embedmill_worker.jobs.claims import is_token

#: Name of the task that a doorbell asks for.
CHUNK_TASK: Final = "embedmill.chunk"

#: Largest accepted time limit in seconds; a chunk's is far below.
_MAX_LIMIT_S: Final = 86_400

#: Maximum characters of an id, a queue's name or a date.
_MAX_NAME_CHARS: Final = 512

_JSON: Final = "application/json"
_MSGPACK: Final = "application/x-msgpack"

_NONE: Final = type(None)
_NAME: Final = (str, _NONE)
_NUMBER: Final = (int, _NONE)

#: Headers that are passed on: of a doorbell, and of an ordinary task.
_CHUNK_HEADERS: Final = {"task": (str,), "id": (str,), "root_id": _NAME}
_EMBED_HEADERS: Final = {
    **{"task": (str,), "id": (str,), "root_id": _NAME, "parent_id": _NAME, "group": _NAME, "group_index": _NUMBER},
    **{"retries": _NUMBER, "eta": _NAME, "expires": _NAME, "ignore_result": (bool, _NONE)},
}
_PROPERTIES: Final = {"correlation_id": _NAME, "reply_to": _NAME, "delivery_mode": _NUMBER, "delivery_tag": (str,)}
_DELIVERY: Final = {"exchange": _NAME, "routing_key": (str,)}

#: What may follow an ordinary task.
_CANVAS: Final = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}


def read_message(data: str | bytes) -> dict[str, Any]:
    """Return a message in the form that kombu expects.

    Raises:
        MessageError: it is not for a task of this worker, or holds values that no producer writes.
    """
    return _message(_parse(data))


def read_delivery(data: str | bytes) -> list[Any]:
    """Return an unacknowledged delivery: message, exchange, routing key.

    Raises:
        MessageError: it is not a valid delivery.
    """
    values = _parse(data)
    if not isinstance(values, list) or len(values) != 3:
        raise MessageError("it is not a delivery")
    _, exchange, routing_key = values
    where = _known({"exchange": exchange, "routing_key": routing_key}, _DELIVERY)
    return [_message(values[0]), where["exchange"] or "", where["routing_key"]]


def _parse(data: str | bytes) -> Any:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"it has {len(data)} bytes, limit {MAX_MESSAGE_BYTES}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"it is not JSON ({type(error).__name__})") from None


def _message(raw: Any) -> dict[str, Any]:
    headers, properties = _table(raw, "headers"), _table(raw, "properties")
    if headers.get("compression"):
        raise MessageError("it is compressed, and its full size is not known; send it uncompressed")
    is_chunk = headers.get("task") == CHUNK_TASK
    if not is_chunk and headers.get("task") != EMBED_TASK:
        raise MessageError(f"its task is neither {CHUNK_TASK} nor {EMBED_TASK}")
    known = _known(headers, _CHUNK_HEADERS if is_chunk else _EMBED_HEADERS)
    known["timelimit"] = _time_limits(headers.get("timelimit"))
    # Otherwise Celery would log the repr of the arguments, which holds texts.
    known |= {"argsrepr": "<args>", "kwargsrepr": "<options>"}
    encoding = properties.get("body_encoding")
    args, kwargs, embed = _body(raw, encoding)
    if is_chunk:
        _check_doorbell(known["id"], args, kwargs)
    else:
        _check_canvas(embed)
    return {
        "body": raw["body"],
        "content-type": raw["content-type"],
        "content-encoding": "utf-8" if raw["content-type"] == _JSON else "binary",
        "headers": known,
        "properties": {
            **_known(properties, _PROPERTIES),
            "priority": 0,
            "delivery_info": _known(_table(properties, "delivery_info"), _DELIVERY),
            **({"body_encoding": encoding} if encoding else {}),
        },
    }


def _table(raw: Any, name: str) -> dict[str, Any]:
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, dict):
        raise MessageError(f"it has no table of {name}")
    return value


def _known(values: dict[str, Any], types: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the known fields, with None for each that is missing."""
    known = {name: values.get(name) for name in types}
    for name, value in known.items():
        if type(value) not in types[name]:
            raise MessageError(f"its {name} is {type(value).__name__}")
        if isinstance(value, str) and not (len(value) <= _MAX_NAME_CHARS and value.isascii() and value.isprintable()):
            raise MessageError(f"its {name} is not printable ASCII of at most {_MAX_NAME_CHARS} characters")
        if isinstance(value, int) and not 0 <= value < 1 << 31:
            raise MessageError(f"its {name} is out of range")
    return known


def _time_limits(value: Any) -> list[float | None]:
    """Return the time limits [hard, soft] in seconds."""
    limits = [None, None] if value is None else value
    if not isinstance(limits, list) or len(limits) != 2:
        raise MessageError("its timelimit is not a pair")
    for limit in limits:
        if limit is not None and not (type(limit) in (int, float) and 0 < limit <= _MAX_LIMIT_S):
            raise MessageError(f"its timelimit holds a value that is not from 0 to {_MAX_LIMIT_S} seconds")
    return limits


def _body(raw: dict[str, Any], encoding: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Decode the body as Celery will; return arguments, keyword arguments and what follows it."""
    body, content_type = raw.get("body"), raw.get("content-type")
    if not isinstance(body, str) or encoding not in (None, "base64"):
        raise MessageError("its body is not text, or has an unknown encoding")
    if content_type not in (_JSON, _MSGPACK):
        raise MessageError(f"its content type is neither {_JSON} nor {_MSGPACK}; it is not decoded")
    try:
        plain = base64.b64decode(body, validate=True) if encoding else body.encode()
        if content_type == _MSGPACK:
            _check_lengths(plain)
        args, kwargs, embed = loads(plain, content_type, "utf-8", accept=[content_type])
    except (KombuError, ValueError, TypeError, RecursionError, binascii.Error, msgpack.UnpackException) as error:
        raise MessageError(f"its body cannot be read ({type(error).__name__})") from None
    if type(args) is not list or type(kwargs) is not dict or type(embed) not in (dict, _NONE):
        raise MessageError("its body does not hold arguments, keyword arguments and what follows the task")
    if not all(type(name) is str for name in kwargs):
        raise MessageError("its body has an argument whose name is not text")
    return args, kwargs, embed or {}


def _check_lengths(packed: bytes) -> None:
    """Check that msgpack holds as many items as its lists announce, without building any of them.

    Otherwise five bytes that announce 16 million items would allocate a list of that length, at each level of nesting.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_MESSAGE_BYTES)
    unpacker.feed(packed)
    unpacker.skip()


def _check_doorbell(token: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    if not is_token(token) or args or kwargs:
        raise MessageError("its id is not that of a doorbell, or it has arguments")


def _check_canvas(embed: dict[str, Any]) -> None:
    for name, kind in _CANVAS.items():
        value = embed.get(name)
        if value is None:
            continue
        steps = value if isinstance(value, list) else [value]
        if type(value) is not kind or not all(type(step) is dict for step in steps):
            raise MessageError(f"its {name} is not a {kind.__name__} of tasks")
