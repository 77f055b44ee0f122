"""Ids of jobs: a caller's own, and the one in Redis, which the caller's owner stands before. No I/O."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from embedmill_worker.gateway.access import Caller
from embedmill_worker.gateway.refusals import Kind, RefusedError

#: Ids that callers may give their jobs: as of any job, with room for the owner before it.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: Hexadecimal digits of an owner, which stand before the caller's id in the id of a job.
_OWNER_DIGITS: Final = 16
_PREFIX: Final = re.compile(rf"gw-[0-9a-f]{{{_OWNER_DIGITS}}}-")


def check_id(value: str, param: str) -> str:
    """Return a caller's id of a job.

    Raises:
        RefusedError: no job can have it.
    """
    if not is_id(value):
        reason = f"{param} must have 1 to 100 letters, digits, dots, dashes or underscores, the first no punctuation"
        raise RefusedError(Kind.INVALID, reason, param=param)
    return value


def is_id(value: str) -> bool:
    """Return whether a caller's job can have this id."""
    return _ID.fullmatch(value) is not None


def owner_of(caller: Caller) -> str:
    """Return what stands for a caller in ids and keys. It has one length, so no id can reach into another's."""
    return hashlib.sha256(caller.name.encode()).hexdigest()[:_OWNER_DIGITS]


def internal_id(owner: str, job_id: str) -> str:
    """Return the id of a job in Redis."""
    return f"gw-{owner}-{job_id}"


def external_id(job_id: str) -> str:
    """Return the caller's id of a job in Redis."""
    return _PREFIX.sub("", job_id, count=1)


def owner_in(job_id: str) -> str:
    """Return the owner of a job by its id in Redis."""
    return job_id[len("gw-") :][:_OWNER_DIGITS]
