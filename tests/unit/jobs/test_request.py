"""From a caller's arguments to a job: what cannot be served is refused before anything is sent."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import InvalidRequestError, InvalidTextError, TooManyTextsError, UnknownModelError
from embedmill.jobs import request
from embedmill.jobs.discovery import DirectorySnapshot, WorkerDirectory
from embedmill.jobs.request import SubmitOptions
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_JOB_TEXTS, MAX_TEXT_CHARS
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import unpack_chunk
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.records import JobState, JobStatus
from embedmill.protocol.vectors import Dtype
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo
from embedmill.reply import Reason

CARD = ModelCard(name="m", fingerprint="f", dimension=384, max_tokens=256, chars_per_token=4.0, tokens_per_s=4_000.0)


def prepare(texts, options=None, *, card=CARD, children=2, waiting_tokens=0, **how):
    how = SubmitOptions(**{"model": None, "lane": "bulk", "ttl_s": 60.0} | how)
    values = request.check_texts(texts)
    fleet = {"model": "m", "card": card, "children": children, "waiting_tokens": waiting_tokens}
    return request.prepare(values, options or EmbedOptions(), how, **fleet)


@given(st.lists(st.text(max_size=300), max_size=60), st.integers(1, 8))
def test_every_text_is_in_one_chunk_or_rejected(texts, children):
    job = prepare(texts, children=children)
    found = {}
    for payload in job.payloads:
        chunk = unpack_chunk(payload)
        found |= dict(zip(chunk.indices.tolist(), chunk.texts, strict=True))
    rejected = {r.index for r in job.rejected}
    assert found.keys() | rejected == set(range(len(texts)))
    assert not found.keys() & rejected
    assert all(texts[i] == text for i, text in found.items())
    assert all(r.reason == Reason.INVALID_UNICODE for r in job.rejected)
    assert sum(count for count, _ in job.weights) == len(found)


@given(st.lists(st.text(), max_size=40), st.integers(1, 64), st.floats(1, 1e5))
def test_the_digest_does_not_depend_on_how_the_job_is_cut(texts, children, tokens_per_s):
    other = ModelCard(
        name="m", fingerprint="g", dimension=384, max_tokens=64, chars_per_token=2.0, tokens_per_s=tokens_per_s
    )
    assert prepare(texts).digest == prepare(texts, card=other, children=children, lane="interactive", ttl_s=5).digest


def test_the_record_is_what_the_script_reads():
    flat = prepare(["a", "b"], deadline_s=1.5, job_id="j").record()
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert {name: fields[name] for name in ("id", "model", "lane", "tenant", "n_texts", "n_rows", "n_chunks")} == {
        "tenant": "",
        "id": "j",
        "model": "m",
        "lane": "bulk",
        "n_texts": 2,
        "n_rows": 2,
        "n_chunks": len(prepare(["a", "b"]).payloads),
    }
    assert (fields["ttl_ms"], fields["deadline_ms"]) == (60_000, 1_500)


@pytest.mark.parametrize(
    ("lane", "waiting_tokens", "chunks"), [("bulk", 10**9, 10), ("bulk", 0, 552), ("interactive", 0, 552)]
)
def test_a_large_fleet_with_much_to_do_gets_large_bulk_chunks(lane, waiting_tokens, chunks):
    texts = ["about thirteen tokens of a river and a house"] * 10_000
    job = prepare(texts, children=100, lane=lane, waiting_tokens=waiting_tokens)
    assert len(job.payloads) == chunks
    assert max(texts for texts, _ in job.weights) <= MAX_CHUNK_TEXTS
    assert job.limit_s <= request.longest_limit_s(CARD)


def test_costlier_chunks_get_more_time():
    assert prepare(["a"]).limit_s < prepare(["word " * 500] * 50).limit_s
    assert prepare([]).limit_s == request.TIME_LIMIT_FLOOR_S


def test_each_job_gets_an_id_of_its_own():
    assert len({prepare(["a"]).job_id for _ in range(100)}) == 100


@pytest.mark.parametrize("texts", ["one text", b"bytes"])
def test_one_text_is_no_list_of_texts(texts):
    with pytest.raises(InvalidRequestError, match=r"write \[text\]"):
        prepare(texts)


@pytest.mark.parametrize("value", [b"bytes", 3, None, ["nested"]])
def test_what_is_no_text_is_named_with_its_place(value):
    with pytest.raises(InvalidTextError, match=rf"texts\[1\] is {type(value).__name__}"):
        prepare(["fine", value])


def test_a_job_holds_a_bounded_number_of_texts():
    assert prepare(["a"] * MAX_JOB_TEXTS).n_texts == MAX_JOB_TEXTS
    with pytest.raises(TooManyTextsError, match=r"65537 texts, but at most 65536 .*embed\(\)"):
        prepare(["a"] * (MAX_JOB_TEXTS + 1))


def test_a_text_that_no_worker_could_read_is_rejected_alone():
    job = prepare(["fine", "x\ud800y", "a" * (MAX_TEXT_CHARS + 1), "\ud800" * (MAX_TEXT_CHARS + 1)])
    assert [(r.index, r.reason) for r in job.rejected] == [
        (1, Reason.INVALID_UNICODE),
        (2, Reason.TOO_LARGE),
        (3, Reason.TOO_LARGE),
    ]
    assert job.n_texts == 4
    assert [unpack_chunk(p).texts for p in job.payloads] == [("fine",)]


def test_texts_are_taken_from_any_sequence_and_from_numpy():
    assert prepare(("a", "b")).digest == prepare(iter(["a", "b"])).digest == prepare(np.array(["a", "b"])).digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lane", "express"),
        ("lane", None),
        ("ttl_s", 0),
        ("ttl_s", -1),
        ("ttl_s", float("nan")),
        ("ttl_s", float("inf")),
        ("ttl_s", 1e11),
        ("ttl_s", True),
        ("ttl_s", "60"),
        ("deadline_s", 0),
        ("deadline_s", 1e300),
        ("job_id", ""),
        ("job_id", "a:b"),
        ("job_id", "a b"),
        ("job_id", "x" * 129),
        ("job_id", "-a"),
        ("job_id", "a\n"),
        ("job_id", 7),
        ("job_id", 'a"b'),
    ],
)
def test_options_that_cannot_be_served_are_refused_when_they_are_given(field, value):
    with pytest.raises(InvalidRequestError, match=field):
        prepare(["a"], **{field: value})
    with pytest.raises(InvalidRequestError, match=field):
        SubmitOptions(**{"model": None, "lane": "bulk", field: value})


@pytest.mark.parametrize("job_id", ["a", "0", "x" * 128, "A.b-c_d"])
def test_ordinary_ids_are_taken(job_id):
    assert prepare(["a"], job_id=job_id).job_id == job_id


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (EmbedOptions(dimensions=385), "385 is more than the 384 of m"),
        (EmbedOptions(dtype=Dtype.BINARY, dimensions=12), "multiple of 8"),
    ],
)
def test_what_the_announced_model_cannot_give_is_refused(options, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        prepare(["a"], options)


def outlook(*names, default=None, workers=()):
    cards = {name: ModelCard.from_json(CARD.to_json().replace('"m"', f'"{name}"')) for name in names}
    result = WorkerDirectory(default)
    result.update(DirectorySnapshot(cards=cards, workers=workers))
    return result


def worker(model):
    told = {"worker_id": "w", "name": "n", "pid": 1, "host": "h", "state": "ready", "children": 3}
    return WorkerInfo(**told, models={model: "f"}, protocol=PROTOCOL_VERSION)


def test_the_only_announced_model_is_meant_when_none_is_named():
    name, card, children = outlook("only", workers=(worker("only"),)).choose(None)
    assert (name, card.name, children) == ("only", "only", 3)


@pytest.mark.parametrize(("names", "says"), [((), "no worker has announced one"), (("a", "b"), "announced: a, b")])
def test_without_exactly_one_a_model_must_be_named(names, says):
    with pytest.raises(UnknownModelError, match=says):
        outlook(*names).choose(None)


def test_a_model_that_nobody_serves_any_more_stands_in_no_one_s_way():
    assert outlook("left", "served", workers=(worker("served"),)).choose(None)[0] == "served"


def test_of_several_served_models_one_must_be_named_and_those_alone_are_listed():
    with pytest.raises(UnknownModelError, match="announced: a, b\\."):
        outlook("a", "b", "left", workers=(worker("a"), worker("b"))).choose(None)


def test_a_named_model_wins_over_the_client_s_and_that_over_the_announced():
    assert outlook("only", default="mine").choose("this")[0] == "this"
    assert outlook("only", default="mine").choose(None)[0] == "mine"


@pytest.mark.parametrize("name", ["two words", 'quo"te', "a\nb", "ü", "x" * 129, 5, "back\\slash"])
def test_a_name_that_no_model_can_have_is_refused(name):
    with pytest.raises(InvalidRequestError, match="model"):
        outlook().choose(name)


def test_a_timeout_says_that_nobody_serves_the_model():
    status = JobStatus(
        job_id="j",
        state=JobState.QUEUED,
        model="m",
        lane="bulk",
        n_texts=1,
        texts_done=0,
        chunks=2,
        chunks_done=0,
        submitted_at_s=0.0,
        fingerprint="",
    )
    assert "EMBEDMILL_MODEL=m" in outlook().hint(status)
    assert outlook(workers=(worker("m"),)).hint(status) == "0 of 2 chunks are done."


@pytest.mark.parametrize("values", [None, 5, object(), str, pa.scalar("text")])
def test_what_holds_no_texts_is_refused(values):
    with pytest.raises(InvalidRequestError, match=f"pass a list of str, not {type(values).__name__}"):
        request.check_texts(values)


def test_a_column_of_arrow_is_its_texts():
    assert (
        request.check_texts(pa.array(["a", "b"])) == request.check_texts(pa.chunked_array([["a"], ["b"]])) == ["a", "b"]
    )


def test_a_fault_of_the_caller_s_iterator_is_its_own():
    def texts():
        yield "a"
        raise TypeError("not ours")

    with pytest.raises(TypeError, match="not ours"):
        request.check_texts(texts())


def test_a_lazy_frame_is_refused_by_its_columns():
    class Lazy:
        def collect_schema(self):
            return self

        def names(self):
            return ["id", "text"]

    with pytest.raises(InvalidRequestError, match=r"as in collect\(\)\['text'\]; it has 'id', 'text'"):
        request.check_texts(Lazy())
