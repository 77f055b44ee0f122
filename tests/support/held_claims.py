"""Which processes have claimed which chunks."""

from dataclasses import dataclass

import psutil
import redis

from embedmill import Job
from embedmill.protocol.keys import Keyspace


@dataclass(frozen=True)
class Held:
    """A claim as it stands in Redis."""

    worker_pid: int
    child_pid: int
    chunk: str
    token: str


def held_claims(server: redis.Redis, keys: Keyspace, job: Job) -> list[Held]:
    """The claims of processes that are alive."""
    found = []
    for token, entry in server.hgetall(keys.held).items():
        if token.endswith(b":at"):
            continue
        job_id, chunk, _, _, _, worker, pid, *_ = entry.decode().split(" ")
        if job_id != job.id:
            continue
        held = Held(int(worker.split(".")[-2]), int(pid), chunk, token.decode())
        if is_alive(held.child_pid) and is_alive(held.worker_pid):
            found.append(held)
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
