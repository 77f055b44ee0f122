"""Replies of chunks, put back into input order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import MessageError
from embedmill.jobs import assembly
from embedmill.jobs.assembly import Assembly, Intake
from embedmill.protocol import vectors
from embedmill.protocol.chunks import ChunkReply
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype
from embedmill.reply import Reason, Rejected

DIMENSION = 8


def row(position):
    return np.full(DIMENSION, position / 1_000, dtype=np.float32)


def reply_of(positions, *, dtype=Dtype.FLOAT32, rejected=(), fingerprint="f", dimension=DIMENSION):
    rows = np.stack([np.full(DIMENSION, np.nan) if p in rejected else row(p) for p in positions]).astype(np.float32)
    return ChunkReply(
        indices=np.array(positions, dtype=np.uint32),
        vectors=vectors.to_bytes(rows[:, :dimension], dtype),
        dtype=dtype,
        dimension=dimension,
        token_counts=np.array(positions, dtype=np.uint32) + 2,
        truncated=np.array([p % 2 for p in positions], dtype=np.bool_),
        rejected=tuple(Rejected(index=p, reason=Reason.TOO_LONG, detail="") for p in positions if p in rejected),
        fingerprint=fingerprint,
        runtime="r",
        timings_ms={"queue": float(min(positions)), "tokenization": 1.0, "inference": 2.0},
    )


def assembled(n_texts, replies, options=None, rejected=()):
    whole = Assembly(intake(n_texts, options, rejected))
    for reply in replies:
        whole.add(reply)
    return whole.reply("m")


@st.composite
def jobs(draw):
    """A job's size, its positions in chunks, and some to reject: a few by the client, in no chunk."""
    count = draw(st.integers(1, 40))
    order = draw(st.permutations(range(count)))
    left_out = draw(st.integers(0, count - 1))
    positions = order[left_out:]
    cuts = sorted(draw(st.sets(st.integers(1, max(len(positions) - 1, 1)), max_size=6)))
    parts = [part for a, b in zip([0, *cuts], [*cuts, len(positions)], strict=True) if (part := positions[a:b])]
    return count, parts, order[:left_out], draw(st.sets(st.sampled_from(positions), max_size=5))


def same(a, b):
    assert a.vectors.tobytes() == b.vectors.tobytes()
    assert a.token_counts.tolist() == b.token_counts.tolist()
    assert a.truncated.tolist() == b.truncated.tolist()
    assert (a.rejected, a.fingerprint, a.timings_ms) == (b.rejected, b.fingerprint, b.timings_ms)


@given(jobs(), st.sampled_from(Dtype), st.data())
def test_any_order_of_replies_gives_the_same_reply(job, dtype, data):
    count, parts, by_client, by_worker = job
    rejected = [Rejected(index=i, reason=Reason.TOO_LARGE, detail="") for i in by_client]
    replies = [reply_of(part, dtype=dtype, rejected=by_worker) for part in parts]
    options = EmbedOptions(dtype=dtype)
    whole = assembled(count, replies, options, rejected)
    same(whole, assembled(count, data.draw(st.permutations(replies)), options, rejected))
    assert [r.index for r in whole.rejected] == sorted({*by_client, *by_worker})


@given(jobs())
def test_every_row_stands_where_its_text_stood(job):
    count, parts, by_client, by_worker = job
    rejected = [Rejected(index=i, reason=Reason.TOO_LARGE, detail="") for i in by_client]
    whole = assembled(count, [reply_of(part, rejected=by_worker) for part in parts], rejected=rejected)
    for position in range(count):
        if position in by_worker or position in by_client:
            # A reply without a single vector has nothing to show, not even a dimension it can vouch for.
            assert np.isnan(whole.vectors[position]).all()
        else:
            assert whole.vectors[position].tolist() == row(position).tolist()
            assert whole.token_counts[position] == position + 2


def test_a_chunk_that_never_came_is_rejected_row_by_row():
    whole = assembled(5, [reply_of([3, 1])])
    assert [(r.index, r.reason) for r in whole.rejected] == [(i, Reason.FAILED) for i in (0, 2, 4)]
    assert np.isnan(whole.vectors[[0, 2, 4]]).all()
    assert not np.isnan(whole.vectors[[1, 3]]).any()


def test_an_empty_job_has_an_empty_reply_of_the_announced_dimension():
    reply = Assembly(intake(0, dimension=DIMENSION)).reply("m")
    assert reply.vectors.shape == (0, DIMENSION)
    assert reply.rejected == ()


@pytest.mark.parametrize("dtype", Dtype)
def test_a_job_without_any_vector_has_the_form_that_was_asked_for(dtype):
    options = EmbedOptions(dtype=dtype, dimensions=16)
    rejected = [Rejected(index=0, reason=Reason.TOO_LARGE, detail="")]
    reply = Assembly(intake(1, options, rejected, dimension=DIMENSION)).reply("m")
    assert reply.vectors.shape == (1, dtype.columns(16))
    assert reply.vectors.dtype == dtype.numpy


def test_a_row_outside_the_job_is_refused():
    with pytest.raises(MessageError, match="row 7 of 7"):
        assembled(7, [reply_of([6, 7])])


def test_vectors_of_two_fingerprints_are_never_mixed():
    with pytest.raises(MessageError, match="two fingerprints, a and b"):
        assembled(2, [reply_of([0], fingerprint="a"), reply_of([1], fingerprint="b")])


@pytest.mark.parametrize("other", [{"dtype": Dtype.FLOAT16}, {"dimension": 4}, {"dimension": 1}])
def test_vectors_of_two_forms_are_never_mixed(other):
    with pytest.raises(MessageError, match=r"in one job|a reply holds vectors of"):
        assembled(2, [reply_of([0]), reply_of([1], **other)])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_chunk_without_vectors_may_have_another_dimension(order):
    replies = [reply_of([0]), reply_of([1], rejected={1}, dimension=4)]
    whole = assembled(2, [replies[i] for i in order])
    assert whole.vectors.shape == (2, DIMENSION)
    assert [r.index for r in whole.rejected] == [1]


def intake(n_texts=9, options=None, rejected=(), dimension=0):
    return Intake(n_texts=n_texts, options=options or EmbedOptions(), rejected=rejected, dimension=dimension)


def test_a_part_gives_the_rows_of_its_chunk():
    part = intake().take(reply_of([5, 2], rejected={2}))
    assert part.indices.tolist() == [5, 2]
    assert part.vectors[0].tolist() == row(5).tolist()
    assert [r.index for r in part.rejected] == [2]


def test_what_the_client_rejected_is_a_part_too():
    rejected = [Rejected(index=3, reason=Reason.TOO_LARGE, detail="")]
    part = intake(options=EmbedOptions(dtype=Dtype.INT8), rejected=rejected, dimension=DIMENSION).refused()[0]
    assert part.indices.tolist() == [3]
    assert part.vectors.tolist() == [[0] * DIMENSION]


def test_windows_are_joined_as_if_they_had_been_one_job():
    first, second = assembled(3, [reply_of([0, 1, 2])]), assembled(2, [reply_of([0, 1], rejected={1})])
    joined = assembly.concatenate([first, second], [0, 3])
    assert joined.vectors.shape == (5, DIMENSION)
    assert [r.index for r in joined.rejected] == [4]
    assert joined.timings_ms == {"queue": 0.0, "tokenization": 2.0, "inference": 4.0}
    assert assembly.concatenate([first], [0]) is first


def test_windows_of_two_fingerprints_are_never_joined():
    first = assembled(1, [reply_of([0])])
    with pytest.raises(MessageError, match="changed while embedding"):
        assembly.concatenate([first, dataclasses.replace(first, fingerprint="g")], [0, 1])


def read_in_both_ways(n_texts, replies, options=None):
    """What a job's replies come to by ``result()`` and by ``iter_results()``: an error, or row and reason by text."""
    outcomes = []
    for read in (read_whole, read_in_parts):
        try:
            outcomes.append(read(n_texts, replies, options))
        except MessageError as error:
            outcomes.append(str(error))
    return outcomes


def read_whole(n_texts, replies, options):
    whole = assembled(n_texts, replies, options)
    reasons = {r.index: r.reason for r in whole.rejected}
    return {i: (whole.vectors[i].tobytes(), reasons.get(i)) for i in range(n_texts)}


def read_in_parts(n_texts, replies, options):
    taken = intake(n_texts, options)
    parts = [*map(taken.take, replies), *taken.lost()]
    reasons = {r.index: r.reason for part in parts for r in part.rejected}
    rows = [(i, row.tobytes()) for part in parts for i, row in zip(part.indices.tolist(), part.vectors, strict=True)]
    assert sorted(i for i, _ in rows) == list(range(n_texts)), "each row comes once"
    return {i: (row, reasons.get(i)) for i, row in rows}


BLANK = np.full(DIMENSION, np.nan, dtype=np.float32).tobytes()
NONE = Rejected(index=60_000, reason=Reason.FAILED, detail="")


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        (reply_of([0], dtype=Dtype.BINARY), "a reply holds vectors of binary, not of float32"),
        (reply_of([0], dtype=Dtype.BINARY, rejected={0}), "a reply holds vectors of binary, not of float32"),
        (reply_of([0], dimension=4), "replies of 4 and of 8 components in one job"),
        (reply_of([0], fingerprint="g"), "replies of two fingerprints, g and f, in one job"),
        (reply_of([7]), "a reply names row 7 of 2"),
        (reply_of([0, 0]), "a reply names a row twice"),
        (dataclasses.replace(reply_of([0]), rejected=(NONE,)), "a reply rejects a text that is not in its chunk"),
    ],
)
def test_what_one_reader_refuses_the_other_does_too(forged, said):
    assert read_in_both_ways(2, [forged, reply_of([1])]) == [said, said]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.FLOAT16])
def test_a_row_that_is_not_finite_is_rejected_by_every_reader(value, dtype):
    rows = np.stack([row(0), row(1)])
    rows[0, 3] = value
    forged = dataclasses.replace(reply_of([0, 1], dtype=dtype), vectors=vectors.to_bytes(rows, dtype))
    whole, parts = read_in_both_ways(2, [forged], EmbedOptions(dtype=dtype))
    assert whole == parts
    blank = np.full(DIMENSION, np.nan, dtype=dtype.numpy).tobytes()
    assert whole[0] == (blank, Reason.NOT_FINITE)
    assert whole[1] == (row(1).astype(dtype.numpy).tobytes(), None)


def test_a_rejected_row_shows_nothing_to_any_reader():
    forged = dataclasses.replace(reply_of([0, 1], rejected={0}), vectors=np.ones((2, DIMENSION), "<f4").tobytes())
    whole, parts = read_in_both_ways(2, [forged])
    assert whole == parts
    assert whole[0] == (BLANK, Reason.TOO_LONG)


def test_a_chunk_that_is_told_twice_comes_once():
    whole, parts = read_in_both_ways(3, [reply_of([0, 2], rejected={2}), reply_of([0, 1, 2])])
    assert whole == parts
    assert {i: reason for i, (_, reason) in whole.items()} == {0: None, 1: None, 2: Reason.TOO_LONG}


def test_a_record_that_rejects_a_text_it_has_not_got_is_refused():
    with pytest.raises(MessageError, match="row 60000 of 2"):
        intake(2, rejected=[NONE])
