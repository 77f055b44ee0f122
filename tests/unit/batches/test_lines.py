"""Lines of a batch's files: which are requests, what is said of others, and what is written."""

import io
import json

import pytest

from embedmill_worker.batches.lines import (
    MAX_FAULTS,
    MAX_INPUTS,
    MAX_LINES,
    FileCheck,
    InvalidLineError,
    RawLine,
    answered,
    parse_line,
    read_lines,
    unanswered,
)

CANARY = "canaryzebra"


def packed(**changes):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "text"}}
    return json.dumps(line | changes).encode()


def raw(data, number=1):
    return RawLine(number=number, end=0, data=data)


def fault_of(data):
    with pytest.raises(InvalidLineError) as caught:
        parse_line(raw(data, 7))
    return caught.value.fault


def test_a_request():
    line = parse_line(raw(packed(body={"model": "m", "input": ["a", "b"], "other": 1})))
    assert (line.custom_id, line.model, line.n_inputs) == ("a", "m", 2)
    assert json.loads(line.body)["input"] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "count"), [("a", 1), (["a"] * 3, 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1), (5, 1)]
)
def test_inputs_are_counted_as_texts(value, count):
    assert parse_line(raw(packed(body={"input": value}))).n_inputs == count


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"", "invalid_json_line", None),
        (b"{", "invalid_json_line", None),
        (b"\x00", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (packed() + packed(), "invalid_json_line", None),
        (packed(custom_id="\ud800"), "invalid_json_line", None),
        (b'{"a":' + b"[" * 100_000, "invalid_json_line", None),
        (b"[]", "invalid_type", None),
        (b"null", "invalid_type", None),
        (b"{}", "missing_required_parameter", "custom_id"),
        (packed(custom_id=3), "invalid_type", "custom_id"),
        (packed(custom_id=""), "invalid_value", "custom_id"),
        (packed(custom_id="x" * 513), "invalid_value", "custom_id"),
        (packed(method="GET"), "invalid_method", "method"),
        (packed(method=None), "invalid_type", "method"),
        (packed(url="/v1/chat/completions"), "invalid_url", "url"),
        (packed(body=[CANARY]), "invalid_type", None),
        (packed(body=CANARY), "invalid_type", None),
        (packed(body={"model": [CANARY]}), "invalid_type", "body.model"),
    ],
)
def test_what_is_not_a_request_is_told_by_its_line_and_not_quoted(data, code, param):
    fault = fault_of(data)
    assert (fault.code, fault.param, fault.line) == (code, param, 7)
    assert fault.message and CANARY not in fault.message


def test_a_missing_field_is_named():
    for name in ("custom_id", "method", "url", "body"):
        line = json.loads(packed())
        del line[name]
        assert fault_of(json.dumps(line).encode()).param == name


def read(data, **options):
    return [
        (line.number, line.end) for line in read_lines(io.BytesIO(data), **{"number": 0, "max_bytes": 10} | options)
    ]


def test_lines_are_numbered_with_blank_ones_which_are_left_out():
    assert read(b"one\n\n  \r\ntwo\r\nthree") == [(1, 4), (4, 14), (5, 19)]
    assert read(b"") == read(b"\n\n") == []
    file = io.BytesIO(b"one\ntwo\nthree\n")
    file.seek(4)
    assert [(each.number, each.end) for each in read_lines(file, number=1, max_bytes=10)] == [(2, 8), (3, 14)]


def test_a_mark_of_utf_8_is_left_out():
    (line,) = read_lines(io.BytesIO(b"\xef\xbb\xbf{}\n"), number=0, max_bytes=10)
    assert (line.data, line.end) == (b"{}\n", 6)


def test_a_line_without_end_is_not_read_whole():
    class Endless(io.RawIOBase):
        read_bytes = 0

        def readable(self):
            return True

        def seekable(self):
            return True

        def seek(self, offset, whence=0):
            return 0

        def tell(self):
            return 0

        def readinto(self, buffer):
            self.read_bytes += len(buffer)
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    endless = Endless()
    with pytest.raises(InvalidLineError) as caught:
        list(read_lines(io.BufferedReader(endless), number=0, max_bytes=1_000_000))
    assert (caught.value.fault.code, caught.value.fault.line) == ("line_too_long", 1)
    assert endless.read_bytes < 2_000_000
    assert read(b"0123456789\n") == [(1, 11)]  # the end of a line does not count


def check(lines):
    found = FileCheck()
    for number, data in enumerate(lines, 1):
        if not found.is_over:
            found.add(raw(data, number))
    found.finish()
    return [(fault.code, fault.line) for fault in found.faults]


def test_a_file():
    assert check([packed(), packed(custom_id="b")]) == []
    assert check([]) == [("empty_file", None)]
    assert check([packed(), packed(), b"{"]) == [("duplicate_custom_id", 2), ("invalid_json_line", 3)]
    assert check([b"{", packed(), packed(custom_id="b")]) == [("invalid_json_line", 1)]
    other = packed(custom_id="b", body={"model": "other", "input": "a"})
    assert check([packed(), other]) == [("mismatched_model", 2)]
    assert check([packed(), packed(custom_id="b", body={"input": "a"})]) == [("mismatched_model", 2)]


def test_a_file_has_bounds():
    assert len(check([b"{"] * 1_000)) == MAX_FAULTS
    many = packed(body={"input": ["a"] * 2_000})
    lines = [many.replace(b'"a", "method"', b'"%d", "method"' % i) for i in range(MAX_INPUTS // 2_000)]
    assert check(lines) == []
    assert check([*lines, packed(custom_id="z", body={"input": "a"})]) == [("too_many_inputs", None)]
    lines = [b'{"custom_id":"%d","method":"POST","url":"/v1/embeddings","body":{}}' % i for i in range(MAX_LINES + 5)]
    assert ("too_many_requests", None) in check(lines)
    assert check(lines[:MAX_LINES]) == []


def test_lines_that_are_written_have_the_same_id_in_every_run():
    line = answered("batch_1", 3, "mine", 200, {"data": []}, tokens=5)
    assert line == answered("batch_1", 3, "mine", 200, {"data": []}, tokens=5)
    assert line.data.endswith(b"}\n") and line.data.count(b"\n") == 1 and not line.is_error
    found = json.loads(line.data)
    assert found["custom_id"] == "mine" and found["error"] is None
    assert found["response"]["status_code"] == 200 and found["response"]["body"] == {"data": []}
    late = unanswered("batch_1", 4, "mine", "batch_expired", "why")
    assert late.is_error and json.loads(late.data)["response"] is None
    assert json.loads(late.data)["error"] == {"code": "batch_expired", "message": "why"}
    assert json.loads(late.data)["id"] != found["id"]
