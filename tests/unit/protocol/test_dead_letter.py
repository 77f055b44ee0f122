"""A dead letter: packed, read back, and refused if no worker writes it."""

import dataclasses

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_KEPT_TEXT_BYTES
from embedmill.protocol import dead_letter
from embedmill.protocol.codec import pack
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype

KNOWN = {
    "job_id": "j",
    "chunk": 3,
    "index": 7,
    "model": "m",
    "lane": "bulk",
    "reason": "crashed",
    "detail": "its process died 3 times",
    "attempts": 3,
    "worker": "host.1.ab",
    "options": EmbedOptions(input_type="query", dtype=Dtype.INT8),
}
LETTER = dead_letter.of_text("zebra", keep=True, **KNOWN)


def values():
    return msgpack.unpackb(dead_letter.pack(LETTER)[1:])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9_000), st.booleans())
def test_a_letter_comes_back_as_it_was(text, keep):
    letter = dead_letter.of_text(text, keep=keep, **KNOWN)
    back = dead_letter.unpack("1764000000000-2", dead_letter.pack(letter))
    assert back == dataclasses.replace(letter, id="1764000000000-2")
    assert back.at_ms == 1_764_000_000_000
    assert (back.text == text) if keep and len(text.encode()) <= MAX_KEPT_TEXT_BYTES else back.text is None


@given(st.binary(max_size=300))
def test_any_other_bytes_are_a_message_error(data):
    with pytest.raises(MessageError):
        dead_letter.unpack("1-0", data)


WRONG = [
    *[(0, "x" * 600), (1, -1), (1, 1 << 40), (2, -1), (2, 65_536), (2, "0"), (4, "fast"), (5, b"crashed"), (7, -1)],
    *[(9, "0"), (9, "Z" * 64), (10, True), (11, 1.0), (12, b"\x80"), (13, b"zebra"), (13, "x" * 20_000), (13, 5)],
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_field_that_no_worker_writes_is_a_message_error(place, value):
    packed = values()
    packed[place] = value
    with pytest.raises(MessageError):
        dead_letter.unpack("1-0", pack(packed))


def test_a_bomb_is_not_inflated():
    with pytest.raises(MessageError, match="more than"):
        dead_letter.unpack("1-0", pack(["x" * 1_000_000]))


def test_no_text_stands_in_a_letter_s_repr():
    assert "zebra" not in repr(LETTER)
    assert LETTER.text == "zebra"


def test_the_kept_text_is_tried_again_or_the_same_one_from_the_caller():
    forgotten = dataclasses.replace(LETTER, text=None)
    assert dead_letter.text_to_requeue(LETTER, None) == "zebra"
    assert dead_letter.text_to_requeue(forgotten, "zebra") == "zebra"
    with pytest.raises(InvalidRequestError, match=r"was not kept; pass text=….* or set EMBEDMILL_KEEP_DEAD_TEXTS=1"):
        dead_letter.text_to_requeue(forgotten, None)
    with pytest.raises(InvalidRequestError, match=r"5 characters and sha256 .* exactly as it was submitted") as caught:
        dead_letter.text_to_requeue(forgotten, "quagg")
    assert "quagg" not in str(caught.value)
    for wrong in (b"zebra", 5):
        with pytest.raises(InvalidRequestError):
            dead_letter.text_to_requeue(forgotten, wrong)


def test_a_whole_chunk_is_not_tried_again_from_its_letter():
    chunk = dead_letter.of_chunk(b"junk", **{name: value for name, value in KNOWN.items() if name != "index"})
    assert isinstance(dead_letter.unpack("1-0", dead_letter.pack(chunk)), DeadLetter)
    with pytest.raises(InvalidRequestError, match="whole chunk of job j"):
        dead_letter.text_to_requeue(chunk, "text")


@pytest.mark.parametrize("letter_id", ["", "1", "+", "-", "(1-0", "1-0 ", "x-1", 5, None])
def test_what_is_no_letter_s_id_is_refused(letter_id):
    with pytest.raises(InvalidRequestError):
        dead_letter.check_id(letter_id)
