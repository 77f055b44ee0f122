"""Files as people have them: what they are is seen, what they hold is kept, and what cannot be read is told."""

import bz2
import decimal
import errno
import gzip
import json
import lzma
import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill import InvalidRequestError, SourceError
from embedmill.reindexing import BadRecord, Fields, Record, open_source
from embedmill.reindexing.metadata import to_json
from embedmill.reindexing.opening import check_apart, to_source
from embedmill.reindexing.sinks.registry import open_sink
from embedmill.reindexing.sources.base import notes_of
from embedmill.reindexing.sources.formats import csv_file, jsonl
from embedmill.reindexing.sources.registry import labels
from support.waiting import join

LINES = "".join(json.dumps({"id": i, "text": f"text {i}"}) + "\n" for i in "abc").encode()
ABC = [("a", "text a"), ("b", "text b"), ("c", "text c")]


def gzipped(data):
    return gzip.compress(data, mtime=0)  # without the time, the names of tests stay as they are


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return path


def read(*paths, **options):
    """Reads twice, and returns what both times gave."""
    source = open_source([str(path) for path in paths], **options)
    first, second = list(source), list(source)
    assert first == second
    return first


def texts(items):
    return [(item.id, item.text) if isinstance(item, Record) else (item.id, None) for item in items]


def metadata(items):
    return {item.id: json.loads(to_json(item.metadata)) for item in items}


def losses(items):
    return [item.detail for item in items if isinstance(item, BadRecord) and item.is_partial]


# What a file is


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("up.JSONL.GZ", gzipped(LINES)),
        ("no_ending", gzipped(LINES)),
        ("lies.jsonl", gzipped(LINES)),
        ("lies.csv.gz", b'id,text\na,text a\nb,text b\nc,"text c"\n'),
        ("members.jsonl.gz", gzipped(LINES[:27]) + gzipped(LINES[27:]) + bytes(1000)),
        ("a.jsonl.xz", lzma.compress(LINES[:30]) + lzma.compress(LINES[30:])),
        ("a.jsonl.bz2", bz2.compress(LINES[:30]) + bz2.compress(LINES[30:])),
        ("a.jsonl.zst", pa.compress(LINES, codec="zstd", asbytes=True) * 1),
        ("a.jsonl.lz4", pa.compress(LINES, codec="lz4", asbytes=True)),
        ("utf16.jsonl", LINES.decode().encode("utf-16")),
        ("utf16be.jsonl", b"\xfe\xff" + LINES.decode().encode("utf-16-be")),
        ("utf32.jsonl", LINES.decode().encode("utf-32")),
        ("bom.jsonl.gz", gzipped(b"\xef\xbb\xbf" + LINES)),
        ("bom_within.jsonl", b"\xef\xbb\xbf".join(LINES.splitlines(keepends=True))),
        ("mac.jsonl", LINES.replace(b"\n", b"\r")),
        ("windows.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("array.json", json.dumps([json.loads(line) for line in LINES.splitlines()], indent=1).encode()),
        ("one_line.json", json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()),
        ("lines.json", LINES),
        ("array.jsonl", b"[" + LINES.strip().replace(b"\n", b",\n") + b"]\n"),
        ("pretty.jsonl", "".join(json.dumps(json.loads(line), indent=2) for line in LINES.splitlines()).encode()),
        ("jsonl.txt", LINES),
        ("UP.TSV", b"id\ttext\na\ttext a\nb\ttext b\nc\ttext c\n"),
        ("blank.csv", b"\n,\nid,text\na,text a\nb,text b\n,\nc,text c\n\n"),
        ("excel.csv", b"sep=;\r\nid;text\r\na;text a\r\nb;text b\r\nc;text c\r\n"),
        ("utf16.csv", "id,text\na,text a\nb,text b\nc,text c\n".encode("utf-16")),
        ("mac.csv", b"id,text\ra,text a\rb,text b\rc,text c\r"),
        ("blanks.csv", b" id , text,\na,text a,\nb,text b,\nc,text c,\n"),
        ("together.csv", b"\xef\xbb\xbfid,text\na,text a\n\xef\xbb\xbfid,text\nb,text b\nc,text c\n"),
    ],
)
def test_a_file_is_read_by_what_it_is(tmp_path, name, data):
    assert texts(read(write(tmp_path / name, data))) == ABC


@pytest.mark.parametrize(
    "line",
    [
        "{not json}",
        "[1] is a note",
        "[] to do",
        "BZh9 begins so",
        "ID3 tags",
        "ORC and RIFF",
        "GIF89",
        "PAR1 of two",
        "<html> in words",
    ],
)
def test_a_text_that_begins_as_something_else_does_is_a_text(tmp_path, line):
    assert texts(read(write(tmp_path / "a.md", f"{line}\n"))) == [("a.md:1", line)]


def test_jsonl_whose_first_line_is_broken_or_long_is_jsonl(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"id": "x", "text": "x"} trailing\n{"text": "oh\n' + LINES)
    assert texts(read(path)) == [("a.jsonl:1", None), ("a.jsonl:2", None), *ABC]
    path = write(tmp_path / "b", json.dumps({"id": "x", "text": "x" * 100_000}) + "\n" + LINES.decode())
    assert texts(read(path))[1:] == ABC


def test_parquet_is_known_by_its_bytes_too(tmp_path):
    path = table(tmp_path / "rows.bin", {"id": ["a"], "text": ["one"]})
    assert texts(read(path)) == [("a", "one")]
    assert texts(read(path.rename(tmp_path / "ROWS.PQ"))) == [("a", "one")]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.zip", b"PK\x03\x04" + bytes(200), "ZIP"),
        ("a.docx", b"PK\x03\x04" + b"x" * 200, "ZIP"),
        ("a.tar", b"a.txt" + bytes(252) + b"ustar\x0000" + bytes(247), "tar"),
        ("a.tar.gz", gzipped(b"a.txt" + bytes(252) + b"ustar\x0000" + bytes(247)), "tar"),
        ("a.pdf", b"%PDF-1.7\nwords\n", "PDF"),
        ("a.txt", bytes(range(256)) * 20, "binary"),
        ("a.jsonl", LINES.decode().encode("utf-16-le"), "--encoding utf-16-le"),
        ("a.html", b"<p>words</p>\n", "HTML.*--format lines"),
        ("page", b"\n<!DOCTYPE html>\n<p>words</p>\n", "HTML"),
        ("a.xml", b"<a>words</a>\n", "XML"),
        ("a.feather", b"ARROW1\0\0" + bytes(99), "Arrow"),
        ("a.parquet.gz", gzipped(b"PAR1" + bytes(99)), "Parquet"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "PNG"),
        ("a.gz", gzipped(gzipped(LINES)), "twice"),
        ("a.db", b"SQLite format 3\0" + bytes(99), "SQLite"),
    ],
)
def test_what_holds_no_lines_is_refused_by_name(tmp_path, name, data, said):
    with pytest.raises(SourceError, match=said) as caught:
        read(write(tmp_path / name, data))
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize(
    ("name", "whole", "end"),
    [
        ("cut.jsonl.gz", gzipped, lambda data: data[:-3_000]),
        ("cut.jsonl.xz", lzma.compress, lambda data: data[:-3_000]),
        ("cut.jsonl.bz2", bz2.compress, lambda data: data[:-3_000]),
        ("cut.jsonl.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True), lambda data: data[:-3_000]),
        ("junk.jsonl.gz", gzipped, lambda data: data + b"junk after it"),
        ("junk.jsonl.xz", lzma.compress, lambda data: data + b"junk after it"),
        ("junk.jsonl.bz2", bz2.compress, lambda data: data + b"junk after it"),
        ("junk.jsonl.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True), lambda data: data + b"junk"),
        ("damaged.jsonl.gz", gzipped, lambda data: data[:-8] + bytes(8)),
    ],
)
def test_of_a_damaged_file_what_comes_before_is_kept_and_the_rest_told(tmp_path, name, whole, end):
    ids = np.random.default_rng(1).integers(0, 1 << 60, 40_000)  # hardly compressible
    data = "".join(json.dumps({"text": f"text {id}"}) + "\n" for id in ids).encode()
    *kept, lost = open_source([str(write(tmp_path / name, end(whole(data))))])
    assert 20_000 < len(kept) <= 40_000
    if name.startswith("junk") and not name.endswith("zst"):
        assert len(kept) == 40_000, "all of it was there"
    assert {item.text.split()[0] for item in kept} == {"text"}
    assert (lost.id, lost.is_partial, lost.is_anonymous) == (name, True, True)
    word = {"cut": "cut off", "junk": "other data follow", "damaged": "damaged"}[name.split(".")[0]]
    assert word in lost.detail


def test_an_encoding_may_be_named_and_what_it_does_not_know_is_one_reject(tmp_path):
    path = write(tmp_path / "a.csv", "id,text\na,café\nb,dua\n".encode("latin-1"))
    assert texts(read(path, encoding="latin-1")) == [("a", "café"), ("b", "dua")]
    path = write(tmp_path / "b.jsonl", b'{"id": "a", "text": "x\x81"}\n{"id": "b", "text": "\x80"}\n')
    bad, good = read(path, encoding="cp1252")
    assert (bad.id, bad.reason, good.text) == ("a", "invalid_unicode", "€")
    assert "b.jsonl:1 is not CP1252" in bad.detail
    sjis = write(tmp_path / "c.txt", "船\n犬\n".encode("shift_jis"))
    assert texts(read(sjis, encoding="sjis")) == [("c.txt:1", "船"), ("c.txt:2", "犬")]
    assert texts(read(write(tmp_path / "d.txt", "\ufeffsatu\n"), encoding="latin-1")) == [("d.txt:1", "satu")]
    for wrong in ("no-such", "rot13", "zip"):
        with pytest.raises(InvalidRequestError, match=f"encoding: '{wrong}'"):
            read(sjis, encoding=wrong)


def test_a_header_that_is_no_text_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", b"id,text,na\xefve\na,satu,x\n")
    with pytest.raises(InvalidRequestError, match=r"first row of a\.csv is not UTF-8.*--encoding"):
        read(path)
    assert metadata(read(path, encoding="latin-1")) == {"a": {"naïve": "x"}}


# Values that Python or JSON cannot hold


def test_values_are_kept_as_arrow_writes_them(tmp_path):
    columns = {
        "ns": (pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")), "2023-11-14 22:13:20.123456789"),
        "zone": (pa.array([1_700_000_000, None], pa.timestamp("s", "Asia/Jakarta")), "2023-11-15 05:13:20.000+0700"),
        "nowhere": (pa.array([1_700_000_000, None], pa.timestamp("s", "Mars/Phobos")), "2023-11-14 22:13:20.000Z"),
        "far_day": (pa.array([4_000_000, None], pa.date32()), "12921-08-18"),
        "far_time": (pa.array([2**62, None], pa.timestamp("us")), "<value out of range: 4611686018427387904>"),
        "time": (pa.array([1_000_000_001, None], pa.time64("ns")), "00:00:01.000000001"),
        "duration": (pa.array([1_000_000_001, None], pa.duration("ns")), "1000000001"),
        "decimal": (pa.array([decimal.Decimal("12345678901234567890.12"), None]), "12345678901234567890.12"),
        "nan": (pa.array([float("nan"), None]), None),
        "infinity": (pa.array([float("-inf"), None]), None),
        "blob": (pa.array([b"\x00\xff", None]), "AP8="),
        "list": (pa.array([[1, None], None], pa.list_(pa.timestamp("ns"))), ["1970-01-01 00:00:00.000000001", None]),
        "struct": (pa.array([{"x": 1}, None], pa.struct([("x", pa.duration("s"))])), {"x": "1"}),
        "map": (
            pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.timestamp("s"))),
            {"k": "1970-01-01 00:00:01.000"},
        ),
        "map_twice": (pa.array([[("k", 1), ("k", 2)], None], pa.map_(pa.string(), pa.int64())), [["k", 1], ["k", 2]]),
        "dictionary": (pa.array([1, None], pa.timestamp("s")).dictionary_encode(), "1970-01-01 00:00:01.000"),
        "words": (pa.array(["x", None]).dictionary_encode(), "x"),
        "half": (pa.array([1.5, None], pa.float16()), 1.5),
    }
    two = {"id": ["a", "b"], "text": ["satu", "dua"]}
    path = table(tmp_path / "a.parquet", {**two, **{name: values for name, (values, _) in columns.items()}})
    found = metadata(open_source([str(path)]))
    assert found["a"] == {name: wanted for name, (_, wanted) in columns.items()}
    assert found["b"] == dict.fromkeys(columns)


def test_numbers_of_json_that_python_cannot_hold(tmp_path):
    many = "9" * 5_000
    path = write(tmp_path / "a.jsonl", f'{{"id": "a", "text": "x", "n": {many}, "f": 1e999, "g": NaN}}\n')
    assert metadata(read(path)) == {"a": {"n": many, "f": None, "g": None}}


def test_values_of_numpy_and_others_are_kept_and_what_cannot_be_is_named():
    values = {
        "f": np.float32(0.5),
        "i": np.int64(7),
        "b": np.bool_(True),
        "s": np.str_("x"),
        "a": np.arange(2),
        "t": np.datetime64("2026-01-02T03:04:05.123456789"),
        "nat": np.datetime64("NaT", "s"),
        "nan": [float("nan"), decimal.Decimal("NaN")],
        "scalar": pa.scalar(5),
        1: {2: b"\xff"},
    }
    assert json.loads(to_json(values)) == {
        "f": 0.5,
        "i": 7,
        "b": True,
        "s": "x",
        "a": [0, 1],
        "t": "2026-01-02T03:04:05.123456789",
        "nat": None,
        "nan": [None, None],
        "scalar": 5,
        "1": {"2": "/w=="},
    }
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for bad in (object(), "\udfff", {"x\ud800": 1}, deep, 10**5_000):
        with pytest.raises(InvalidRequestError, match=r"metadata: (the field 'of it'|JSON cannot hold it)"):
            to_json({"ok": 1, "of it": bad})
    with pytest.raises(InvalidRequestError, match=r"field 'x\\ud800' holds a lone surrogate"):
        to_json({"x\ud800": 1})


def test_ids_are_the_same_from_run_to_run_whatever_their_kind(tmp_path):
    path = table(tmp_path / "a.parquet", {"id": [1.0, None, 2.0, 2.5], "text": ["a", "b", "c", "d"]})
    assert [item.id for item in read(path)] == ["1", "a.parquet:2", "2", "a.parquet:4"]
    kinds = {"id": np.int64(7)}, {"id": float("nan")}, {"id": b"x"}, {"id": np.str_("y")}, {"id": True}
    items = list(to_source([{**kind, "text": np.str_("t")} for kind in kinds], None))
    assert [item.id for item in items] == ["7", "values:2", "x", "y", "values:5"]
    assert isinstance(items[4], BadRecord)
    csv = write(tmp_path / "a.csv", "id,text\n1,a\n,b\n")
    assert [item.id for item in read(csv)] == ["1", "a.csv:3"]


def test_text_as_bytes_is_text_and_a_number_is_none(tmp_path):
    path = table(tmp_path / "a.parquet", {"id": [b"a"], "text": ["é".encode()]})
    assert texts(read(path)) == [("a", "é")]
    path = table(tmp_path / "b.parquet", {"text": [1], "body": ["x"]})
    with pytest.raises(InvalidRequestError, match=r"int64 in 'text'; text is in body"):
        read(path)


# Rows of CSV


def test_a_quote_that_is_not_closed_is_told_with_its_line(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\na,satu\nb,"dua\nc,tiga\nd,empat\n')
    good, lost = read(path)
    assert (good.id, lost.is_partial) == ("a", True)
    assert "a.csv line 3: a quote opens there and is not closed" in lost.detail
    with pytest.raises(SourceError, match="line 1, its first row: a quote opens there"):
        read(write(tmp_path / "c.csv", 'id,"text\na,satu\n'))
    path = write(tmp_path / "b.csv", 'id,text\na,satu\nb,"dua\nc,"tiga"\nd,"empat"\n')
    assert texts(read(path)) == [("a", "satu"), ("b.csv line 3", None)]


def test_quotes_with_backslashes_are_one_reject_and_harm_no_other_row(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\na,"say \\"hi\\""\nb,"one\\" \ntwo, c"\nc,tiga\n')
    items = read(path)
    assert texts(items) == [("a.csv:2", None), ("a.csv:4", None), ("c", "tiga")]
    assert "write a quote within quotes twice" in items[0].detail


def test_a_field_that_is_too_long_is_skipped_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "MAX_FIELD_CHARS", 131_072)
    csv_file.csv.field_size_limit(131_072)
    path = write(tmp_path / "a.csv", 'id,text\n1,"' + "aa,bb\n" * 100_000 + '"\n2,two\n')
    assert texts(read(path)) == [("a.csv:100002", None), ("2", "two")]


def test_columns_of_one_name_and_other_delimiters(tmp_path):
    path = write(tmp_path / "a.csv", "id,text,text\na,satu,lain\n")
    with pytest.raises(InvalidRequestError, match=r"a\.csv has several columns named text"):
        read(path)
    path = write(tmp_path / "b.csv", "id,text,n,n\na,satu,1,2\n")
    with pytest.raises(InvalidRequestError, match=r"columns named n; .*--metadata"):
        read(path)
    assert texts(read(path, fields=Fields(metadata=()))) == [("a", "satu")]
    two = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], names=["id", "text", "text"])
    with pytest.raises(InvalidRequestError, match="several columns named text"):
        read(table(tmp_path / "a.parquet", two))
    semicolons = write(tmp_path / "c.csv", "id;text\na;satu\n")
    with pytest.raises(InvalidRequestError, match=r"one field in its first row, .*--delimiter ';'"):
        read(semicolons)
    assert texts(read(semicolons, delimiter=";")) == [("a", "satu")]
    quoted = write(tmp_path / "e.csv", '"id";"text"\n"a";"satu, dua"\n')
    with pytest.raises(InvalidRequestError, match=r"first row of e\.csv is not CSV, .*--delimiter ';'"):
        read(quoted)
    assert texts(read(quoted, delimiter=";")) == [("a", "satu, dua")]
    with pytest.raises(InvalidRequestError, match=r"--delimiter '\|'"):
        read(write(tmp_path / "f.csv", "sku|title\na|satu\n"))
    tabs = write(tmp_path / "d.csv", "id\ttext\na\tsatu\n")
    with pytest.raises(InvalidRequestError, match="--delimiter tab"):
        read(tabs)
    assert texts(read(tabs, delimiter="tab")) == [("a", "satu")]
    with pytest.raises(InvalidRequestError, match="not a single character"):
        read(tabs, delimiter="ab")


def test_columns_without_a_name_are_named_by_their_number(tmp_path):
    path = write(tmp_path / "a.csv", ",text,,\n0,satu,x,y\n")
    assert metadata(read(path)) == {"a.csv:2": {"column 1": "0", "column 3": "x", "column 4": "y"}}


# JSON that spans lines


def test_an_array_is_read_in_pieces_and_what_follows_a_fault_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "STEP_CHARS", 7)
    values = [{"id": str(n), "text": f'"{n}" \\ é', "deep": [n, {"x": None}]} for n in range(50)]
    for indent in (None, 1):
        path = write(tmp_path / "a.json", json.dumps(values, indent=indent))
        assert [(item.id, item.text) for item in read(path)] == [(v["id"], v["text"]) for v in values]
    path = write(tmp_path / "b.json", '[\n{"text": "a"},\n7,\n{"text": "b"},\n{"text" oh no "c"}                   ]')
    items = read(path)
    assert texts(items) == [("b.json:1", "a"), ("b.json:2", None), ("b.json:3", "b"), ("b.json", None)]
    assert "line 5 is not JSON" in items[-1].detail
    path = write(tmp_path / "c.json", '[{"text": "a"}, {"text": "b"')
    assert texts(read(path))[0] == ("c.json:1", "a")
    assert len(losses(read(path))) == 1


# Fields


def test_fields_are_found_by_their_path_and_the_text_is_not_carried_along(tmp_path):
    line = {"id": "a", "doc": {"body": "satu", "lang": "id", "key": 5}, "n": 1}
    path = write(tmp_path / "a.jsonl", json.dumps(line) + "\n")
    fields = Fields(text="doc.body", id="doc.key")
    (record,) = read(path, fields=fields)
    assert (record.id, record.text) == ("5", "satu")
    assert record.metadata == {"id": "a", "doc": {"lang": "id"}, "n": 1}
    (record,) = read(path, fields=Fields(text="doc.body", metadata=("doc.lang", "n")))
    assert record.metadata == {"doc.lang": "id", "n": 1}
    parquet = table(tmp_path / "a.parquet", pa.Table.from_pylist([line]))
    assert read(parquet, fields=fields)[0].metadata == {"id": "a", "doc": {"lang": "id"}, "n": 1}
    (record,) = read(parquet, fields=Fields(text="doc.body", metadata=("doc.lang",)))
    assert record.metadata == {"doc.lang": "id"}
    dotted = write(tmp_path / "b.jsonl", '{"doc.body": "dua"}\n')
    assert read(dotted, fields=Fields(text="doc.body"))[0].text == "dua"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "json"])
def test_a_field_that_was_named_and_is_not_there_is_told(tmp_path, suffix):
    rows = [{"sku": "a", "text": "one"}, {"sku": "b", "text": "two"}]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        table(path, pa.Table.from_pylist(rows))
    elif suffix == "csv":
        write(path, "sku,text\na,one\nb,two\n")
    else:
        write(path, json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidRequestError, match=r"no field 'skuu' \(--id-field\), only sku, text"):
        read(path, fields=Fields(id="skuu"))
    with pytest.raises(InvalidRequestError, match=r"no field 'body', only sku, text; .*--text-field"):
        read(path, fields=Fields(text="body"))
    chosen = Fields(metadata=("nope",))
    if suffix in ("csv", "parquet"):
        with pytest.raises(InvalidRequestError, match=r"no field 'nope' \(--metadata\)"):
            read(path, fields=chosen)
    else:
        source = open_source([str(path)], fields=chosen)
        assert len(list(source)) == 2
        assert notes_of(source) == [f"no record of a.{suffix} has a field nope (--metadata)"]


@pytest.mark.parametrize("column", ["ID", "_id"])
def test_a_column_that_looks_like_the_id_is_pointed_at(tmp_path, column):
    csv = write(tmp_path / "a.csv", f"{column},text\n7,x\n")
    jsonl = write(tmp_path / "a.jsonl", json.dumps({column: 7, "text": "x"}))
    parquet = table(tmp_path / "a.parquet", {column: [7], "text": ["x"]})
    for path, line in ((csv, 2), (jsonl, 1), (parquet, 1)):
        source = open_source([str(path)])
        assert [item.id for item in source] == [f"{path.name}:{line}"]
        assert f"to use its field '{column}', name it (--id-field)" in notes_of(source)[0]


# Folders


def test_every_file_of_a_folder_is_read_as_what_it_is_or_counted(tmp_path):
    write(tmp_path / "guide.md", "# guide")
    write(tmp_path / "more" / "guide.txt", "a guide")
    write(tmp_path / "more" / "packed.md.gz", gzipped(b"packed"))
    write(tmp_path / "rows.jsonl", LINES)
    write(tmp_path / "rows.CSV", "id,text\nd,text d\n")
    table(tmp_path / "more" / "rows.parquet", {"text": ["of Parquet"]})
    table(tmp_path / "stats.parquet", {"n": [1]})
    for name in ("a.png", "b.png", "c.pdf", "LICENSE", ".hidden.md", "._a.parquet", "_delta_log/x.parquet"):
        write(tmp_path / name, b"whatever")
    source = open_source([str(tmp_path)])
    assert texts(source) == [
        ("guide.md", "# guide"),
        ("more/guide.txt", "a guide"),
        ("more/packed.md.gz", "packed"),
        ("more/rows.parquet:1", "of Parquet"),
        ("d", "text d"),
        *ABC,
    ]
    (note,) = notes_of(source)
    for kind in ("2 .png", "1 .pdf", "1 without an ending", "1 .parquet without the field text", "path begins with _"):
        assert kind in note
    assert "hidden" not in note
    assert texts(read(tmp_path, form="folder")) == texts(source)[:3]
    assert texts(read(tmp_path, form="jsonl")) == ABC


def test_a_partitioned_data_set_keeps_what_its_folders_say(tmp_path):
    table(tmp_path / "year=2020" / "land=ID" / "part-0.parquet", {"text": ["a"]})
    table(tmp_path / "year=2021" / "land=__HIVE_DEFAULT_PARTITION__" / "part-0.parquet", {"text": ["b"]})
    table(tmp_path / "year=2021" / "land=T%C3%BCrkiye" / "part-0.parquet", {"text": ["c"], "year": [7]})
    write(tmp_path / "_SUCCESS", b"")
    for form in ("auto", "parquet"):
        items = read(tmp_path, form=form)
        assert [item.text for item in items] == ["a", "c", "b"]
        assert items[0].id == "year=2020/land=ID/part-0.parquet:1"
        assert [item.metadata for item in items] == [
            {"year": 2020, "land": "ID"},
            {"year": 7, "land": "Türkiye"},
            {"year": 2021, "land": None},
        ]
    (first, *_) = read(tmp_path, fields=Fields(metadata=("year",)))
    assert first.metadata == {"year": 2020}


def test_a_partition_that_is_named_alone_keeps_its_fields(tmp_path):
    table(tmp_path / "lang=ms" / "year=2026" / "a.parquet", {"id": ["a"], "text": ["satu"]})
    write(tmp_path / "lang=ms" / "year=-5" / "b.csv", "id,text\nb,dua\n")
    of_folder = {"a": {"lang": "ms", "year": 2026}, "b": {"lang": "ms", "year": -5}}
    assert metadata(read(tmp_path)) == metadata(read(tmp_path / "lang=ms")) == of_folder
    assert metadata(read(tmp_path / "lang=ms" / "year=2026")) == {"a": of_folder["a"]}
    assert metadata(read(tmp_path / "lang=ms" / "year=-5" / "b.csv")) == {"b": of_folder["b"]}


def test_a_folder_that_holds_nothing_to_read_is_told(tmp_path):
    source = open_source([str(tmp_path)])
    assert list(source) == []
    assert notes_of(source) == [f"{tmp_path} holds no file"]
    write(tmp_path / "a.pdf", b"%PDF-")
    write(tmp_path / "b.html", b"<p>")
    with pytest.raises(InvalidRequestError, match=r"no file that can be read, but 1 \.(pdf|html), 1 \.(pdf|html)"):
        open_source([str(tmp_path)])
    write(tmp_path / "c.md", b"text")
    with pytest.raises(InvalidRequestError, match="without --format"):
        open_source([str(tmp_path)], form="parquet")


def test_what_a_folder_s_file_is_not_harms_no_other(tmp_path):
    write(tmp_path / "a.md", "good")
    write(tmp_path / "b.md", b"caf\xe9")
    write(tmp_path / "c.md", bytes(100))
    write(tmp_path / "d.jsonl", b"PK\x03\x04" + bytes(99))
    write(tmp_path / "e.parquet", b"PAR1 not")
    items = read(tmp_path)
    assert texts(items) == [("a.md", "good"), ("b.md", None), ("c.md", None), ("d.jsonl", None), ("e.parquet", None)]
    assert [item.is_partial for item in items[1:]] == [False, False, True, True]
    assert [item.is_anonymous for item in items[1:]] == [False, False, True, True]
    assert texts(read(tmp_path, encoding="latin-1"))[:2] == [("a.md", "good"), ("b.md", "café")]


def test_pipes_sockets_and_links_in_a_circle_are_counted_and_not_waited_for(tmp_path):
    write(tmp_path / "a.md", "good")
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "null.txt").symlink_to("/dev/null")
    (tmp_path / "x.md").symlink_to("y.md")
    (tmp_path / "y.md").symlink_to("x.md")
    (tmp_path / "self.md").symlink_to("self.md")
    found = []

    def work():
        source = open_source([str(tmp_path)])
        found.extend([texts(source), notes_of(source)])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    join(thread)
    assert found[0] == [("a.md", "good")]
    assert "3 links that lead in a circle" in found[1][0]
    assert "1 pipes, sockets or devices" in found[1][0]


def test_names_that_no_id_can_hold_are_told_and_known(tmp_path):
    write(tmp_path / "a\nb.md", "x")
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("y")
    write(tmp_path / "tab\there" / "c.md", "z")
    items = read(tmp_path)
    assert [item.id for item in items] == ["a\\nb.md", "caf\\udce9.md", "tab\\there/c.md"]
    assert all("rename the file" in item.detail and not item.is_anonymous for item in items)
    path = write(tmp_path / "one\ntwo.txt", "x\n")
    assert texts(read(path)) == [("one\\ntwo.txt:1", "x")]


def test_a_folder_that_cannot_be_read_is_one_part_that_is_lost(tmp_path, monkeypatch):
    write(tmp_path / "a.md", "good")
    write(tmp_path / "closed" / "b.md", "unseen")
    scandir = os.scandir

    def refuse(path):  # root may read everything
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = read(tmp_path)
    assert sorted(texts(items)) == [("a.md", "good"), ("closed", None)]
    assert losses(items) == ["closed: the folder cannot be read: Permission denied"]


def test_what_reindex_has_written_is_no_source(tmp_path):
    write(tmp_path / "a.md", "good")
    for folder in (
        "vectors.embedmill",
        "vectors",
        "one.parquet.embedmill",
        "two.npy.embedmill",
        "index.embedmill",
        "index",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("vectors/0.parquet", "one.parquet", "two.npy", "two.ids.jsonl", "index/meta.json"):
        write(tmp_path / name, b"whatever")
    write(tmp_path / "lost.jsonl", '{"id": "x", "reason": "too_long", "detail": "y"}\n')
    write(tmp_path / "own.jsonl", '{"id": "x", "reason": "spam", "detail": "y", "text": "a record"}\n')
    assert texts(read(tmp_path)) == [("a.md", "good"), ("x", "a record")]

    with pytest.raises(InvalidRequestError, match="is the source itself"):
        check_apart(open_source([str(tmp_path)]), open_sink(str(tmp_path)), tmp_path / "rejects.jsonl")


# Names


def test_ids_begin_with_the_path_as_it_was_named(tmp_path, monkeypatch):
    for month in ("jan", "feb"):
        write(tmp_path / month / "data.txt", f"{month}\n")
        write(tmp_path / month / "docs" / "README.md", month)
    monkeypatch.chdir(tmp_path)
    assert texts(read("jan/data.txt")) == [("jan/data.txt:1", "jan")]
    assert texts(read("./feb/../feb/data.txt")) == [("feb/data.txt:1", "feb")]
    assert texts(read(tmp_path / "jan" / "data.txt")) == [("jan/data.txt:1", "jan")], "the same file, the same ids"
    assert texts(read("jan/docs")) == [("README.md", "jan")]
    assert texts(read("jan/docs", "feb/docs")) == [("jan/docs/README.md", "jan"), ("feb/docs/README.md", "feb")]
    monkeypatch.chdir("/")
    assert labels([f"{tmp_path}/jan/data.txt"])[0].endswith("jan/data.txt"), "it is below the working folder"
    monkeypatch.chdir(tmp_path / "jan")
    both = [str(tmp_path / month / "data.txt") for month in ("jan", "feb")]
    monkeypatch.chdir(tmp_path / "feb" / "docs")
    assert labels(both[:1]) == ["data.txt"]
    assert labels(both) == ["jan/data.txt", "feb/data.txt"]
    assert labels(["../data.txt", "-"]) == ["../data.txt", "stdin"]


def test_a_url_is_said_to_be_one(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"s3://bucket/a\.jsonl is a URL, which is not read"):
        open_source(["s3://bucket/a.jsonl"])
    with pytest.raises(InvalidRequestError) as caught:
        open_source(["https://me:s3cret@example.org/a.jsonl"])
    assert "s3cret" not in str(caught.value)


# Values of a program


class Stream:
    """A frame of another library, as far as Arrow's stream protocol goes."""

    def __init__(self, **columns):
        self._table = pa.table(columns)

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def test_every_object_with_arrow_s_stream_protocol_is_a_source():
    columns = {"id": [1, 2], "text": ["a", "b"], "when": pa.array([1, None], pa.timestamp("ns"))}
    for frame in (Stream(**columns), pa.table(columns), pa.table(columns).to_reader()):
        items = list(to_source(frame, None))
        assert texts(items) == [("1", "a"), ("2", "b")]
        assert metadata(items) == {"1": {"when": "1970-01-01 00:00:00.000000001"}, "2": {"when": None}}
    source = to_source(Stream(**columns), None)
    assert list(source) == list(source)
    odd = Stream(name=["x"], fraction=[0.5], text=["a"])
    assert texts(to_source(odd, None)) == [("values:1", "a")]
    with pytest.raises(InvalidRequestError, match="no field 'text', only body"):
        to_source(Stream(body=["a"]), None)
    with pytest.raises(InvalidRequestError, match="is one column"):
        to_source(pa.chunked_array([["a"]]), None)


def test_what_holds_no_records_is_refused_with_what_to_give(tmp_path):
    class OldFrame:
        columns = ("id", "text")

        def to_dict(self, orient): ...

        def __iter__(self):
            return iter(self.columns)

    with pytest.raises(InvalidRequestError, match=r"to_dict\('records'\)"):
        to_source(OldFrame(), None)
    with pytest.raises(InvalidRequestError, match=r"items\(\)"):
        to_source({"a": "one"}, None)
    with (tmp_path / "a").open("w+") as stream, pytest.raises(InvalidRequestError, match="open file; pass its path"):
        to_source(stream, None)
    (bad,) = to_source([tmp_path], None)
    assert "names of files one by one" in bad.detail
