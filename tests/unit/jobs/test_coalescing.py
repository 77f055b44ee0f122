"""Which calls share a job: nothing is lost, nothing waits for nothing, everybody gets their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import QueueFullError
from embedmill.jobs.coalescing import Batch, Call, Capacity, PendingCalls
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_JOB_TEXTS, MAX_WINDOW_CHARS
from embedmill.protocol.cards import UNKNOWN_CARD
from embedmill.reply import EmbeddingReply, Reason, Rejected

TWO_CHILDREN = Capacity(children=2, budget_tokens=100)


def call(name, tokens=10, texts=1):
    return Call(texts=[f"{name}.{n}" for n in range(texts)], tokens=tokens)


def names(batch):
    return [c.texts[0].partition(".")[0] for c in batch.calls]


def drain(gathering, capacity=TWO_CHILDREN):
    batches = []
    while batch := gathering.next_batch(capacity):
        batches.append(batch)
    return batches


def gathered(*calls):
    gathering = PendingCalls()
    for one in calls:
        gathering.add(one)
    return gathering


def reply_to(texts, rejected=()):
    """A reply whose row i is made of text i alone."""
    return EmbeddingReply(
        vectors=np.array([[hash(text) % 1000, len(text)] for text in texts], dtype=np.float32).reshape(-1, 2),
        token_counts=np.array([len(text) for text in texts], dtype=np.uint32),
        truncated=np.array([hash(text) % 2 for text in texts], dtype=np.bool_),
        rejected=tuple(rejected),
        model="m",
        fingerprint="f",
        timings_ms={"queue": 1.0},
    )


def test_with_little_in_flight_each_call_goes_out_alone():
    gathering = PendingCalls()
    for name in "abc":
        gathering.add(call(name))
        assert [names(batch) for batch in drain(gathering)] == [[name]]


def test_calls_of_one_moment_spread_over_the_free_places():
    batches = drain(gathered(*(call(n) for n in range(16))))
    assert [len(batch.calls) for batch in batches] == [5, 5, 6]


def test_what_comes_while_enough_is_in_flight_waits_and_goes_out_when_a_job_ends():
    gathering = PendingCalls()
    for name in "abc":
        gathering.add(call(name))
        assert len(drain(gathering)) == 1
    late = [call(f"late{n}", tokens=4) for n in range(3)]
    for one in late:
        gathering.add(one)
    assert drain(gathering) == []
    gathering.end_batch()
    (batch,) = drain(gathering)
    assert batch.calls == tuple(late)


def test_beyond_the_children_s_first_jobs_a_batch_is_no_smaller_than_the_smallest_chunk():
    gathering = gathered(*(call(n, tokens=1) for n in range(20)))
    gathering.in_flight = 4
    batches = drain(gathering, Capacity(children=4, budget_tokens=100))
    assert [len(batch.calls) for batch in batches] == [12, 8]  # an eighth of 100 tokens; half of 20 would be 10


def test_a_withdrawn_call_does_not_go_out():
    first, second = call("first"), call("second")
    gathering = gathered(first, second)
    assert gathering.withdraw(first)
    assert not gathering.withdraw(first)
    assert [names(batch) for batch in drain(gathering)] == [["second"]]
    assert not gathering.withdraw(second)


def test_a_call_is_never_torn_apart():
    gathering = gathered(*(call(n, tokens=30, texts=5) for n in range(9)))
    gathering.in_flight = 2
    (batch,) = drain(gathering)
    assert [len(one.texts) for one in batch.calls] == [5] * 3


@pytest.mark.parametrize(
    ("texts", "tokens", "fits"), [(1, 100, True), (1, 101, False), (MAX_CHUNK_TEXTS, 1, True), (1025, 1, False)]
)
def test_a_call_of_more_than_a_chunk_shares_with_nobody(texts, tokens, fits):
    assert TWO_CHILDREN.holds(call("c", tokens=tokens, texts=texts)) is fits


def test_capacity_comes_from_the_model_card():
    assert Capacity.of(UNKNOWN_CARD, 3) == Capacity(children=3, budget_tokens=500.0)
    assert Capacity.of(UNKNOWN_CARD, 3).jobs == 5


def test_a_rejected_text_is_told_to_its_own_caller_by_its_own_index():
    batch = Batch(calls=(call("a", texts=2), call("b", texts=3), call("c")))
    bad = Rejected(index=3, reason=Reason.TOO_LONG, detail="9 tokens, limit 8")
    shares = batch.share_out(reply_to(batch.texts, [bad]))
    assert [share.rejected for share in shares] == [
        (),
        (Rejected(index=1, reason=Reason.TOO_LONG, detail="9 tokens, limit 8"),),
        (),
    ]


def test_no_caller_s_array_leads_to_another_s():
    batch = Batch(calls=(call("a"), call("b")))
    whole = reply_to(batch.texts)
    for share in batch.share_out(whole):
        for array in (share.vectors, share.token_counts, share.truncated):
            assert array.base is None or array.base.nbytes == array.nbytes
        assert not np.shares_memory(share.vectors, whole.vectors)


calls = st.builds(
    lambda tokens, texts: call("c", tokens=tokens, texts=texts), st.integers(1, 100), st.sampled_from([1, 1, 1, 2, 7])
)
#: True: a job ends; False: the waiting call in the middle is withdrawn; a list: calls arrive in one moment.
events = st.lists(st.one_of(st.booleans(), st.lists(calls, max_size=12)), max_size=60)


@given(events=events, children=st.integers(1, 5), budget=st.floats(100, 1_000))
def test_every_call_goes_out_once_in_order_and_nothing_waits_without_cause(events, children, budget):
    capacity = Capacity(children=children, budget_tokens=budget)
    gathering = PendingCalls()
    waiting, flying, sent = [], [], []
    for event in [*events, *[True] * 2_000]:
        if event is True:
            if flying:
                flying.pop(0)
                gathering.end_batch()
        elif event is False:
            if waiting:
                assert gathering.withdraw(waiting.pop(len(waiting) // 2))
        else:
            for one in event:
                gathering.add(one)
                waiting.append(one)
        for batch in drain(gathering, capacity):
            assert batch.calls == tuple(waiting[: len(batch.calls)])
            del waiting[: len(batch.calls)]
            assert batch.calls
            assert sum(c.tokens for c in batch.calls) <= budget
            assert len(batch.texts) <= MAX_CHUNK_TEXTS
            flying.append(batch)
            sent.extend(batch.calls)
        assert gathering.in_flight == len(flying) <= capacity.jobs
        assert len(gathering._waiting) == len(waiting)
        assert not waiting or len(flying) == capacity.jobs
        if not waiting and not flying and event is True:
            break
    assert gathering.is_idle
    assert len(sent) == len(set(map(id, sent)))


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=20), data=st.data())
def test_every_caller_gets_exactly_its_rows(sizes, data):
    batch = Batch(calls=tuple(call(f"c{n}", texts=size) for n, size in enumerate(sizes)))
    bad = data.draw(st.sets(st.integers(0, sum(sizes) - 1)))
    rejected = [Rejected(index=i, reason=Reason.FAILED, detail=batch.texts[i]) for i in sorted(bad)]
    for one, share in zip(batch.calls, batch.share_out(reply_to(batch.texts, rejected)), strict=True):
        alone = reply_to(one.texts)
        assert np.array_equal(share.vectors, alone.vectors)
        assert np.array_equal(share.token_counts, alone.token_counts)
        assert np.array_equal(share.truncated, alone.truncated)
        assert [(r.index, r.detail) for r in share.rejected] == [
            (i, text) for i, text in enumerate(one.texts) if batch.texts.index(text) in bad
        ]


def test_a_chunk_s_worth_of_tiny_calls_is_bounded_in_texts():
    gathering = gathered(*(call("c", tokens=1, texts=600) for _ in range(3)))
    gathering.in_flight = 2
    (batch,) = drain(gathering, Capacity(children=2, budget_tokens=1e6))
    assert len(batch.calls) == 1


def test_no_more_waits_than_one_job_may_hold():
    gathering = PendingCalls()
    for _ in range(MAX_JOB_TEXTS // MAX_CHUNK_TEXTS):
        one = call("full", tokens=10, texts=MAX_CHUNK_TEXTS)
        gathering.check_room(one, 0.0)
        gathering.add(one)
    with pytest.raises(QueueFullError) as caught:
        gathering.check_room(call("more"), tokens_per_s=64.0)
    refused = caught.value
    assert (refused.depth, refused.limit, refused.unit) == (MAX_JOB_TEXTS, MAX_JOB_TEXTS, "texts")
    assert refused.retry_after_s == 10.0
    gathering.withdraw(one)
    gathering.check_room(one, 0.0)


def test_no_more_characters_wait_than_one_job_may_hold():
    long = Call(texts=["x" * MAX_WINDOW_CHARS], tokens=10)
    gathering = PendingCalls()
    gathering.check_room(long, 0.0)  # where nothing waits there is always room
    gathering.add(long)
    with pytest.raises(QueueFullError, match=f"{MAX_WINDOW_CHARS} of {MAX_WINDOW_CHARS} characters") as caught:
        gathering.check_room(call("more"), 0.0)
    assert caught.value.retry_after_s is None
