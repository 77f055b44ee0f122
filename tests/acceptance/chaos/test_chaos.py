"""Everything strikes at once, in an order drawn from a seed, while work of both lanes is in flight.

What is held to the end: every job completes, every vector has the bits of an undisturbed run, nothing is rejected,
all counters are 0, every key of a job has a time to live, no delivery is left unacknowledged, no worker ended by
itself. Producers are those of a real system: they hold their texts until they have vectors, and submit the same job
again, under the same id, whenever Redis says that it is away or does not know the job any more. That is needed for
one fault alone: a killed Redis forgets what it had not yet written to its file.

The order of faults and everything that is drawn comes from the seed; the moments do not, as they depend on the machine.
"""

import logging
import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill_worker.cli.local.server import BINARY_VARIABLE
from embedmill_worker.cli.measure import corpus
from support.chaos import checks
from support.chaos.faults import MODEL, Faults
from support.chaos.load import Pool, Producers
from support.chaos.proxy import Proxy
from support.clock import Clock
from support.servers import plain_redis

log = logging.getLogger("chaos")

#: Faults of the short form.
SHORT = (
    "kill child",
    "stop child",
    "kill connections",
    "drop connections",
    "kill worker",
    "freeze Redis",
    "spoil counters",
    "empty Redis",
    "kill Redis",
)

#: How often each fault strikes in the long form. Many are cheap; what restarts or freezes something is slow.
LONG = {
    "kill child": 35,
    "stop child": 25,
    "kill connections": 40,
    "drop connections": 30,
    "delay traffic": 15,
    "kill worker": 10,
    "stop worker": 10,
    "freeze worker": 10,
    "freeze child": 10,
    "kill Redis": 12,
    "freeze Redis": 12,
    "swallow traffic": 12,
    "spoil counters": 12,
    "empty Redis": 10,
    "step clock": 12,
}

#: Seconds that the long form takes at least; its faults are spread over them.
LONG_S = 600.0


@pytest.fixture
def proxy(own_valkey):
    made = Proxy(own_valkey.socket)
    yield made
    made.close()


@pytest.fixture
def clock(valkey_binary, tmp_path, monkeypatch):
    """The wall clock of ``own_valkey``, if that is asked for after it; None where no C compiler is."""
    try:
        made = Clock(valkey_binary, tmp_path)
    except OSError:
        return None
    monkeypatch.setenv(BINARY_VARIABLE, str(made.program))
    return made


@pytest.fixture
def record(tmp_path):
    """A log of every fault: a file that may be kept, named by EMBEDMILL_TEST_CHAOS_LOG."""
    path = Path(os.environ.get("EMBEDMILL_TEST_CHAOS_LOG") or tmp_path / "chaos.log")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)
    handler.close()


def undisturbed(mill, texts: list[str]) -> Pool:
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        return Pool(texts=texts, vectors=client.embed(texts, lane="bulk", timeout_s=600))


def strike(
    mill, valkey, proxy, clock, record, *, plan: list[str], seed: int, seconds: float, pool_texts: int, bulk_texts: int
):
    """Runs the plan while producers work, then checks what is left."""
    rng = random.Random(seed)
    rng.shuffle(plan)
    for url in (proxy.url, proxy.url, valkey.url):  # one worker past the proxy, so that not all stand still with it
        mill.start_worker(ready=False, EMBEDMILL_REDIS_URL=url)
    for worker in mill.workers:
        worker.wait_ready()
    pool = undisturbed(mill, corpus.mixed(pool_texts, seed=seed))
    assert np.isfinite(pool.vectors).all()
    record.info("seed %d: %d faults in at least %.0f s, %d texts to draw from", seed, len(plan), seconds, pool_texts)

    faults = Faults(mill, valkey, proxy, rng, clock)
    producers = Producers(proxy.url, mill.namespace, MODEL, pool, seed, bulk_texts)
    producers.start()
    struck: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for n, kind in enumerate(plan):
            whom, in_flight = faults.strike(kind)
            struck[kind] += 1
            record.info("%3d/%d %-17s %-60s in flight: %s", n + 1, len(plan), kind, whom, in_flight)
            assert not producers.tally.failures, producers.tally.failures
            assert not (ended := checks.unexpected_ends(mill, faults.ended)), ended
            due = began + seconds * (n + 1) / len(plan)
            time.sleep(max(0.0, min(due - time.monotonic(), 10.0)) + rng.uniform(0, 0.1))
    finally:
        faults.settle()
        producers.stop()
    took = time.monotonic() - began

    with plain_redis(valkey.url) as server:
        left = checks.leftovers(server, mill.namespace, MODEL)
    record.info("struck in %.0f s, %d in all: %s", took, struck.total(), dict(sorted(struck.items())))
    record.info("done: %s", dict(sorted(producers.tally.counts.items())))
    record.info("failures %s, left over %s", producers.tally.failures or "none", left or "nothing")
    assert producers.tally.failures == []
    assert left == []
    assert checks.unexpected_ends(mill, faults.ended) == []
    assert checks.zombies(mill) == []
    assert producers.tally.counts["bulk jobs"] > 0
    assert producers.tally.counts["interactive jobs"] > 0
    assert producers.tally.counts["asyncio jobs"] > 0
    return struck


def test_nothing_is_lost_and_no_bit_changes_whatever_strikes(clock, durable_mill, own_valkey, proxy, record):
    plan = [*SHORT, *(["step clock"] if clock else [])]
    struck = strike(
        durable_mill, own_valkey, proxy, clock, record, plan=plan, seed=5, seconds=0, pool_texts=300, bulk_texts=300
    )
    assert struck == Counter(plan)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [int(s) for s in os.environ.get("EMBEDMILL_TEST_CHAOS_SEEDS", "1,2,3").split(",")])
def test_ten_minutes_of_everything_lose_nothing(clock, durable_mill, own_valkey, proxy, record, seed):
    share = float(os.environ.get("EMBEDMILL_TEST_CHAOS_SHARE", "1"))  # of the long form, for a quick look
    kinds = {kind: count for kind, count in LONG.items() if clock or kind != "step clock"}
    plan = [kind for kind, count in kinds.items() for _ in range(max(1, round(count * share)))]
    seconds = LONG_S * share
    struck = strike(
        durable_mill,
        own_valkey,
        proxy,
        clock,
        record,
        plan=plan,
        seed=seed,
        seconds=seconds,
        pool_texts=1500,
        bulk_texts=1200,
    )
    if share >= 1:
        assert struck.total() >= 200
        assert set(struck) == set(kinds)
        assert min(struck.values()) >= 10
