"""The status flow, driven by hand: what Redis says becomes workers and lanes."""

import pytest

from embedmill.protocol.cards import ModelCard
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.scripts import script
from embedmill.protocol.workers import WorkerInfo
from embedmill.status import UNANNOUNCED, QueueStatus, read

KEYS = Keyspace("ns")
NOW = [b"1000", b"500000"]


def worker(name, models, state="ready"):
    return WorkerInfo(worker_id=name, name=name, pid=7, host="h", state=state, children=2, models=models)


def card(model):
    return ModelCard(name=model, fingerprint="f", dimension=8, max_tokens=64, chars_per_token=4.0, tokens_per_s=9.0)


def run(infos, lanes, counts, cards=None, drains=None):
    """Drives the flow; counts: (model, lane) → (chunks, texts, tokens, oldest submission in ms or None).

    Drains: (model, lane) → what Redis answers for the tokens done, the rate, and when it was measured, in ms.

    All the workers' models have cards if none are given.
    """
    if cards is None:
        cards = {model for info in infos for model in info.models}
    flow = read(KEYS)
    ask = next(flow)
    while True:
        replies = []
        for command in ask.commands:
            match command:
                case ("EVALSHA", sha, 2, KEYS.models, KEYS.workers, *_) if sha == script("look").sha:
                    packed = [[card(model).to_json().encode() for model in cards]]
                    packed += [[info.worker_id.encode() for info in infos], [info.to_json().encode() for info in infos]]
                    replies.append(packed)
                case ("SMEMBERS", _):
                    replies.append({f"{model} {lane}".encode() for model, lane in lanes})
                case ("TIME",):
                    replies.append(NOW)
                case ("HMGET", key, "chunks", "texts", "tokens", "drained", "rate", "counted_ms"):
                    found = next((v for k, v in counts.items() if KEYS.lane(*k) == key), (None,) * 4)
                    drain = next((v for k, v in (drains or {}).items() if KEYS.lane(*k) == key), [None] * 3)
                    shown = [None if v is None else str(v).encode() for v in found[:3]]
                    replies.append(shown + drain if isinstance(drain, list) else drain)
                case ("ZREVRANGE", _, 0, _, "WITHSCORES"):
                    replies.append([b"gold", b"7", b"a b", b"1", b"", b"x"])
                case ("ZRANGE", key, 0, 0, "WITHSCORES"):
                    oldest = next((v[3] for k, v in counts.items() if KEYS.active(*k) == key), None)
                    replies.append([] if oldest is None else [b"job", str(oldest).encode()])
                case _:
                    pytest.fail(f"unforeseen {command}")
        try:
            ask = flow.send(replies)
        except StopIteration as end:
            return end.value


def test_an_empty_mill_has_no_workers_and_no_lanes():
    assert run([], [], {}) == QueueStatus(workers=(), lanes=())


def test_a_worker_of_two_models_is_two_entries_and_four_lanes():
    status = run([worker("w", {"b": "f2", "a": "f1"})], [], {})
    assert [(w.model, w.fingerprint) for w in status.workers] == [("a", "f1"), ("b", "f2")]
    assert [(lane.model, lane.lane) for lane in status.lanes] == [
        ("a", "bulk"),
        ("a", "interactive"),
        ("b", "bulk"),
        ("b", "interactive"),
    ]
    assert all((lane.chunks, lane.texts, lane.tokens, lane.oldest_age_s) == (0, 0, 0, 0.0) for lane in status.lanes)


def test_a_lane_that_nobody_serves_shows_what_waits_in_it_and_for_how_long():
    (lane,) = run([], [("gone", "bulk")], {("gone", "bulk"): (2, 30, 400, 997_250)}).lanes
    assert (lane.queue, lane.chunks, lane.texts, lane.tokens) == ("ns.v2.gone.bulk", 2, 30, 400)
    assert lane.oldest_age_s == 3.25


def test_a_lane_that_nobody_serves_and_that_holds_nothing_is_left_out():
    empty = {("gone", "bulk"): (0, 0, 0, None), ("kept", "bulk"): (0, 0, 0, 997_250), ("mine", "bulk"): (0, 0, 0, None)}
    status = run([worker("w", {"mine": "f"})], empty, empty)
    assert {(lane.model, lane.lane) for lane in status.lanes} == {
        ("kept", "bulk"),
        ("mine", "bulk"),
        ("mine", "interactive"),
    }


def test_a_worker_that_is_stopping_serves_nothing():
    assert not run([worker("w", {"a": "f"}, state="stopping")], [], {}).serves("a")
    ready = run([worker("w", {"a": "f"})], [], {})
    assert ready.serves("a")
    assert ready.serves(None)
    assert not ready.serves("b")


def test_a_worker_whose_card_redis_has_lost_serves_nothing_yet():
    status = run([worker("w", {"a": "f", "b": "f"})], [], {}, cards={"a"})
    assert {w.model: w.state for w in status.workers} == {"a": "ready", "b": UNANNOUNCED}
    assert (status.serves("a"), status.serves("b"), status.serves(None)) == (True, False, True)
    stopping = run([worker("w", {"a": "f"}, state="stopping")], [], {}, cards=())
    assert [w.state for w in stopping.workers] == ["stopping"]


@pytest.mark.parametrize(
    ("drain", "done", "rate"),
    [
        ([b"1200", b"345.6", b"995000"], 1200, 345.6),
        ([b"1200", b"345.6", b"970000"], 1200, 0.0),  # measured 30.5 s ago: nobody works
        ([b"1200", b"345.6", b"2000000"], 1200, 0.0),  # measured in the future
        ([b"1200", None, None], 1200, 0.0),  # no sweep yet
        ([b"-3", b"nan", b"995000"], 0, 0.0),
        ([b"many", b"345.6", b"soon"], 0, 0.0),
        (ValueError("WRONGTYPE"), 0, 0.0),
    ],
)
def test_a_lane_shows_the_work_done_and_how_fast_it_went_lately(drain, done, rate):
    (lane, _) = run([worker("w", {"a": "f"})], [], {}, drains={("a", "bulk"): drain}).lanes
    assert (lane.lane, lane.tokens_done, lane.tokens_per_s) == ("bulk", done, rate)
