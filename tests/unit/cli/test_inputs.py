"""Files become texts, window by window; what cannot be read harms no other text."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import InvalidRequestError, SourceError
from embedmill_worker.cli.commands import embed_files
from embedmill_worker.cli.commands.embed_files import Texts, Unreadable, windows


class Stdin:
    """Standard input that holds some bytes."""

    def __init__(self, data):
        self.buffer = io.BytesIO(data)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Reads bytes as a file of a name, or as standard input."""

    def read(data, name="-", form="auto", key="text", **options):
        if name == "-":
            monkeypatch.setattr("sys.stdin", Stdin(data))
            return list(Texts(["-"], form=form, key=key, **options))
        (tmp_path / name).write_bytes(data)
        return list(Texts([str(tmp_path / name)], form=form, key=key, **options))

    return read


def details(found):
    return [text.detail for text in found if isinstance(text, Unreadable)]


@pytest.mark.parametrize("name", ["-", "a.txt"])
def test_every_line_is_a_text_and_empty_ones_count(texts, name):
    assert texts(b"a\n\nb\r\n c ", name) == ["a", "", "b", " c "]
    assert texts(b"", name) == []


def test_a_byte_order_mark_is_no_part_of_the_text(texts):
    assert texts(b"\xef\xbb\xbfa\n\xef\xbb\xbfb") == ["a", "b"]


def test_bytes_that_are_not_utf_8_spoil_one_text_only(texts):
    first, bad, last = texts(b"a\n\xff\nb")
    assert (first, last) == ("a", "b")
    assert bad.detail == "stdin:2 is not UTF-8: name its encoding, as in --encoding latin-1"
    assert texts(b"caf\xe9\n", encoding="latin-1") == ["café"]


def test_jsonl_is_known_by_its_name_or_by_its_first_line(texts):
    assert texts(b'{"text": "a"}\n\n{"text": "b", "id": 1}') == ["a", "b"]
    assert texts(b'{"body": "a"}', name="x.jsonl", key="body") == ["a"]
    assert texts(b'{"text": "a"}', form="lines") == ['{"text": "a"}']
    assert texts(b'\n{"text": "a"}\n') == ["a"]
    assert texts(b'plain\n{"text": "a"}') == ["plain", '{"text": "a"}']
    assert texts(b'{"text": "a"}\n', name="x.txt") == ["a"]


def test_jsonl_without_the_field_is_no_text(texts):
    assert details(texts(b'{"id": 1, "body": "x"}\n')) == [
        "stdin:1 has no field 'text'; name the text field (--text-field)"
    ]
    with pytest.raises(InvalidRequestError, match="no field 'text', only body, id"):
        texts(b'{"id": 1, "body": "x"}\n', name="x.jsonl")


def test_files_are_read_as_reindex_reads_them(texts):
    assert texts(gzip.compress(b'{"text": "a"}\n'), name="x.jsonl.gz") == ["a"]
    assert texts(gzip.compress(b"a\nb\n")) == ["a", "b"]
    assert texts(b'[{"text": "a"}, {"text": "b"}]', name="x.json") == ["a", "b"]
    assert texts(b"id;text\n1;a\n", name="x.csv", delimiter=";") == ["a"]
    assert texts(b'{"doc": {"body": "a"}, "id": 1.5}', name="x.jsonl", key="doc.body") == ["a"], "ids do not count"
    with pytest.raises(SourceError, match="ZIP"):
        texts(b"PK\x03\x04" + bytes(99), name="x.zip")


def test_what_could_not_be_read_is_told(tmp_path):
    path = tmp_path / "cut.txt.gz"
    path.write_bytes(gzip.compress(b"a\n" * 10)[:-4])
    found = Texts([str(path)], form="auto", key="text")
    assert list(found) == ["a"] * 10
    assert found.unread == [
        "cut.txt.gz: the file is cut off: its gzip data do not end; only the records before it are read"
    ]


def test_a_line_without_a_text_says_why_and_not_what(texts):
    found = texts(b'{"text": "a"}\n{"t": 1}\nsecret\n["secret"]\n{"text": 5}\n{"text": "b"}', form="jsonl")
    assert [text for text in found if isinstance(text, str)] == ["a", "b"]
    assert details(found) == [
        "stdin:2 has no field 'text'; name the text field (--text-field)",
        "stdin:3 is not JSON",
        "stdin:4 is not a JSON object",
        "stdin:5 holds int, not str, in 'text'",
    ]


@given(st.lists(st.one_of(st.text(max_size=6), st.builds(Unreadable, st.just("is bad"))), max_size=50))
def test_windows_hold_every_text_once_and_in_order(given_texts):
    inputs_before = embed_files.WINDOW_TEXTS, embed_files.WINDOW_CHARS
    embed_files.WINDOW_TEXTS, embed_files.WINDOW_CHARS = 7, 20
    try:
        cut = list(windows(given_texts))
    finally:
        embed_files.WINDOW_TEXTS, embed_files.WINDOW_CHARS = inputs_before
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
