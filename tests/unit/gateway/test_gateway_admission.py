"""How much may be under way: what is refused, when to come back, and that all counts return to zero."""

import math
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.gateway.admission import FIRST_S, WINDOW_S, Admission, Drain
from embedmill_worker.gateway.refusals import Kind, RefusedError

KEY = ("model", "interactive")


def make(max_wait_s=5.0, max_requests=100, max_bytes=1_000):
    return Admission(max_wait_s=max_wait_s, max_requests=max_requests, max_bytes=max_bytes)


def enter(stack, admission, tokens, now_s=0.0, rate=100.0, key=KEY):
    stack.enter_context(admission.admitted(key, tokens, rate, lambda: now_s))


def test_an_idle_lane_takes_any_request():
    with make(max_wait_s=0.0).admitted(KEY, 1 << 40, 1.0, lambda: 0.0):
        pass


def test_what_waits_longer_than_allowed_is_refused_with_a_true_time_to_come_back():
    admission = make()
    with ExitStack() as stack:
        enter(stack, admission, 500)
        enter(stack, admission, 500)  # 5 s wait before it, and 5 may
        with pytest.raises(RefusedError) as caught:
            enter(stack, admission, 1)
        assert caught.value.kind is Kind.OVERLOADED
        assert caught.value.retry_after_s == 7.5  # then half of what may wait is left
        enter(stack, admission, 1, key=("model", "bulk"))  # another lane


def test_the_number_of_requests_is_bounded_whatever_their_lane():
    admission = make(max_requests=2)
    with ExitStack() as stack:
        enter(stack, admission, 1, key=("a", "bulk"))
        enter(stack, admission, 1, key=("b", "bulk"))
        with pytest.raises(RefusedError) as caught:
            enter(stack, admission, 1, key=("c", "bulk"))
        assert caught.value.retry_after_s > 0
    assert admission.requests == 0


def test_the_bytes_of_all_bodies_are_bounded():
    admission = make(max_bytes=10)
    with admission.holding() as first, admission.holding() as second:
        first(4)
        second(6)
        with pytest.raises(RefusedError) as caught:
            first(1)
        assert (caught.value.kind, admission.held_bytes) == (Kind.OVERLOADED, 10)
        assert caught.value.retry_after_s > 0
    assert admission.held_bytes == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "fail"]),
        st.integers(0, 1_000),
        st.floats(0, 20),
        st.sampled_from([KEY, ("model", "bulk"), ("other", "bulk")]),
    ),
    max_size=60,
)


@given(STEPS, st.floats(0, 10), st.integers(1, 20), st.floats(0, 1_000))
def test_counts_are_those_of_what_is_under_way_and_return_to_zero(steps, max_wait_s, max_requests, rate):
    admission = make(max_wait_s=max_wait_s, max_requests=max_requests)
    now_s = 0.0
    under_way = []
    for what, tokens, passed_s, key in steps:
        now_s += passed_s
        if what == "begin":
            block = admission.admitted(key, tokens, rate, lambda at_s=now_s: at_s)
            try:
                block.__enter__()
            except RefusedError as error:
                assert error.kind is Kind.OVERLOADED
                assert error.retry_after_s > 0 and math.isfinite(error.retry_after_s)
                assert under_way, "an idle gateway refuses"
            else:
                under_way.append((block, key, tokens))
        elif under_way:
            block, _, _ = under_way.pop(tokens % len(under_way))
            if what == "end":
                block.__exit__(None, None, None)
            else:
                error = ValueError()
                assert not block.__exit__(ValueError, error, None)
        assert admission.requests == len(under_way) <= max_requests
        for each, drain in admission._drains.items():
            assert drain.tokens == sum(tokens for _, key, tokens in under_way if key == each)
            assert drain.done_tokens == sum(tokens for _, tokens in drain.done)
    for block, _, _ in under_way:
        block.__exit__(None, None, None)
    assert admission.requests == 0
    assert all(drain.tokens == 0 for drain in admission._drains.values())


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, GeneratorExit, None])
def test_however_a_block_ends_nothing_is_left_under_way(end):
    admission = make()
    try:
        with admission.admitted(KEY, 10, 1.0, lambda: 0.0), admission.holding() as hold:
            hold(10)
            if end:
                raise end
    except BaseException as error:
        assert type(error) is end
    assert (admission.requests, admission.held_bytes, admission._drains[KEY].tokens) == (0, 0, 0)


def test_the_rate_is_what_was_done_lately_and_before_that_what_workers_announce():
    drain = Drain()
    drain.begin(1_000, 0.0)
    assert drain.tokens_per_s(50.0, FIRST_S - 0.1) == 50.0
    drain.end(200, FIRST_S, is_done=True)
    assert drain.tokens_per_s(50.0, FIRST_S) == 200 / FIRST_S
    drain.end(100, FIRST_S, is_done=False)  # what failed is no work done
    assert drain.tokens_per_s(50.0, FIRST_S) == 200 / FIRST_S
    drain.end(300, WINDOW_S + FIRST_S + 1, is_done=True)  # the first is older than the window
    assert drain.tokens_per_s(50.0, WINDOW_S + FIRST_S + 1) == 300 / WINDOW_S
    drain.end(400, 100.0, is_done=True)
    drain.begin(10, 200.0)  # after a pause all is forgotten
    assert drain.tokens_per_s(50.0, 210.0) == 50.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100)), min_size=1, max_size=50))
def test_memory_of_the_rate_is_the_windows(ends):
    drain, now_s = Drain(), 0.0
    drain.begin(sum(tokens for _, tokens in ends) + 1, now_s)
    for passed_s, tokens in ends:
        now_s += passed_s
        drain.end(tokens, now_s, is_done=True)
        assert all(at_s >= now_s - WINDOW_S for at_s, _ in drain.done)
        assert drain.tokens_per_s(7.0, now_s) > 0
