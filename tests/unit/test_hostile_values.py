"""Whatever somebody writes into Redis or a sink is bounded and moves no cursor once it has been read."""

import dataclasses
import json

import numpy as np
import pytest

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_DETAIL_CHARS, MAX_ENTRY_BYTES, MAX_WORKER_CHILDREN, MAX_WORKER_MODELS
from embedmill.protocol import dead_letter
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import ChunkReply, pack_rejected, pack_reply, read_rejected, unpack_reply
from embedmill.protocol.vectors import Dtype
from embedmill.protocol.workers import WorkerInfo
from embedmill.reindexing.index import Index
from embedmill.reply import Rejected
from embedmill_worker.cli import terminal
from embedmill_worker.cli.commands import dead
from embedmill_worker.settings import WorkerSettings

ESCAPE = "\x1b[2J\x1b]0;owned\x07\n"

CARD = ModelCard(name="m", fingerprint="f", dimension=8, max_tokens=64, chars_per_token=4.0, tokens_per_s=1e3)
WORKER = WorkerInfo(worker_id="w", name="n", pid=1, host="h", state="ready", children=1, models={"m": "f"})
REPLY = ChunkReply(
    indices=np.zeros(1, dtype=np.uint32),
    vectors=b"\0" * 8,
    dtype=Dtype.INT8,
    dimension=8,
    token_counts=np.zeros(1, dtype=np.uint32),
    truncated=np.zeros(1, dtype=np.bool_),
    rejected=(),
    fingerprint="f",
    runtime="r",
    timings_ms={"queue": 1.0},
)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": ESCAPE},
        {"fingerprint": "x" * 513},
        {"runtime": ESCAPE},
        {"timings_ms": {ESCAPE: 1.0}},
        {"timings_ms": {"x" * 513: 1.0}},
        {"rejected": (Rejected(index=0, reason=ESCAPE, detail="d"),)},
        {"rejected": (Rejected(index=0, reason="x" * 513, detail="d"),)},
    ],
)
def test_a_reply_whose_names_are_none_is_refused(changes):
    with pytest.raises(MessageError) as caught:
        unpack_reply(pack_reply(dataclasses.replace(REPLY, **changes)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("detail", [ESCAPE, "x" * 100_000, ESCAPE * 10_000, "\u202e"])
def test_a_detail_is_cut_to_a_line_that_moves_no_cursor(detail):
    rejected = (Rejected(index=0, reason="failed", detail=detail),)
    read = unpack_reply(pack_reply(dataclasses.replace(REPLY, rejected=rejected))).rejected[0].detail
    assert read.isprintable()
    assert len(read) <= MAX_DETAIL_CHARS
    (known,) = read_rejected(pack_rejected(rejected))
    assert known.detail == read


@pytest.mark.parametrize(
    "changes",
    [
        {"models": {f"model-{n}": "f" for n in range(20_000)}},
        {"models": {f"m{n}": "f" for n in range(MAX_WORKER_MODELS + 1)}},
        {"models": {"m": ESCAPE}},
        {"models": {"m" * 513: "f"}},
        {"children": MAX_WORKER_CHILDREN + 1},
        {"active": tuple("a" for _ in range(MAX_WORKER_CHILDREN + 1))},
        {"name": ESCAPE},
        {"name": "x" * MAX_ENTRY_BYTES},
    ],
)
def test_a_worker_s_entry_that_no_worker_writes_is_refused(changes):
    with pytest.raises(MessageError):
        WorkerInfo.from_json(dataclasses.replace(WORKER, **changes).to_json())


def test_an_entry_that_is_far_too_long_is_not_parsed():
    for read in (WorkerInfo.from_json, ModelCard.from_json):
        with pytest.raises(MessageError, match="limit"):
            read(b" " * (MAX_ENTRY_BYTES + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"chars_per_token": 1e-300},
        {"tokens_per_s": 1e-300},
        {"tokens_per_s": 1e300},
        {"dimension": 1 << 20},
        {"name": ESCAPE},
        {"fingerprint": "x" * 513},
    ],
)
def test_a_card_by_which_no_job_can_be_reckoned_is_refused(changes):
    with pytest.raises(MessageError):
        ModelCard.from_json(dataclasses.replace(CARD, **changes).to_json())


def test_a_worker_of_more_models_than_others_believe_does_not_start():
    models = tuple(f"m{n}" for n in range(MAX_WORKER_MODELS + 1))
    with pytest.raises(ValueError, match="start several"):
        WorkerSettings(redis_url="redis://h", namespace="n", models=models)


@pytest.mark.parametrize(
    "changes",
    [{"model": ESCAPE}, {"fingerprint": ["f"]}, {"dimension": "8"}, {"dimension": 1 << 40}, {"truncate": "yes"}],
)
def test_a_sink_s_description_that_reindex_does_not_write_is_refused(changes):
    written = json.loads(Index(model="m", fingerprint="f", dimension=8).to_json())
    assert Index.from_json(json.dumps(written)) == Index(model="m", fingerprint="f", dimension=8)
    with pytest.raises(MessageError):
        Index.from_json(json.dumps(written | changes))


@pytest.mark.parametrize("letter_id", ["9999999999999999-0", "18446744073709551615-18446744073709551615"])
def test_a_letter_of_no_date_can_be_named_and_listed(letter_id):
    assert dead_letter.check_id(letter_id) == letter_id
    assert dead._when(dead_letter.unreadable(letter_id, "junk")) == "no date"


@pytest.mark.parametrize("letter_id", ["18446744073709551616-0", "0-99999999999999999999", "1" * 21 + "-0", "1", 3])
def test_an_id_that_redis_has_for_no_letter_is_refused(letter_id):
    with pytest.raises(InvalidRequestError, match="an id looks like"):
        dead_letter.check_id(letter_id)


def test_a_letter_whose_detail_is_odd_is_written_so_that_it_can_be_read():
    written = dead_letter.of_text(
        "a",
        keep=False,
        job_id="j",
        chunk=0,
        index=0,
        model="m",
        lane="bulk",
        reason="failed",
        detail=ESCAPE * 1_000,
        attempts=1,
        worker=ESCAPE,
    )
    assert dead_letter.unpack("1-0", dead_letter.pack(written)).detail.isprintable()


def test_messages_and_tables_move_no_cursor(capsys):
    terminal.say(f"a{ESCAPE}b")
    terminal.table(("name", "n"), [(f"x{ESCAPE}", 1), ("y" * 10_000, 2)])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert len(out.splitlines()) == 3
    assert len(out) < 4 * terminal.MAX_CELL_CHARS


def test_a_table_counts_what_it_leaves_out(capsys):
    terminal.table(("n",), [(n,) for n in range(2_000)], max_rows=10)
    assert capsys.readouterr().out.splitlines()[-1] == "… and 1,990 more; use --json to see all of them"
