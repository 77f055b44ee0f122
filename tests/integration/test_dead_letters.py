"""Dead letters on a real Valkey: written with the commit, bounded, and handled by both clients."""

import asyncio

import pytest

from embedmill import (
    AsyncEmbeddingClient,
    BrokerUnavailableError,
    EmbeddingClient,
    InvalidRequestError,
    MessageError,
    UnknownLetterError,
)
from embedmill.jobs import dead_letters, reading
from embedmill.limits import DEAD_LETTER_TTL_S
from embedmill.protocol import dead_letter
from embedmill.protocol.chunks import unpack_chunk
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype
from embedmill_worker.jobs import claims

TEXTS = [f"{n:04d} " * 16 for n in range(3)]


def letter(text, *, keep=False, index=0, **known):
    defaults = {"job_id": "job", "chunk": 0, "model": "paper", "lane": "interactive", "reason": "crashed"}
    defaults |= {"detail": "d", "attempts": 3, "worker": "w"}
    return dead_letter.pack(dead_letter.of_text(text, keep=keep, index=index, **defaults | known))


@pytest.fixture(params=["blocking", "asyncio"])
def call(request, bench):
    """Calls a method of ``client.dead`` by name, on one client or the other."""
    how = {"redis_url": bench.redis_url, "model": "paper", "namespace": bench.namespace}

    async def awaited(name, *args, **kwargs):
        async with AsyncEmbeddingClient(**how) as client:
            return await getattr(client.dead, name)(*args, **kwargs)

    if request.param == "asyncio":
        return lambda *args, **kwargs: asyncio.run(awaited(*args, **kwargs))
    client = EmbeddingClient(**how)
    request.addfinalizer(client.close)
    return lambda name, *args, **kwargs: getattr(client.dead, name)(*args, **kwargs)


def bury(bench, *letters, job_id="job"):
    """Commits a chunk with letters; gives what the commit said."""
    bench.submit(TEXTS, job_id=job_id)
    ref = bench.take().ref
    return bench.run(claims.commit(bench.keys, ref, b"reply", letters)), ref


def test_letters_are_written_with_the_first_commit_alone(bench, call):
    committed, ref = bury(bench, letter("a", index=1), letter("b", index=2))
    assert committed
    assert not bench.run(claims.commit(bench.keys, ref, b"again", [letter("a")]))
    assert [x.index for x in call("list")] == [2, 1]
    assert 0 < bench.redis.ttl(bench.keys.dead) <= DEAD_LETTER_TTL_S


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_job_that_is_over_writes_no_letter(bench, how):
    bench.submit(TEXTS)
    ref = bench.take().ref
    bench.run(reading.end(bench.keys, "job", how))
    assert not bench.run(claims.commit(bench.keys, ref, b"reply", [letter("a")]))
    assert not bench.redis.exists(bench.keys.dead)


def test_a_commit_without_letters_makes_no_key(bench):
    bury(bench)
    assert not bench.redis.exists(bench.keys.dead)


def test_the_oldest_letters_make_room_for_new_ones_and_the_old_are_forgotten(bench, call, monkeypatch):
    monkeypatch.setattr(claims, "MAX_DEAD_LETTERS", 3)
    bench.redis.xadd(bench.keys.dead, {"l": letter("ancient")}, id="1000-0")
    bury(bench, letter("a", index=1))
    assert [x.index for x in call("list")] == [1]
    bury(bench, *[letter("a", index=n) for n in range(2, 6)], job_id="other")
    assert [x.index for x in call("list")] == [5, 4, 3]


def test_letters_are_listed_newest_first_page_by_page(bench, call, monkeypatch):
    monkeypatch.setattr("embedmill.jobs.dead_letters.PAGE", 2)
    bury(bench, *[letter("a", index=n) for n in range(5)])
    assert [x.index for x in call("list")] == [4, 3, 2, 1, 0]
    assert [x.index for x in call("list", limit=3)] == [4, 3, 2]
    for limit in (0, 10_001, True, "5"):
        with pytest.raises(InvalidRequestError):
            call("list", limit=limit)


def test_a_letter_that_cannot_be_read_hides_no_other_and_can_be_dropped(bench, call):
    bury(bench, letter("a", index=1))
    junk = [bench.redis.xadd(bench.keys.dead, fields).decode() for fields in ({"l": b"junk"}, {"l": b"", "m": b""})]
    bury(bench, letter("a", index=2), job_id="other")
    assert [x.reason for x in call("list")] == ["crashed", "unreadable", "unreadable", "crashed"]
    for letter_id in junk:
        with pytest.raises(MessageError):
            call("get", letter_id)
        assert call("drop", letter_id) is True
    assert [x.index for x in call("list")] == [2, 1]


def test_what_is_not_there_is_said_to_be_so(bench, call):
    assert call("list") == []
    for method in ("get", "requeue"):
        with pytest.raises(UnknownLetterError, match="1-0"):
            call(method, "1-0")
    assert (call("drop", "1-0"), call("drop_all")) == (False, 0)
    bury(bench, letter("a"), letter("b"))
    assert (call("drop_all"), call("list")) == (2, [])


def test_a_text_tried_again_has_the_options_it_had_and_its_letter_is_gone(bench, call):
    options = EmbedOptions(dimensions=4, dtype=Dtype.FLOAT16)
    bury(bench, letter("kept", keep=True, options=options), letter("other", options=options))
    bench.run(reading.end(bench.keys, "job", "delete"))
    other, kept = call("list")
    with pytest.raises(InvalidRequestError, match="was not kept"):
        call("requeue", other.id)
    with pytest.raises(InvalidRequestError, match="sha256"):
        call("requeue", other.id, "another")
    ids = [call("requeue", kept.id).id, call("requeue", other.id, "other").id]
    assert ids == [f"requeued-{kept.id}", f"requeued-{other.id}"]
    for job_id in ids:
        assert bench.run(reading.read_record(bench.keys, job_id)).options == options
        assert bench.status(job_id).lane == "interactive"
    texts = [unpack_chunk(bench.claim(bench.pop(lane="interactive")).texts).texts for _ in ids]
    assert texts == [("kept",), ("other",)]
    assert call("list") == []


def test_a_requeue_whose_answer_got_lost_is_still_one_job(bench, monkeypatch):
    bury(bench, letter("kept", keep=True))
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        (kept,) = client.dead.list()

        def lost(*_):
            raise BrokerUnavailableError("redis://h", "no answer in time")

        with monkeypatch.context() as patched:
            patched.setattr(dead_letters, "drop", lost)
            with pytest.raises(BrokerUnavailableError):
                client.dead.requeue(kept.id)
        assert client.dead.requeue(kept.id).id == f"requeued-{kept.id}"
        assert client.dead.list() == []
    assert len(bench.doorbells(lane="interactive")) == 1


def test_no_text_is_in_a_letter_unless_it_was_to_be_kept(bench):
    bury(bench, letter("zebra quartz"))
    ((_, fields),) = bench.redis.xrange(bench.keys.dead)
    assert b"zebra" not in fields[b"l"]
