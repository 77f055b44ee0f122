"""Forms: the same however they are cut, and bounded in all that stays in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.gateway.apis.multipart import MAX_FIELD_BYTES, FileForm
from embedmill_worker.gateway.refusals import Kind, RefusedError

KIND = "multipart/form-data; boundary=zebra"


def part(name, data, filename=None):
    more = b"" if filename is None else b'; filename="' + filename + b'"'
    return b'--zebra\r\ncontent-disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + data + b"\r\n"


END = b"--zebra--\r\n"


def read(body, cuts=(), *, max_bytes=1_000):
    parts = []
    form = FileForm(KIND, parts.append, max_bytes=max_bytes)
    at = 0
    for stop in sorted({*cuts, len(body)}):
        form.feed(body[at:stop])
        at = stop
    form.finish()
    return form, b"".join(parts)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 500), max_size=20))
def test_a_form_is_the_same_however_it_is_cut(data, cuts):
    body = part(b"purpose", b"batch") + part(b"file", data, b"a.jsonl") + part(b"x[y]", b"1") + END
    if b"\r\n--zebra" in b"\r\n" + data:
        return
    form, found = read(body, [cut for cut in cuts if cut < len(body)])
    assert found == data and form.n_bytes == len(data)
    assert (form.filename, form.fields) == ("a.jsonl", {"purpose": "batch", "x[y]": "1"})


@given(st.binary(max_size=2_000))
def test_no_body_does_more_than_be_refused(body):
    try:
        read(body)
    except RefusedError as error:
        assert error.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"", "file"),
        (b"a\x00b\x1f\x7f", "a\ufffdb\ufffd\ufffd"),
        (b"\xff", "\ufffd"),
        ("é😀".encode(), "é😀"),
        (b"x" * 1_000, "x" * 255),
    ],
)
def test_names_are_text_without_control_characters(given_name, name):
    try:
        form, _ = read(part(b"file", b"{}", given_name) + END)
    except RefusedError:  # the parser itself may refuse a control character in a header
        assert b"\x00" in given_name
    else:
        assert form.filename == name


def test_what_is_too_large_is_refused_when_it_comes():
    for body, kind in (
        (part(b"file", b"x" * 1_001, b"a"), Kind.TOO_LARGE),
        (part(b"purpose", b"x" * (MAX_FIELD_BYTES + 1)), Kind.INVALID),
        (part(b"a", b"b") * 40, Kind.INVALID),
        (part(b"file", b"", b"a") * 2, Kind.INVALID),
    ):
        form = FileForm(KIND, lambda _data: None, max_bytes=1_000)
        with pytest.raises(RefusedError) as caught:
            form.feed(body)
        assert caught.value.kind is kind


@pytest.mark.parametrize(
    "kind", ["", "multipart/form-data", "application/json; boundary=a", KIND + "z" * 1_000, "\xff"]
)
def test_other_types_are_refused(kind):
    with pytest.raises(RefusedError):
        FileForm(kind, lambda _data: None, max_bytes=1_000)
