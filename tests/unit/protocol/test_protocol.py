"""What goes through Redis: it comes out as it went in, and nothing else comes out at all."""

import dataclasses
import json
import tracemalloc
import zlib
from typing import get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_CHUNK_TEXTS, MAX_DIMENSION, MAX_JOB_TEXTS, MAX_TEXT_CHARS
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import (
    Chunk,
    ChunkReply,
    digest,
    pack_chunk,
    pack_rejected,
    pack_reply,
    read_rejected,
    unpack_chunk,
    unpack_reply,
    weigh_chunk,
    without_weight,
)
from embedmill.protocol.options import EmbedOptions, pack_options, unpack_options
from embedmill.protocol.vectors import Dtype, DtypeName
from embedmill.protocol.workers import WorkerInfo
from embedmill.reply import Reason, Rejected

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
positions = st.integers(0, MAX_JOB_TEXTS - 1)
names = st.text(max_size=20).filter(str.isprintable)
rejections = st.builds(Rejected, index=positions, reason=st.sampled_from(Reason), detail=names)
options = st.builds(
    EmbedOptions,
    input_type=st.sampled_from([None, "query", "passage"]),
    dimensions=st.none() | st.integers(1, MAX_DIMENSION),
    dtype=st.sampled_from(Dtype),
    truncate=st.booleans(),
)


def uint32(values):
    return np.array(values, dtype=np.uint32)


@st.composite
def chunks(draw):
    values = draw(st.lists(texts, max_size=20))
    indices = draw(st.lists(positions, min_size=len(values), max_size=len(values)))
    return Chunk(indices=uint32(indices), texts=tuple(values))


@st.composite
def replies(draw):
    count, dtype, dimension = draw(st.integers(0, 8)), draw(st.sampled_from(Dtype)), 8 * draw(st.integers(0, 4))
    size = count * dtype.columns(dimension) * dtype.numpy.itemsize
    lists = st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)
    return ChunkReply(
        indices=uint32(draw(lists)),
        vectors=draw(st.binary(min_size=size, max_size=size)),
        dtype=dtype,
        dimension=dimension,
        token_counts=uint32(draw(lists)),
        truncated=np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=np.bool_),
        rejected=tuple(draw(st.lists(rejections, max_size=4))),
        fingerprint=draw(names),
        runtime=draw(names),
        timings_ms=draw(st.dictionaries(names, st.floats(0, 1e6), max_size=4)),
    )


READERS = [
    unpack_chunk,
    unpack_reply,
    unpack_options,
    read_rejected,
    ModelCard.from_json,
    WorkerInfo.from_json,
]


def read(data):
    """Passes the bytes to every reader; a MessageError is as good as a value, anything else is not."""
    for reader in READERS:
        try:
            reader(data)
        except MessageError as error:
            assert str(error)


@given(chunks())
def test_a_chunk_comes_back(chunk):
    back = unpack_chunk(pack_chunk(chunk))
    assert back.texts == chunk.texts
    assert back.indices.tolist() == chunk.indices.tolist()
    assert back.indices.dtype == np.uint32


@given(replies())
def test_a_reply_comes_back(reply):
    back = unpack_reply(pack_reply(reply))
    assert pack_reply(back) == pack_reply(reply)
    for name in ("indices", "token_counts", "truncated"):
        assert getattr(back, name).tolist() == getattr(reply, name).tolist()
    for name in ("vectors", "dtype", "dimension", "rejected", "fingerprint", "runtime", "timings_ms"):
        assert getattr(back, name) == getattr(reply, name)


@given(options)
def test_options_come_back(asked):
    assert unpack_options(pack_options(asked)) == asked


@given(st.lists(rejections, max_size=20))
def test_rejections_come_back(rejected):
    assert read_rejected(pack_rejected(rejected)) == tuple(rejected)


def test_a_job_without_rejections_stores_none():
    assert read_rejected(b"") == ()


def test_a_large_chunk_is_compressed_and_comes_back():
    chunk = Chunk(indices=uint32([7]), texts=("kata " * 10_000,))
    packed = pack_chunk(chunk)
    assert len(packed) < 1_000
    assert unpack_chunk(packed).texts == chunk.texts


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_read(data):
    read(data)
    read(b"\x00" + data)
    read(b"\x01" + zlib.compress(data))


@given(values)
def test_arbitrary_values_are_refused_or_read(value):
    read(b"\x00" + msgpack.packb(value))


@given(st.one_of(values, st.lists(values, min_size=10, max_size=10), st.lists(values, min_size=4, max_size=4)))
def test_lists_of_the_right_length_are_refused_or_read(value):
    read(b"\x00" + msgpack.packb(value))


@given(
    st.one_of(
        replies().map(pack_reply),
        chunks().map(pack_chunk),
        options.map(pack_options),
        st.lists(rejections, max_size=4).map(pack_rejected),
    ),
    st.data(),
)
def test_mutated_frames_are_refused_or_read(frame, data):
    damaged = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    read(bytes(damaged))
    read(bytes(damaged[:cut]))
    read(bytes(damaged) + b"\x00")


@given(
    st.dictionaries(
        st.sampled_from(["name", "fingerprint", "dimension", "max_tokens", "chars_per_token", "tokens_per_s"]),
        values.filter(lambda v: not isinstance(v, bytes)) | st.just(1),
    )
)
def test_a_card_that_is_read_can_be_counted_with(fields):
    data = json.dumps(fields, default=repr)
    try:
        card = ModelCard.from_json(data)
    except MessageError:
        return
    assert card.max_tokens / card.chars_per_token / card.tokens_per_s > 0


@pytest.mark.parametrize("field", ["dimension", "max_tokens", "chars_per_token", "tokens_per_s"])
@pytest.mark.parametrize("value", ["4", 0, -1, True, None, float("nan"), float("inf")])
def test_a_card_with_an_impossible_number_is_refused(field, value):
    good = {
        "name": "m",
        "fingerprint": "f",
        "dimension": 8,
        "max_tokens": 8,
        "chars_per_token": 4.0,
        "tokens_per_s": 1.0,
    }
    assert ModelCard.from_json(json.dumps(good)).name == "m"
    with pytest.raises(MessageError):
        ModelCard.from_json(json.dumps({**good, field: value}))


def test_cards_and_workers_of_newer_versions_are_read_without_what_is_new():
    card = ModelCard(name="m", fingerprint="f", dimension=8, max_tokens=8, chars_per_token=4.0, tokens_per_s=1.0)
    assert ModelCard.from_json(json.dumps({**json.loads(card.to_json()), "colour": "red"})) == card
    worker = WorkerInfo(
        worker_id="w", name="n", pid=1, host="h", state="ready", children=2, models={"m": "f"}, active=("t",)
    )
    assert WorkerInfo.from_json(json.dumps({**json.loads(worker.to_json()), "colour": "red"})) == worker


@pytest.mark.parametrize("field", ["pid", "children", "models", "name", "active"])
def test_a_worker_with_an_impossible_field_is_refused(field):
    worker = WorkerInfo(worker_id="w", name="n", pid=1, host="h", state="ready", children=2, models={})
    with pytest.raises(MessageError):
        WorkerInfo.from_json(json.dumps({**json.loads(worker.to_json()), field: 1.5}))


def peak_bytes(reader, data):
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            reader(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_compressed_bomb_is_refused_before_it_fills_the_memory():
    bomb = b"\x01" + zlib.compress(bytes(1 << 28), 1)
    assert len(bomb) < 1 << 21
    for reader in (unpack_options, unpack_chunk, unpack_reply, read_rejected):
        assert peak_bytes(reader, bomb) < 80 << 20


@pytest.mark.parametrize("reader", [unpack_options, unpack_chunk, unpack_reply])
@pytest.mark.parametrize(
    "data",
    [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff" * 900, b"\xc6\xff\xff\xff\xff", b"\x91" * 4_000, b"\xdf\xff\xff\xff\xff"],
    ids=["list", "nested lists", "bytes", "deep", "map"],
)
def test_a_length_without_its_bytes_takes_no_memory(reader, data):
    assert peak_bytes(reader, b"\x00" + data) < 1 << 26


def test_a_frame_over_its_limit_is_refused_unread():
    with pytest.raises(MessageError, match="4097 bytes, limit 4096"):
        unpack_options(b"\x00" * 4_097)


def test_what_another_protocol_wrote_is_refused():
    with pytest.raises(MessageError, match="not written by this protocol"):
        unpack_chunk(b"\x80\x04\x95 a pickle, for example")


def test_a_chunk_holds_no_text_that_no_client_would_send():
    chunk = Chunk(indices=np.zeros(1, dtype=np.uint32), texts=("x" * (MAX_TEXT_CHARS + 1),))
    with pytest.raises(MessageError, match="1000001 characters, limit 1000000"):
        unpack_chunk(pack_chunk(chunk))


def test_a_chunk_holds_no_more_texts_than_it_may():
    count = MAX_CHUNK_TEXTS + 1
    packed = pack_chunk(Chunk(indices=uint32(range(count)), texts=("",) * count))
    with pytest.raises(MessageError, match="at most 1024"):
        unpack_chunk(packed)


def test_no_error_quotes_a_text():
    packed = b"\x00" + msgpack.packb([b"", ["zebra quartz", 3]])
    with pytest.raises(MessageError) as caught:
        unpack_chunk(packed)
    assert "quartz" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_type", "document"),
        ("dimensions", 0),
        ("dimensions", True),
        ("dimensions", 2.0),
        ("dimensions", MAX_DIMENSION + 1),
        ("truncate", 1),
        ("truncate", "no"),
        ("dtype", "float64"),
        ("dtype", None),
        ("dtype", ["int8"]),
    ],
)
def test_options_that_cannot_be_served_do_not_exist(field, value):
    with pytest.raises(InvalidRequestError, match=field):
        EmbedOptions(**{field: value})


def test_a_dtype_may_be_given_by_its_name():
    assert get_args(DtypeName) == tuple(Dtype)
    for name in get_args(DtypeName):
        assert EmbedOptions(dtype=name) == EmbedOptions(dtype=Dtype(name))
        assert type(EmbedOptions(dtype=name).dtype) is Dtype


def encoded(values):
    return [value.encode() for value in values]


@given(st.lists(texts, min_size=1, max_size=10), options)
def test_the_digest_tells_any_two_contents_apart(values, asked):
    whole = digest("m", asked, encoded(values))
    assert whole == digest("m", asked, iter(encoded(values)))
    joined = ["".join(values[:2]), *values[2:]] if len(values) > 1 else [*values, ""]
    assert whole != digest("m", asked, encoded(joined))
    assert whole != digest("n", asked, encoded(values))
    assert whole != digest("m", dataclasses.replace(asked, truncate=not asked.truncate), encoded(values))


@settings(max_examples=20)
@given(st.binary(max_size=20), st.integers(1, 2**32 - 1), st.integers(1, 2**40))
def test_a_weight_is_eight_bytes_before_its_chunk(packed, n_texts, n_tokens):
    stored = weigh_chunk(packed, n_texts, n_tokens)
    assert np.frombuffer(stored[:8], dtype="<u4").tolist() == [n_texts, min(n_tokens, 2**32 - 1)]
    assert without_weight(stored) == packed
