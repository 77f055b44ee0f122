"""docs/protocol.md: what a real server holds once its example is submitted, and once it is done."""

import json
import re

import msgpack

from embedmill.jobs import submission
from embedmill.jobs.submission import Admission
from support.protocol_page import BLOCKS, PAGE, hex_of, job


def test_the_example_lies_in_redis_as_the_page_says(bench):
    prepared = job()
    bench.run(submission.submit(bench.keys, prepared, Admission()))
    record = bench.redis.hgetall(bench.keys.job("example"))
    written = msgpack.unpackb(hex_of("record"), raw=True)
    assert {name: record[name] for name in written} == {
        name: value if isinstance(value, bytes) else str(value).encode() for name, value in written.items()
    }
    assert bench.redis.hgetall(bench.keys.texts("example")) == {b"0": hex_of("chunk")}
    assert bench.redis.get(f"{bench.keys.job('example')}:weights") == hex_of("weights")

    (doorbell,) = bench.redis.lrange(bench.keys.queue(prepared.model, "bulk"), 0, -1)
    ring = record[b"rings"].decode()
    shown = (
        BLOCKS["json doorbell"].replace("1764000000000001", ring).replace('"embedmill.all', f'"{bench.namespace}.all')
    )
    assert json.loads(doorbell) == json.loads(shown)


def test_the_page_names_every_field_that_the_scripts_add(bench):
    bench.submit(["one", "two"])
    while bench.work():
        pass
    added = set(bench.redis.hgetall(bench.keys.job("job"))) - set(msgpack.unpackb(hex_of("record"), raw=True))
    sentence = PAGE.partition("The scripts add ")[2].partition(", and make")[0]
    assert {name.decode() for name in added} <= set(re.findall(r"`(\w+)`", sentence))
