"""The outbox in Redis: jobs by when a gateway next looks at them. Several gateways share it.

A claim moves a job's time forward by a lease, in one step. If the gateway that claimed it dies, the time comes, and
another one claims it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from embedmill.protocol.keys import Keyspace
from embedmill.transport.flow import Command, Flow, RoundTrip

#: Seconds that a claim holds; longer than one attempt takes.
LEASE_S: Final = 30.0

#: KEYS: outbox. ARGV: most jobs, lease in ms. Returns the ids of jobs that are due, the one that waits longest first.
_CLAIM: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], id) end
return due
"""


def claim(keys: Keyspace, limit: int, lease_s: float = LEASE_S) -> Flow[list[str]]:
    """Claim up to ``limit`` jobs that are due, for ``lease_s``."""
    (due,) = yield RoundTrip([("EVAL", _CLAIM, 1, keys.outbox, limit, round(lease_s * 1000))])
    return [job_id.decode("ascii", "replace") for job_id in due]


def postpone(keys: Keyspace, pauses_s: Mapping[str, float]) -> Flow[None]:
    """Look at jobs again after a pause; jobs that have left the outbox stay away."""
    ((seconds, micros),) = yield RoundTrip([("TIME",)])
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    commands: list[Command] = [
        ("ZADD", keys.outbox, "XX", now_ms + round(pause_s * 1000), job_id) for job_id, pause_s in pauses_s.items()
    ]
    if commands:
        yield RoundTrip(commands)


def remove(keys: Keyspace, job_id: str) -> Flow[Any]:
    """Forget a job: nothing is to be sent for it any more."""
    yield RoundTrip([("ZREM", keys.outbox, job_id)])
