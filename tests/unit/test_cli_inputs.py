"""Lines and JSONL become texts, window by window; a line that cannot be read harms no other."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.cli import inputs
from embedmill_worker.cli.inputs import Unreadable, read, windows

#: Texts that one line can hold.
LINES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))


def texts(data, name="-", form="auto", key="text"):
    return list(read(io.BytesIO(data), name, form=form, key=key))


def test_every_line_is_a_text_and_empty_ones_count():
    assert texts(b"a\n\nb\r\n c ") == ["a", "", "b", " c "]
    assert texts(b"") == []


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert texts(b"\xef\xbb\xbfa\n\xef\xbb\xbfb") == ["a", "\ufeffb"]


def test_bytes_that_are_not_utf_8_spoil_one_text_only():
    assert texts(b"a\n\xff\nb") == ["a", "\udcff", "b"]


def test_jsonl_is_known_by_its_name_or_by_its_first_line():
    assert texts(b'{"text": "a"}\n\n{"text": "b", "id": 1}') == ["a", "b"]
    assert texts(b'{"body": "a"}', name="x.jsonl", key="body") == ["a"]
    assert texts(b'{"text": "a"}', form="lines") == ['{"text": "a"}']
    assert texts(b'{"other": "a"}') == ['{"other": "a"}']
    assert texts(b'plain\n{"text": "a"}') == ["plain", '{"text": "a"}']


def test_a_line_without_a_text_says_why_and_not_what():
    found = texts(b'{"text": "a"}\n{"t": 1}\nsecret\n["secret"]\n{"text": 5}\n{"text": "b"}', form="jsonl")
    assert [text for text in found if isinstance(text, str)] == ["a", "b"]
    details = [text.detail for text in found if isinstance(text, Unreadable)]
    assert details == [
        "line 2 of stdin has no field 'text'; name the right one with --field",
        "line 3 of stdin is not JSON",
        "line 4 of stdin is not a JSON object",
        "line 5 of stdin holds int, not str, in 'text'",
    ]


@given(st.lists(LINES))
def test_what_was_written_as_jsonl_is_read_again(written):
    data = "".join(json.dumps({"text": text}) + "\n" for text in written).encode()
    assert texts(data, form="jsonl") == written


@given(st.lists(LINES.filter(lambda line: not line.startswith("\ufeff"))))
def test_what_was_written_as_lines_is_read_again(written):
    assert texts("".join(f"{text}\n" for text in written).encode(), form="lines") == written


@given(st.lists(st.one_of(st.text(max_size=6), st.builds(Unreadable, st.just("is bad"))), max_size=50))
def test_windows_hold_every_text_once_and_in_order(given_texts):
    inputs_before = inputs.WINDOW_TEXTS, inputs.WINDOW_CHARS
    inputs.WINDOW_TEXTS, inputs.WINDOW_CHARS = 7, 20
    try:
        cut = list(windows(given_texts))
    finally:
        inputs.WINDOW_TEXTS, inputs.WINDOW_CHARS = inputs_before
    again = [
        Unreadable(window.problems[i]) if i in window.problems else text
        for window in cut
        for i, text in enumerate(window.texts)
    ]
    assert again == given_texts
    assert [window.start for window in cut] == [sum(len(w.texts) for w in cut[:i]) for i in range(len(cut))]
    for window in cut:
        assert 1 <= len(window.texts) <= 7
        assert sum(map(len, window.texts[:-1])) <= 20
