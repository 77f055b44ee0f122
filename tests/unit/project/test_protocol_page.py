"""docs/protocol.md says what the code does: its bytes, its keys, its fields and the arguments of its scripts."""

import ast
import dataclasses
import json
import sys

import pytest

from embedmill.jobs import reading, submission
from embedmill.jobs.submission import Admission
from embedmill.protocol import dead_letter, version
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import pack_reply, unpack_chunk, unpack_reply, weigh_chunk
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import pack_options, unpack_options
from embedmill.protocol.scripts import NAMES, script, text_of
from embedmill.protocol.workers import WorkerInfo
from embedmill_worker.jobs import announcements, claims
from embedmill_worker.jobs.claims import Bell, ChunkRef, Claimant
from embedmill_worker.jobs.reconciler import Reconciler
from support.protocol_page import BLOCKS, CARD, OPTIONS, PAGE, REPLY, TEXTS, WORKER, hex_of, job, letter, table

KEYS = Keyspace("{ns}")
REF = ChunkRef(job_id="{id}", born="1", chunk=0, tenant="{tenant}", model="{model}", lane="{lane}", token="5-1")
CLAIMANT = Claimant(bell=Bell(model="m", lane="bulk", token="5-1"), worker_id="w", fingerprint="f")


def test_the_page_is_about_the_version_of_the_code():
    assert f"This page describes protocol version {version.PROTOCOL_VERSION}." in PAGE


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("options", pack_options(OPTIONS)),
        ("chunk", job().payloads[0]),
        ("weights", weigh_chunk(b"", *job().weights[0])),
        ("reply", pack_reply(REPLY)),
        ("letter", dead_letter.pack(letter())),
    ],
)
def test_the_example_s_bytes_are_those_that_the_code_writes(name, packed):
    assert hex_of(name) == packed


def test_the_example_s_bytes_are_read_by_the_code():
    assert unpack_options(hex_of("options")) == OPTIONS
    chunk = unpack_chunk(hex_of("chunk"))
    assert (list(chunk.texts), chunk.indices.tolist()) == (TEXTS, [0, 1])
    reply = unpack_reply(hex_of("reply"))
    assert (reply.vectors, reply.token_counts.tolist()) == (REPLY.vectors, [6, 4])
    assert (reply.fingerprint, reply.timings_ms) == (CARD.fingerprint, REPLY.timings_ms)
    assert dead_letter.unpack("", hex_of("letter")) == letter()


def test_the_example_s_digest_is_that_of_the_code():
    assert BLOCKS["text digest"].strip() == job().digest


def test_the_example_s_card_and_worker_are_read_and_written_by_the_code():
    assert ModelCard.from_json(BLOCKS["json card"]) == CARD
    assert json.loads(BLOCKS["json card"]) == json.loads(CARD.to_json())
    assert WorkerInfo.from_json(BLOCKS["json worker"]) == WORKER
    assert json.loads(BLOCKS["json worker"]) == json.loads(WORKER.to_json())


@pytest.mark.parametrize(("kind", "name"), [(ModelCard, "card"), (WorkerInfo, "worker")])
def test_every_field_of_what_workers_announce_is_explained(kind, name):
    rows = PAGE.partition(f"```json {name}\n")[2].partition("\n\n| field |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [field.name for field in dataclasses.fields(kind)]


def test_every_field_of_a_record_is_explained_and_in_the_example():
    named, flat = {row[0].strip("`") for row in table("## Submitting a job")}, job().record()
    assert named == set(flat[::2])
    fields = zip(flat[::2], flat[1::2], strict=True)
    shown = [f"{name} {value.hex() if isinstance(value, bytes) else value}".rstrip() for name, value in fields]
    assert BLOCKS["text record"].splitlines() == shown


def test_the_job_keys_stand_in_their_order():
    rows = table("## Names")
    shared, of_job = rows[:5], PAGE.partition("The **job keys**")[2].partition("\n\n|")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in of_job.splitlines()[2:]] == list(
        KEYS.of_job("{id}", "{model}", "{lane}", "{tenant}")
    )
    assert {row[0].strip("`") for row in shared} == {
        *(KEYS.models, KEYS.workers, KEYS.worker("{worker}"), KEYS.lanes, KEYS.dead)
    }


def asked(flow):
    """Drive a flow against a Redis that has one of everything; return the scripts that it called, with arguments."""
    calls = []
    answers = {
        "look": [[], [], []],
        "lock": 1,
        "survey": [b"", [0] * 5, [], [b"id", 1], 0],
        "mend": [-1, 0, 0],
        "HSCAN": [b"0", []],
        "HGET": b"id 0 1 1 1 w 7 m bulk ",
        "SMEMBERS": [b"{model} bulk"],
        "LLEN": 1,
        "ZRANGE": [],
    }
    try:
        step = next(flow)
        while True:
            replies = []
            for name, *rest in step.commands:
                if name == "EVALSHA":
                    calls.append((name := named(rest[0]), rest[1], rest[2:]))
                answers["HMGET"] = [b"{model}", b"bulk", b"", *[None] * 9][: len(rest) - 1]
                replies.append({"submit": b"submitted", "claim": [b"none"], **answers}.get(name, 0))
            step = flow.send(replies)
    except StopIteration:
        return calls


def named(sha):
    return next(name for name in NAMES if script(name).text == text_of(sha))


def one(command):
    assert command[0] == "EVALSHA"
    return [(named(command[1]), command[2], command[3:])]


def calls():
    """Every script as client and worker call it: name → its number of KEYS, its ARGV."""
    reconciler = Reconciler(KEYS, "w")
    found = [
        *asked(submission.submit(KEYS, job(), Admission())),
        *asked(reading.end(KEYS, "{id}", "cancel")),
        *asked(reading.end(KEYS, "{id}", "delete")),
        *asked(claims.claim(KEYS, CLAIMANT)),
        *asked(claims.commit_and_claim(KEYS, REF, b"", [b""], CLAIMANT)),
        *asked(claims.note_position(KEYS, REF, 0)),
        *asked(claims.commit(KEYS, REF, b"", [b""])),
        *asked(claims.give_back_token(KEYS, "5-1", "lost")),
        *asked(announcements.beat(KEYS, WORKER, [CARD])),
        *asked(reconciler.sweep()),
        *asked(reconciler.sweep()),
    ]
    return {name: (count, rest[count:]) for name, count, rest in found}


def count(cell):
    """Return how many keys or arguments a cell names."""
    parts = [part for part in cell.split(", ") if part]
    return sum(14 if part == "job keys" else 1 for part in parts)


def test_every_script_is_called_as_the_page_says():
    rows = {row[0].strip("`"): row for row in table("## Scripts")}
    assert list(rows) == [name for name in rows if name in NAMES]
    assert set(rows) == set(NAMES)
    for name, (n_keys, arguments) in calls().items():
        _, _, keys, argv, _, sha = rows[name]
        n_named = count(keys.rpartition(",")[0] if keys.endswith("…") else keys)
        assert (name, n_named) == (name, n_keys)
        if not argv.endswith("…"):  # as many as there are
            assert (name, count(argv)) == (name, len(arguments))
        assert script(name).sha.startswith(sha.strip("`"))
    assert set(calls()) == set(NAMES)


def test_the_client_needs_nothing_but_redis_and_msgpack():
    tree = ast.parse(BLOCKS["python client"])
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name not in sys.stdlib_module_names} == {"redis", "msgpack"}
