"""docs/protocol.md: what a real server holds once its example is submitted, and once it is done."""

import json
import re

from embedmill.jobs import submission
from embedmill.jobs.submission import Admission
from support.protocol_page import BLOCKS, PAGE, hex_of, job

#: Fields of the record whose bytes stand in hexadecimal.
IN_HEX = ("options", "rejected")


def test_the_example_lies_in_redis_as_the_page_says(bench):
    prepared = job()
    bench.run(submission.submit(bench.keys, prepared, Admission()))
    record = bench.redis.hgetall(bench.keys.job("example"))
    written = {
        name.encode(): bytes.fromhex(value) if name in IN_HEX else value.encode() for name, value in fields().items()
    }
    assert {name: record[name] for name in written} == written
    assert bench.redis.hgetall(bench.keys.texts("example")) == {b"0": hex_of("weights") + hex_of("chunk")}

    (doorbell,) = bench.redis.lrange(bench.keys.queue(prepared.model, "bulk"), 0, -1)
    token = json.loads(doorbell)["headers"]["id"]
    shown = BLOCKS["json doorbell"].replace("1764000000000001-1", token)
    assert json.loads(doorbell) == json.loads(shown.replace('"embedmill.v2.', f'"{bench.namespace}.v2.'))


def test_the_page_names_every_field_that_the_scripts_add(bench):
    bench.submit(["one", "two"])
    while bench.work():
        pass
    added = {name.decode() for name in bench.redis.hgetall(bench.keys.job("job"))} - set(fields())
    sentence = PAGE.partition("The scripts add ")[2].partition(", and make")[0]
    assert added <= set(re.findall(r"`(\w+)`", sentence))


def fields():
    """The example's record as the page shows it: field → value."""
    lines = (line.partition(" ") for line in BLOCKS["text record"].strip().splitlines())
    return {name: value for name, _, value in lines}
