"""Sources: every record, each problem one record's, and the same order each time."""

import csv
import datetime
import decimal
import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import InvalidRequestError, SourceError
from embedmill.reindexing import BadRecord, Fields, Record
from embedmill.reindexing.sources.base import Values
from embedmill.reindexing.sources.files import Reading
from embedmill.reindexing.sources.formats import jsonl as lines_module
from embedmill.reindexing.sources.formats.csv_file import Csv
from embedmill.reindexing.sources.formats.jsonl import Jsonl, JsonValues, Lines
from embedmill.reindexing.sources.registry import open_source


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(*paths, **options):
    """Reads twice, and gives what both times gave."""
    source = open_source([str(path) for path in paths], **options)
    first, second = list(source), list(source)
    assert first == second
    return first


def texts(items):
    return [(item.id, item.text) if isinstance(item, Record) else (item.id, None) for item in items]


def test_a_line_is_a_text_whatever_ends_it(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\ntwo\nthree")
    assert texts(read(path)) == [("a.txt:1", "one"), ("a.txt:2", ""), ("a.txt:3", "two"), ("a.txt:4", "three")]


def test_bytes_that_are_not_utf_8_are_one_record_s_reject_whose_id_is_known(tmp_path):
    cases = {
        "a.txt": (b"good\n\xe9\n", "a.txt:2"),
        "a.jsonl": (b'{"id": "a", "text": "good"}\n{"id": "b", "text": "\xe9"}\n', "b"),
        "b.jsonl": (b'{"id": "a", "text": "good"}\n{"id": "b", "text": "x", "city": "K\xf6ln"}\n', "b"),
        "a.csv": (b"id,text,city\na,good,x\nb,x,K\xf6ln\n", "b"),
        "a.json": (b'[{"id": "a", "text": "good"}, {"id": "b", "text": "\xe9"}]', "b"),
    }
    for name, (data, id) in cases.items():
        good, bad = read(write(tmp_path / name, data))
        assert good.text == "good"
        assert (bad.id, bad.reason, bad.is_anonymous) == (id, "invalid_unicode", False)
        line = 3 if name == "a.csv" else 2
        assert bad.detail.startswith(f"{name}:{line} is not UTF-8: name its encoding, as in --encoding latin-1")


def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 16)
    path = write(tmp_path / "a.txt", "short\n" + "x" * 100 + "\nagain\n")
    assert texts(read(path)) == [("a.txt:1", "short"), ("a.txt:2", None), ("a.txt:3", "again")]


def test_jsonl_with_all_its_problems(tmp_path):
    lines = [
        '{"id": "a", "text": "one", "n": 1, "deep": {"list": [1, null]}}',
        "",
        '{"id": 7, "text": "an int for an id"}',
        '{"text": "no id"}',
        '{"id": null, "text": "null for an id"}',
        '{"id": 1.5, "text": "x"}',
        '{"id": true, "text": "x"}',
        '{"id": "", "text": "x"}',
        '{"id": "a\\nb", "text": "x"}',
        '{"id": "\\ud800", "text": "x"}',
        '{"id": "b"}',
        '{"id": "b", "text": 5}',
        "[1, 2]",
        "{broken",
        '{"id": "c", "text": "first", "text": "last"}',
        "[" * 100_000,
        '{"id": "d", "text": "nul \\u0000 inside"}',
    ]
    items = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert texts(items) == [
        ("a", "one"),
        ("7", "an int for an id"),
        ("a.jsonl:4", "no id"),
        ("a.jsonl:5", "null for an id"),
        *((f"a.jsonl:{n}", None) for n in range(6, 15)),
        ("c", "last"),
        ("a.jsonl:16", None),
        ("d", "nul \0 inside"),
    ]
    assert items[0].metadata == {"n": 1, "deep": {"list": [1, None]}}
    assert {item.reason for item in items if isinstance(item, BadRecord)} == {"unreadable", "unfit"}


def test_fields_are_chosen(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"sku": 7, "title": "t", "price": 2, "note": "n"}\n')
    (record,) = read(path, fields=Fields(text="title", id="sku", metadata=("price", "absent")))
    assert (record.id, record.text, record.metadata) == ("7", "t", {"price": 2})


def test_csv_with_quotes_ragged_rows_and_tabs(tmp_path):
    table = '\ufeffid,text,n\n1,"a, ""b""\nc",x\n2,short\n\n3,d,y\n'
    items = read(write(tmp_path / "a.csv", table))
    assert texts(items) == [("1", 'a, "b"\nc'), ("a.csv:4", None), ("3", "d")]
    assert items[0].metadata == {"n": "x"}
    assert texts(read(write(tmp_path / "a.tsv", "id\ttext\n1\ta,b\n"))) == [("1", "a,b")]
    with pytest.raises(InvalidRequestError, match=r"no field 'text', only id, body"):
        read(write(tmp_path / "b.csv", "id,body\n1,x\n"))


def test_a_csv_field_may_be_longer_than_the_module_s_own_limit(tmp_path):
    (record,) = read(write(tmp_path / "a.csv", f"text\n{'x' * 200_000}\n"))
    assert len(record.text) == 200_000


def test_parquet_values_become_what_json_holds(tmp_path):
    table = pa.table(
        {
            "id": [1, 2],
            "text": ["one", None],
            "when": [datetime.datetime(2026, 1, 2, 3, 4), None],
            "price": [decimal.Decimal("1.50"), None],
            "tags": [["a", "b"], []],
            "at": [{"x": 1}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet")
    assert (first.id, first.text) == ("1", "one")
    assert json.loads(json.dumps(first.metadata)) == {
        "when": "2026-01-02 03:04:00.000000",
        "price": "1.50",
        "tags": ["a", "b"],
        "at": {"x": 1},
    }
    assert isinstance(second, BadRecord)


def test_a_folder_of_parquet_is_read_by_name_and_needs_the_text_field(tmp_path):
    for n in (2, 1):
        pq.write_table(pa.table({"text": [f"of {n}"]}), tmp_path / f"{n}.parquet")
    assert texts(read(tmp_path)) == [("1.parquet:1", "of 1"), ("2.parquet:1", "of 2")]
    with pytest.raises(InvalidRequestError, match="no field 'body', only text"):
        read(tmp_path, fields=Fields(text="body"))
    write(tmp_path / "1.parquet", b"PAR1 not really PAR1")
    broken, good = read(tmp_path)
    assert (broken.id, broken.is_partial, good.text) == ("1.parquet", True, "of 2")
    assert "cannot be read as Parquet" in broken.detail


def test_a_folder_gives_its_texts_by_path(tmp_path):
    outside = write(tmp_path / "secret.md", "outside")
    root = tmp_path / "docs"
    (root / "b" / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    write(root / "a file.md", "one")
    write(root / "b" / "ü.TXT", "two")
    write(root / "b" / "deep" / "c.rst", "three")
    write(root / "b" / "image.png", b"\x89PNG")
    write(root / ".hidden.md", "no")
    write(root / ".git" / "x.md", "no")
    (root / "out.md").symlink_to(outside)
    (root / "in.md").symlink_to(root / "a file.md")
    (root / "loop").symlink_to(root)
    (root / "broken.md").symlink_to(root / "nowhere.md")
    items = read(root)
    assert texts(items) == [
        ("a file.md", "one"),
        ("b/deep/c.rst", "three"),
        ("b/ü.TXT", "two"),
        ("broken.md", None),
        ("in.md", "one"),
    ]
    assert items[1].metadata == {"path": "b/deep/c.rst"}
    assert not items[3].is_anonymous, "it is there, so its row is not deleted"


def test_gz_is_read_as_what_it_holds_and_a_torn_one_is_an_error(tmp_path):
    packed = gzip.compress(b'{"id": "a", "text": "one"}\n' * 1_000)
    path = write(tmp_path / "a.jsonl.gz", packed)
    assert len(read(path)) == 1_000
    write(path, packed[:-20])
    *kept, lost = read(path)
    assert all(item.text == "one" for item in kept)
    assert (lost.id, lost.is_partial) == ("a.jsonl.gz", True)
    assert "the file is cut off" in lost.detail


@pytest.mark.parametrize("form", ["auto", "jsonl", "csv", "parquet", "lines", "folder"])
def test_what_is_not_there_is_said_at_once(tmp_path, form):
    with pytest.raises(SourceError):
        open_source([str(tmp_path / "missing")], form=form)


def test_pipes_and_devices_are_no_sources(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/zero"):
        with pytest.raises(SourceError, match="not a regular file"):
            open_source([str(path)])
    with pytest.raises(InvalidRequestError, match="not one of auto"):
        open_source([str(tmp_path)], form="pickle")


def test_several_sources_are_read_in_turn_and_the_fraction_grows_to_one(tmp_path):
    first = write(tmp_path / "a.txt", "x\n" * 20_000)
    second = write(tmp_path / "b.jsonl", '{"text": "y"}\n' * 20_000)
    source = open_source([str(first), str(second)])
    seen = []
    for n, _ in enumerate(source):
        if n % 1_000 == 0:
            seen.append(source.fraction())
    assert n == 39_999
    assert seen == sorted(seen)
    assert 0 <= seen[0] < 0.5 < seen[-1] <= 1.0


def test_values_of_a_program(tmp_path):
    given = [
        Record(id="r", text="t"),
        ("a", "one"),
        ("b", "two", {"n": 1}),
        {"id": "c", "text": "three"},
        ("", "no id"),
        "a text alone",
        ("d", 5),
        None,
    ]
    items = list(Values(given))
    assert texts(items) == [
        ("r", "t"),
        ("a", "one"),
        ("b", "two"),
        ("c", "three"),
        *((f"values:{n}", None) for n in range(5, 9)),
    ]
    assert all("a text alone" not in item.detail for item in items if isinstance(item, BadRecord))


@pytest.mark.parametrize("bad", ["", "x" * 1_025, "a\tb", "a\x7f", "\ud800"])
def test_an_id_is_valid_or_there_is_no_record(bad):
    with pytest.raises(InvalidRequestError):
        Record(id=bad, text="t")


#: Texts that one line can hold.
ONE_LINE = st.text(st.characters(exclude_characters="\n\r\0\ufeff", exclude_categories=["Cs"]))


def read_bytes(kind, data):
    """Reads bytes as a file of one kind, twice, the second time in pieces of some bytes."""
    first, second = (
        list(kind("-", "x", Reading()).records(io.BufferedReader(io.BytesIO(data), size))) for size in (9, 99)
    )
    assert first == second
    return [item.text for item in first]


@pytest.mark.property
@given(st.lists(ONE_LINE))
def test_what_was_written_is_read_again(written):
    objects = [json.dumps({"text": text}) for text in written]
    assert read_bytes(Jsonl, "".join(f"{line}\n" for line in objects).encode()) == written
    assert read_bytes(JsonValues, f"[{', '.join(objects)}]".encode()) == written
    assert read_bytes(JsonValues, "".join(objects).encode()) == written
    assert read_bytes(Lines, "".join(f"{text}\n" for text in written).encode()) == written


@pytest.mark.property
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])), ONE_LINE),
        min_size=1,
    )
)
def test_what_was_written_as_csv_is_read_again(written):
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([("note", "text"), *((note, f".{text}") for note, text in written)])
    assert read_bytes(Csv, table.getvalue().encode()) == [f".{text}" for _, text in written]
