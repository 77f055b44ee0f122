"""A hundred thousand jobs of two tenants wait: whatever a client or a worker asks, no script keeps Redis for long."""

import logging
import os
import time
from collections import defaultdict

import pytest

from embedmill.jobs import reading, submission
from embedmill.jobs.submission import Admission
from embedmill.protocol.records import JobState
from embedmill.protocol.scripts import NAMES, script
from embedmill.status import read_status
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.jobs.claims import Work
from embedmill_worker.jobs.reconciler import Reconciler

log = logging.getLogger(__name__)

N_JOBS = int(os.environ.get("EMBEDMILL_TEST_MANY_JOBS", "100000"))

#: Longest time that a script may take the server, in microseconds, and share of its calls that must be within it: what
#: a script does hardly varies, but the clock goes on while the machine does other work.
MOST_US, SHARE = 5_000, 0.9


@pytest.fixture
def own_bench(valkey_binary, make_bench, namespace):
    with EmbeddedValkey(persistent=False, maxmemory_bytes=4 << 30) as server:
        yield make_bench(server.url, namespace)


@pytest.mark.deep
def test_no_script_keeps_redis_longer_than_five_milliseconds(own_bench):
    bench = own_bench
    bench.announce(bench.card())
    bench.live(children=100)
    for n in range(N_JOBS):
        request = bench.prepare([f"{n:06d} " * 6] * (2 if n % 10 else 5), job_id=f"job{n}", tenant=f"t{n % 3}")
        bench.run(submission.submit(bench.keys, request, Admission(max_queued_tokens=0)))
    bench.redis.config_set("slowlog-max-len", 100_000)
    bench.redis.config_set("slowlog-log-slower-than", 20)  # the commands inside of scripts would fill it
    sweeper = Reconciler(bench.keys, "w")
    taken_s = {}
    for what, act in {
        "submit": lambda: bench.submit(["one more " * 6], job_id="more", tenant="t9"),
        "status": lambda: read_status(bench.settings),
        "sweep": lambda: bench.run(sweeper.sweep(), timeout_s=60),
        "cancel": lambda: bench.run(reading.end(bench.keys, f"job{N_JOBS // 2}", "cancel")),
        "claim and commit": bench.work,
    }.items():
        began_s = time.monotonic()
        act()
        taken_s[what] = time.monotonic() - began_s
    log.info("%s ms", {what: round(1000 * s, 1) for what, s in taken_s.items()})
    assert len(bench.doorbells()) <= 400
    served = [bench.work() for _ in range(60)]
    assert all(isinstance(claim, Work) for claim in served)
    assert "t9" in {claim.ref.tenant for claim in served}
    bench.redis.delete(bench.keys.turns("paper", "bulk"), bench.keys.held)
    for _ in range(2 + N_JOBS // 2_000):
        bench.live(children=100)
        bench.run(sweeper.sweep(), timeout_s=60)
    assert isinstance(bench.work(), Work)
    assert bench.status("more").state is JobState.DONE
    took_us = defaultdict(list)
    for entry in bench.redis.slowlog_get(100_000):
        words = entry["command"].split()
        if words[0] == b"EVALSHA":
            took_us[words[1].decode()].append(entry["duration"])
    assert len(took_us) > 8
    for name in NAMES:
        if durations := sorted(took_us[script(name).sha]):
            usual, longest = durations[int(SHARE * (len(durations) - 1))], durations[-1]
            log.info("%s: %d calls, 90 %% within %d µs, longest %d µs", name, len(durations), usual, longest)
            assert usual <= MOST_US, name
