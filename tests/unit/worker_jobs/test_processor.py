"""A chunk's fate in a child's hands, with an engine made of paper."""

import dataclasses
import hashlib
import json
import logging
import os
import signal

import numpy as np
import pytest

from embedmill.canvas import rejected_of, vectors_of
from embedmill.errors import BrokerUnavailableError, InferenceError, InvalidRequestError, KeyConflictError
from embedmill.limits import MAX_LOSSES, MAX_TEXT_CHARS, MAX_TEXT_CRASHES
from embedmill.protocol import dead_letter, vectors
from embedmill.protocol.cards import UNKNOWN_CARD
from embedmill.protocol.chunks import Chunk, pack_chunk, unpack_reply
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions, pack_options
from embedmill.protocol.scripts import NAMES, script
from embedmill.protocol.vectors import Dtype
from embedmill.reply import Reason, Rejected
from embedmill_worker.engine import Embeddings
from embedmill_worker.jobs import claims, dead_letters, embed_task, processor
from embedmill_worker.jobs.claims import Bell, ChunkRef

TOO_LONG = Rejected(index=0, reason=Reason.TOO_LONG, detail="9 > 8")


class Panic(BaseException):
    """As extension modules throw it: no Exception."""


BELL = Bell(model="paper", lane="bulk", token="1-1")
REF = ChunkRef(job_id="j", born="1", chunk=0, tenant="", model="paper", lane="bulk", token=BELL.token)


class PaperEngine:
    """A text's vector is its length, 70,000 for «huge»; «poison» fails, and fails whatever it is batched with."""

    card = dataclasses.replace(UNKNOWN_CARD, name="paper", fingerprint="f", dimension=8)
    runtime = "paper 1"

    def __init__(self, error=None):
        self.error = error or InferenceError("paper", "torn")
        self.calls = []

    def embed(self, texts, *, input_type=None, truncate=True):
        self.calls.append(list(texts))
        if any("poison" in text for text in texts):
            raise self.error
        rows = np.array(
            [[70_000 if text == "huge" else len(text)] * self.card.dimension for text in texts], dtype=np.float32
        )
        return Embeddings(
            vectors=rows,
            token_counts=np.array([len(text) for text in texts], dtype=np.uint32),
            truncated=np.array([len(text) > 8 for text in texts], dtype=np.bool_),
            rejected=(),
            tokenize_ms=1.0,
            inference_ms=2.0,
        )


class Record:
    """A transport to a Redis that holds one job: gives one claim, takes one commit, and drives flows as any other."""

    def __init__(self, claim):
        self.claim = claim
        #: Claims of the same doorbell after that one.
        self.following = []
        #: Queues that went first when those were asked for.
        self.yielded_to = []
        self.committed = None
        self.letters = []
        self.noted = []
        self.released = []
        #: Fingerprints under which was claimed, and entries of live workers.
        self.asked_as = []
        self.workers = []
        #: How many texts are embedded alone before the claim is gone.
        self.stands_for = 1_000

    def run(self, flow, **_):
        try:
            step = next(flow)
            while True:
                step = flow.send([self.answer(command) for command in step.commands])
        except StopIteration as end:
            return end.value

    def answer(self, command):
        if command[0] == "HGET":
            return b"j 0 1 1 1 w 7 paper bulk "
        assert command[0] == "EVALSHA"
        name = next(name for name in NAMES if script(name).sha == command[1])
        if name == "claim":
            self.yielded_to.append(command[8 : 3 + command[2]])
        return getattr(self, f"answer_{name}")(*command[3 + command[2] :])

    def answer_claim(self, _token, _worker, fingerprint, *_):
        self.asked_as.append(fingerprint)
        if self.committed is not None:
            return as_claimed(self.following.pop(0) if self.following else claims.Nothing())
        if isinstance(self.claim, claims.OtherFingerprint) and fingerprint == self.claim.raw:
            return as_claimed(claimed(["a"]))
        return as_claimed(self.claim)

    def answer_give_back(self, token, why, _chunk, _born):
        self.released.append((token, why))
        return 1

    def answer_look(self, *_):
        return [[], [], self.workers]

    def answer_note(self, _token, position, _chunk, _born):
        self.noted.append(None if position == "" else position)
        return int(len(self.noted) <= self.stands_for)

    def answer_commit(self, _token, _chunk, _born, reply, _max_flight, _most, _ttl_ms, *letters):
        self.committed = unpack_reply(reply)
        self.letters = [dead_letter.unpack("1-0", letter) for letter in letters]
        return b"committed"


#: What stands before texts in Redis.
WEIGHT = bytes(8)


def as_claimed(claim):
    """Return what ``claim.lua`` answers for a claim."""
    of_chunk = (b"j", b"%d" % claim.ref.chunk, b"") if isinstance(claim, claims.Work | claims.Late) else ()
    match claim:
        case claims.Work():
            of_all = {"": claim.crashes, ":lost": claim.losses}
            of_text = {f":{at}": n for at, n in claim.crashes_alone.items()}
            of_text |= {f":{at}:lost": n for at, n in claim.losses_alone.items()}
            counts = [x for name, n in {**of_all, **of_text}.items() if n for x in (f"0{name}".encode(), b"%d" % n)]
            return [
                b"work",
                *of_chunk,
                WEIGHT + claim.texts,
                claim.options,
                b"%f" % claim.waited_ms,
                b"10.1",
                counts,
                claim.n_open,
                b"1",
            ]
        case claims.Late():
            times = (b"%f" % claim.waited_ms, b"%f" % claim.deadline_ms)
            return [b"late", *of_chunk, WEIGHT + claim.texts, claim.options, *times, b"1"]
        case claims.OtherFingerprint():
            return [b"other", claim.raw]
    return [b"none"]


def packed(texts, options=None):
    chunk = Chunk(indices=np.arange(10, 10 + len(texts), dtype=np.uint32), texts=tuple(texts))
    return pack_chunk(chunk), pack_options(options or EmbedOptions())


def work_on(claim, engine=None, *, keeps_texts=False):
    record = Record(claim)
    processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w", keeps_texts=keeps_texts).work(
        BELL, engine or PaperEngine()
    )
    return record


def claimed(texts, options=None, *, chunk=0, **counts):
    ref = dataclasses.replace(REF, chunk=chunk)
    return claims.Work(ref, *packed(texts, options), **{"waited_ms": 5.0, "losses": 0, **counts})


def reasons(reply):
    return {r.index: r.reason for r in reply.rejected}


def rows(reply):
    return vectors.from_bytes(reply.vectors, reply.dtype, reply.dimension)


def test_a_chunk_is_embedded_together_and_committed():
    engine = PaperEngine()
    reply = work_on(claimed(["a", "bbb"]), engine).committed
    assert engine.calls == [["a", "bbb"]]
    assert rows(reply)[:, 0].tolist() == [1.0, 3.0]
    assert reply.indices.tolist() == [10, 11]
    assert (reply.fingerprint, reply.runtime, reply.rejected) == ("f", "paper 1", ())
    assert reply.timings_ms == {"queue": 5.0, "tokenization": 1.0, "inference": 2.0}


@pytest.mark.parametrize(
    "error",
    [InferenceError("paper", "torn"), MemoryError(), RuntimeError("poison"), RecursionError(), Panic("poison")],
    ids=lambda error: type(error).__name__,
)
def test_one_bad_text_does_not_fail_its_neighbours(error):
    record = work_on(claimed(["a", "poison", "ccc"]), PaperEngine(error))
    assert reasons(record.committed) == {11: Reason.FAILED}
    assert np.isnan(rows(record.committed)[1]).all()
    assert rows(record.committed)[[0, 2], 0].tolist() == [1.0, 3.0]
    assert record.noted == [0, 1, 2, None]


def test_after_a_crash_texts_go_one_by_one_and_the_culprit_is_known():
    engine = PaperEngine()
    record = work_on(claimed(["a", "bb", "ccc"], crashes=1, crashes_alone={1: MAX_TEXT_CRASHES, 2: 2}), engine)
    assert reasons(record.committed) == {11: Reason.CRASHED}
    assert engine.calls == [["a"], ["ccc"]]
    assert record.noted == [0, 2, None]


def test_a_chunk_that_is_not_wanted_any_more_is_left_at_the_next_text():
    engine = PaperEngine()
    record = Record(claimed(["a", "bb", "ccc"], crashes=1))
    record.stands_for = 1
    processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, engine)
    assert engine.calls == [["a"]]
    assert record.committed is None


def test_a_chunk_under_which_many_workers_were_lost_is_given_up():
    engine = PaperEngine()
    reply = work_on(claimed(["a", "bb"], losses=MAX_LOSSES), engine).committed
    assert reasons(reply) == {10: Reason.WORKERS_LOST, 11: Reason.WORKERS_LOST}
    assert engine.calls == []


def test_after_a_loss_texts_go_one_by_one_and_the_one_under_which_all_were_lost_is_given_up():
    engine = PaperEngine()
    record = work_on(claimed(["a", "bb", "ccc"], losses=1, losses_alone={1: MAX_LOSSES, 2: MAX_LOSSES - 1}), engine)
    assert reasons(record.committed) == {11: Reason.WORKERS_LOST}
    assert engine.calls == [["a"], ["ccc"]]
    assert [(letter.index, letter.attempts) for letter in record.letters] == [(11, MAX_LOSSES)]


def told(record):
    return [(x.index, x.reason, x.attempts, x.n_chars, x.n_bytes, x.text) for x in record.letters]


def test_a_text_that_the_workers_gave_up_leaves_a_dead_letter():
    record = work_on(claimed(["a", "pö", "poison é"], crashes=1, crashes_alone={1: 4}))
    assert told(record) == [(11, "crashed", 4, 2, 3, None), (12, "failed", 1, 8, 9, None)]
    (letter, _) = record.letters
    assert letter.sha256 == hashlib.sha256("pö".encode()).hexdigest()
    assert (letter.job_id, letter.chunk, letter.model, letter.lane, letter.worker) == ("j", 0, "paper", "bulk", "w")


def test_a_letter_holds_its_text_only_if_asked_to_and_if_it_is_short():
    texts = ["poison", "poison" * 10_000]
    assert [letter.text for letter in work_on(claimed(texts), keeps_texts=True).letters] == ["poison", None]
    assert [letter.text for letter in work_on(claimed(texts)).letters] == [None, None]


def test_every_text_of_a_chunk_given_up_whole_leaves_a_letter():
    record = work_on(claimed(["a", "bb"], losses=MAX_LOSSES))
    assert [(x.index, x.reason, x.attempts) for x in record.letters] == [
        (10, "workers_lost", MAX_LOSSES),
        (11, "workers_lost", MAX_LOSSES),
    ]


def test_a_chunk_that_cannot_be_read_or_served_leaves_one_letter():
    junk = claims.Work(REF, b"\x80junk", packed([])[1], 1.0)
    for claim in (junk, claimed(["a", "bb"], EmbedOptions(dimensions=9))):
        (letter,) = work_on(claim).letters
        assert (letter.index, letter.reason, letter.n_bytes) == (None, "unsupported", len(claim.texts))


def test_what_is_the_caller_s_fault_or_came_too_late_leaves_no_letter():
    assert work_on(claims.Late(REF, *packed(["a"]), 1_500.0, 1_000.0)).letters == []
    engine = PaperEngine()
    plain = engine.embed
    engine.embed = lambda texts, **how: dataclasses.replace(plain(texts, **how), rejected=(TOO_LONG,))
    record = work_on(claimed(["a"]), engine)
    assert (reasons(record.committed), record.letters) == ({10: "too_long"}, [])


def test_what_came_too_late_is_rejected_unembedded():
    engine = PaperEngine()
    reply = work_on(
        claims.Late(REF, *packed(["a"], EmbedOptions(dtype=Dtype.INT8)), 1_500.0, 1_000.0), engine
    ).committed
    assert reasons(reply) == {10: Reason.DEADLINE}
    assert reply.rejected[0].detail == "work began 1.500 s after submission, limit 1.000 s"
    assert rows(reply).tolist() == [[0] * 8]
    assert engine.calls == []


def test_a_chunk_that_cannot_be_read_is_committed_without_rows():
    reply = work_on(claims.Work(REF, b"\x80junk", packed([])[1], 1.0)).committed
    assert len(reply.indices) == 0
    assert reply.vectors == b""


@pytest.mark.parametrize(
    "options",
    [EmbedOptions(dimensions=9), EmbedOptions(dtype=Dtype.BINARY, dimensions=4)],
    ids=["too many", "no bytes"],
)
def test_what_the_model_cannot_give_is_rejected_text_by_text(options):
    reply = work_on(claimed(["a", "bb"], options)).committed
    assert reasons(reply) == {10: Reason.UNSUPPORTED, 11: Reason.UNSUPPORTED}
    with pytest.raises(InvalidRequestError):
        PaperEngine().card.check(options)


def test_a_child_goes_on_with_the_next_chunks_by_the_same_doorbell():
    record, engine = Record(claimed(["a"], n_open=2)), PaperEngine()
    record.following = [
        claimed(["bb"], chunk=1, n_open=1),
        claimed(["ccc"], chunk=2, n_open=0),
        claimed(["dddd"], chunk=3),
    ]
    queues = ("ns.v2.paper.bulk", "ns.v2.paper.interactive", "ns.embed")
    made = processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w", queues=queues)
    made.work(BELL, engine)
    assert engine.calls == [["a"], ["bb"], ["ccc"]]
    assert record.yielded_to == [(), *[("ns.v2.paper.interactive", "ns.embed")] * 2]


@pytest.mark.parametrize(("is_stopping", "going_on_s"), [(True, 2.0), (False, 0.0)])
def test_a_child_does_not_go_on_while_its_worker_stops_or_when_others_should_have_a_turn(
    monkeypatch, is_stopping, going_on_s
):
    monkeypatch.setattr(processor, "GOING_ON_S", going_on_s)
    record, engine = Record(claimed(["a"], n_open=1)), PaperEngine()
    record.following = [claimed(["bb"])]
    made = processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w", is_stopping=lambda: is_stopping)
    made.work(BELL, engine)
    assert engine.calls == [["a"]]
    assert len(record.following) == 1


def test_a_child_ends_with_a_chunk_that_failed():
    class Failing(Record):
        def answer_commit(self, *args):
            super().answer_commit(*args)
            raise ValueError("torn")

    record, engine = Failing(claimed(["a"], n_open=1)), PaperEngine()
    record.following = [claimed(["bb"])]
    processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, engine)
    assert (engine.calls, record.released) == ([["a"]], [(REF.token, "lost")])


def test_a_doorbell_that_finds_no_work_is_no_work():
    engine = PaperEngine()
    assert work_on(claims.Nothing(), engine).committed is None
    assert engine.calls == []


@pytest.mark.parametrize("is_served", [True, False])
def test_work_of_another_fingerprint_is_left_to_its_workers_or_rejected_if_there_are_none(monkeypatch, is_served):
    pauses = []
    monkeypatch.setattr(processor.time, "sleep", pauses.append)
    record, engine = Record(claims.OtherFingerprint("g", b"g")), PaperEngine()
    if is_served:
        info = {"name": "n", "pid": 1, "host": "h", "state": "ready", "children": 1, "models": {"paper": "g"}}
        record.workers = [json.dumps({"worker_id": "other", **info}).encode()]
    processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, engine)
    assert engine.calls == []
    assert (len(pauses), record.asked_as) == ((1, ["f"]) if is_served else (0, ["f", b"g"]))
    if not is_served:
        assert (reasons(record.committed), record.committed.fingerprint) == ({10: Reason.MODEL_CHANGED}, "g")
        assert record.letters == []


def test_a_chunk_that_takes_too_long_is_ended_by_the_kernel():
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # as in a worker's child
        with processor.alarm(0.05):
            while True:
                pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGALRM


def test_rows_are_given_as_the_job_asked_for_them():
    reply = work_on(claimed(["a", "bb"], EmbedOptions(dimensions=4, dtype=Dtype.FLOAT16))).committed
    assert (reply.dimension, reply.dtype) == (4, Dtype.FLOAT16)
    assert rows(reply).tolist() == [[0.5] * 4] * 2


def test_no_text_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    work_on(claimed(["a", "poison zebra"]), PaperEngine(MemoryError("zebra")))
    assert caplog.records
    assert "zebra" not in caplog.text


def test_an_oversized_text_reaches_the_engine_by_no_way():
    huge, engine = "x" * (MAX_TEXT_CHARS + 1), PaperEngine()
    record = work_on(claimed(["fine", huge]), engine)
    assert engine.calls == []
    assert len(record.committed.indices) == 0  # the client rejects the rows that never came
    with pytest.raises(InvalidRequestError, match=r"texts\[0\]: 1000001 characters, limit 1000000"):
        embed_task.embed(engine, embed_task.read_call([[huge]], {}, ()))
    assert engine.calls == []


def test_oversized_options_are_refused_unread():
    engine = PaperEngine()
    claim = claimed(["fine"])
    record = work_on(dataclasses.replace(claim, options=bytes(1 << 20)), engine)
    assert engine.calls == []
    assert [r.reason for r in record.committed.rejected] == [Reason.UNSUPPORTED]
    assert "1048576 bytes, limit 4096" in record.committed.rejected[0].detail


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_process_is_no_text_s_fault(stop):
    record = Record(claimed(["a", "poison"]))
    with pytest.raises(stop):
        processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, PaperEngine(stop()))
    assert (record.committed, record.released) == (None, [])


@pytest.mark.parametrize("error", [ValueError("zebra"), MemoryError("zebra"), Panic("zebra")])
def test_a_try_that_fails_outside_the_engine_is_counted_and_tells_no_text(monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(processor, "to_reply", fail)
    record = work_on(claimed(["a"]))
    assert (record.committed, record.released) == (None, [(REF.token, "lost")])
    assert type(error).__name__ in caplog.text
    assert "zebra" not in caplog.text


def test_a_chunk_whose_letters_cannot_be_written_is_rejected_without_them(monkeypatch):
    def fail(*_, **__):
        raise ValueError("zebra")

    monkeypatch.setattr(dead_letters, "letters", fail)
    assert work_on(claimed(["a"], losses=MAX_LOSSES)).released == [(REF.token, "lost")]
    record = work_on(claimed(["a"], losses=MAX_LOSSES + 1))
    assert reasons(record.committed) == {10: Reason.WORKERS_LOST}
    assert (record.letters, record.released) == ([], [])


@pytest.mark.parametrize("error", [MemoryError("zebra"), Panic("zebra"), ValueError("zebra")])
def test_whatever_fails_in_the_canvas_task_is_an_error_of_ours_without_a_text(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(vectors, "to_bytes", fail)
    with pytest.raises(InferenceError) as caught:
        embed_task.embed(PaperEngine(), embed_task.read_call([["a"]], {}, ()))
    assert str(caught.value) == f"model paper: the task failed ({type(error).__name__})"


def test_a_redis_that_is_away_is_no_failure_of_the_chunk(monkeypatch):
    def fail(*_):
        raise BrokerUnavailableError("redis://h", "away")

    monkeypatch.setattr(processor, "to_reply", fail)
    record = Record(claimed(["a"]))
    with pytest.raises(BrokerUnavailableError):
        processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, PaperEngine())
    assert record.released == []


def test_a_reply_that_is_refused_for_a_key_s_sake_is_no_failure_of_the_chunk():
    class Refusing(Record):
        def answer_commit(self, *_):
            raise KeyConflictError("redis://h", "ns:dead is a string, not a stream")

    record = Refusing(claimed(["a", "poison"]))
    with pytest.raises(KeyConflictError):
        processor.ChunkProcessor(link=record, keys=Keyspace("ns"), worker_id="w").work(BELL, PaperEngine())
    assert record.released == [(REF.token, "refused")]


def test_a_row_that_the_asked_dtype_cannot_hold_is_rejected_with_a_letter():
    texts = ["a", "huge"]
    record = work_on(claimed(texts, EmbedOptions(dtype=Dtype.FLOAT16)))
    assert reasons(record.committed) == {11: Reason.NOT_FINITE}
    assert rows(record.committed)[0].tolist() == [1.0] * 8
    assert np.isnan(rows(record.committed)[1]).all()
    assert told(record) == [(11, "not_finite", 1, 4, 4, None)]
    assert reasons(work_on(claimed(texts)).committed) == {}


@pytest.mark.parametrize("error", [InferenceError("paper", "torn"), MemoryError(), Panic("zebra")])
def test_the_canvas_task_rejects_one_bad_text_and_embeds_its_neighbours(error):
    result = embed_task.embed(PaperEngine(error), embed_task.read_call([["a", "poison", "ccc"]], {}, ()))
    assert [(r.index, r.reason) for r in rejected_of(result)] == [(1, Reason.FAILED)]
    assert vectors_of(result)[[0, 2], 0].tolist() == [1.0, 3.0]
    assert np.isnan(vectors_of(result)[1]).all()


def test_the_canvas_task_rejects_what_its_dtype_cannot_hold():
    asked = {"texts": ["a", "huge"]}
    result = embed_task.embed(PaperEngine(), embed_task.read_call([], asked | {"dimensions": 4, "dtype": "int8"}, ()))
    assert rejected_of(result) == ()
    raw = embed_task.embed(PaperEngine(), embed_task.read_call([], asked | {"dtype": "float16"}, ()))
    assert [(r.index, r.reason) for r in rejected_of(raw)] == [(1, Reason.NOT_FINITE)]
