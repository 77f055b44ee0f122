"""More files as people have them: others of the kinds in ``test_reindex_files.py``, found by trying five hundred."""

import gzip
import io
import json
import pickle
import random

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from embedmill import EmbedError, InvalidRequestError, SourceError
from embedmill.reindexing import Fields, Record, open_source
from embedmill.reindexing.opening import to_source
from embedmill.reindexing.sources.base import notes_of

LINES = b'{"id": "a", "text": "satu"}\n{"id": "b", "text": "dua"}\n'
AB = [("a", "satu"), ("b", "dua")]
ROWS = {"id": ["a", "b"], "text": ["satu", "dua"]}
BOM = b"\xef\xbb\xbf"


def parquet(columns):
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def noise(count):
    rng = random.Random(1)
    return bytes(rng.randrange(1, 256) for _ in range(count))


@pytest.fixture
def read(tmp_path):
    def read(name, data, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return [(i.id, i.text if isinstance(i, Record) else None) for i in open_source([str(path)], **options)]

    return read


# What a file is


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lines.csv", LINES),
        ("array.csv", json.dumps([json.loads(line) for line in LINES.splitlines()]).encode()),
        ("lines.parquet", LINES),
        ("lines.parquet.gz", gzip.compress(LINES, mtime=0)),
        ("together.json", LINES.replace(b"\n", b"")),
        ("trailing_comma.json", b'[{"id": "a", "text": "satu"},\n{"id": "b", "text": "dua"},\n]'),
        ("skipped_frame.jsonl.zst", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + pa.compress(LINES, codec="zstd", asbytes=True)),
        ("two_marks.jsonl", BOM + LINES.replace(b"\n", b"\n" + BOM, 1)),
        ("separator_in_utf16.csv", "sep=\t\r\nid\ttext\r\na\tsatu\r\nb\tdua\r\n".encode("utf-16")),
        ("mixed_line_ends.csv", b"id,text\r\na,satu\rb,dua\n"),
    ],
)
def test_a_file_is_read_by_its_bytes_where_its_ending_lies(read, name, data):
    assert read(name, data) == AB


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json", "csv"])
def test_a_byte_order_mark_alone_is_an_empty_file(read, suffix):
    assert read(f"a.{suffix}", BOM) == read(f"b.{suffix}", b"") == []
    assert len(read(f"c.{suffix}", BOM + b"\n")) == len(read(f"d.{suffix}", b"\n"))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.parquet", b"", "empty, and so no Parquet"),
        ("a.parquet", b"id,text\na,satu\n", "no Parquet; give it the ending"),
        ("a.parquet", b"PARE" + bytes(100) + b"\x10\0\0\0PARE", "encrypted"),
        ("a.parquet", parquet(ROWS)[:-30] + b"\xff" * 18 + parquet(ROWS)[-12:], "damaged"),
        ("a.parquet", parquet(ROWS)[:-9], "cannot be read as Parquet"),
        ("a.parquet.gz", gzip.compress(parquet(ROWS), mtime=0), "Parquet, compressed as a whole; unpack it"),
        ("a.arrows", b"\xff\xff\xff\xff" + bytes(20), "stream of Arrow; convert it to Parquet"),
        ("a.lzma", b"]\x00\x00\x80\x00" + bytes(20), "LZMA.*; unpack it"),
        ("a.lz", b"LZIP\x01abc", "lzip; unpack it"),
        ("a.pkl", pickle.dumps([{"text": "satu"}], protocol=4), "Python pickle"),
        ("a.mo", b"\xde\x12\x04\x95" + bytes(20), "gettext"),
        ("a.pdf", b"\n%PDF-1.4\n", "a PDF"),
        ("a.svg", b"<svg/>", "XML"),
        ("drawing", b'<svg width="1">\n</svg>\n', "XML"),
        ("a.eml", b"hello\n", "e-mail"),
        ("root", b"From a@b Thu Jan  1 00:00:00 2026\nSubject: x\n\nhello\n", "e-mail.*--format lines"),
        ("message", b"Received: by b;\n  today\nSubject: x\n\nhello\n", "e-mail"),
        ("a.br", b"\x0b\x18\x80" + noise(2_000), "in an encoding that must be named"),
        ("a.txt", noise(2_000), "in an encoding that must be named"),
    ],
)
def test_what_holds_no_lines_is_refused_by_name(read, name, data, said):
    with pytest.raises(SourceError, match=said) as caught:
        read(name, data)
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize(
    "data",
    [
        "café, naïve\n".encode("cp1252") * 9,
        "船舶\n犬\n".encode("shift_jis"),
        "Привет\n".encode("koi8-r"),
        b"caf\xe9\n" + b"a line\n" * 50 + b"\x01\n",
    ],
)
def test_text_of_an_old_encoding_is_not_taken_for_noise(read, data):
    assert any(text is None for _, text in read("a.txt", data)), "rejects, whose detail names --encoding"


@pytest.mark.parametrize(
    "data",
    [
        b"Package: adduser\nStatus: install ok installed\n\nPackage: apt\n",
        b"Note: one\n\ntwo\n",
        b"From here on\n\nx\n",
    ],
)
def test_paragraphs_of_fields_are_no_e_mail(read, data):
    assert [text for _, text in read("status", data)] == data.decode().splitlines()


# Encodings


def test_an_encoding_that_needs_a_mark_says_so(read):
    with pytest.raises(SourceError, match="not UTF-16; name its encoding, as in --encoding utf-16-le"):
        read("a.csv", "id,text\na,satu\n".encode("utf-16-le"), encoding="utf-16")
    assert read("b.csv", "id,text\na,satu\n".encode("utf-16"), encoding="utf-16") == [("a", "satu")]


@pytest.mark.parametrize("encoding", ["idna", "punycode", "base64", "hex", "undefined", "mbcs", "ut\0f"])
def test_what_encodes_no_texts_is_refused(read, encoding):
    with pytest.raises(InvalidRequestError, match="is not an encoding that Python knows"):
        read("a.txt", b"satu\n", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-7", "cp037", "gb18030", "iso2022_jp", "utf-8-sig", "utf-32-le"])
def test_what_encodes_texts_is_read(read, encoding):
    assert read("a.txt", "satu\ndua\n".encode(encoding), encoding=encoding) == [("a.txt:1", "satu"), ("a.txt:2", "dua")]


# JSON


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.json", b'["satu", "dua"]', "holds arrays instead of JSON objects"),
        ("a.json", b'[\n"satu",\n"dua"\n]', "holds strings instead"),
        ("a.jsonl", b'"satu"\n"dua"\n', "holds strings instead"),
        ("a.json", b"[[{}]]", "holds arrays instead"),
        ("a.json", b"null", "holds null instead"),
        ("a.json", b"{}", "has no field 'text' and no other one"),
        ("a.json", b'{"id": {"0": "a"}, "text": {"0": "satu"}}', r"holds dict in 'text'.*orient='records'"),
        ("a.json", b'{"id": ["a"], "text": ["satu"]}', r"holds list in 'text'"),
        ("a.parquet", parquet({}), "has no field 'text' and no other one"),
    ],
)
def test_what_holds_no_objects_is_refused_whole(read, name, data, said):
    with pytest.raises(InvalidRequestError, match=said):
        read(name, data)


@pytest.mark.parametrize("rest", [b" trailing", b"]", b', {"id": "b", "text": "dua"}'])
def test_what_follows_an_array_is_told_and_the_array_is_read(tmp_path, rest):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"id": "a", "text": "satu"}]' + rest)
    good, lost = open_source([str(path)])
    assert (good.id, lost.is_partial) == ("a", True)
    assert "line 1 is not JSON" in lost.detail


def test_a_line_with_more_than_an_object_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"},\n{"text": "b"} {"text": "c"}\nnull\n{"text": "d"}\n')
    details = [getattr(item, "detail", item.id) for item in open_source([str(path)])]
    assert details == [
        "a.jsonl:1 is more than a JSON object: something follows it",
        "a.jsonl:2 is more than a JSON object: something follows it",
        "a.jsonl:3 is not a JSON object",
        "a.jsonl:4",
    ]


# Names


def test_a_name_that_is_empty_is_not_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("words")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match=r"'' names nothing; the working folder is named \."):
        open_source([""])
    assert len(list(open_source(["."]))) == 1


def test_columns_of_another_case_are_listed_as_names(read):
    with pytest.raises(InvalidRequestError, match="has no field 'text', only ID, Text; name the text field"):
        read("a.csv", b"ID,Text\na,satu\n")
    with pytest.raises(EmbedError) as caught:
        read("b.csv", b"a secret,satu\n")
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="not a single character"):
        read("c.csv", b"id,text\n", delimiter="\0")


def test_folders_of_partitions_are_named_with_escapes(tmp_path):
    for folder in ("a%20b=1", "a%20b=%FF"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.parquet").write_bytes(parquet({"text": ["x"]}))
    found = [dict(item.metadata) for item in open_source([str(tmp_path)])]
    assert found == [{"a b": "%FF"}, {"a b": "1"}] or found == [{"a b": "1"}, {"a b": "%FF"}]


def test_json_of_something_else_beside_documents_is_passed_over(tmp_path):
    (tmp_path / "guide.md").write_text("words")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "words.json").write_text('["a", "b"]')
    source = open_source([str(tmp_path)], fields=Fields())
    assert [item.id for item in source] == ["guide.md"]
    assert "2 .json without the field text" in notes_of(source)[0]


# Values of a program


def test_a_data_set_of_pyarrow_is_a_source(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS))
    rows = pa.dataset.dataset(tmp_path)
    for values in (rows, rows.scanner()):
        source = to_source(values, None)
        assert [(item.id, item.text) for item in source] == AB
    with pytest.raises(InvalidRequestError, match="no field 'body', only id, text"):
        to_source(rows, Fields(text="body"))


def test_a_stream_that_breaks_off_is_a_part_that_is_lost():
    table = pa.table(ROWS)

    def batches():
        yield from table.to_batches()
        raise OSError("a disk quotes: secret")

    *good, lost = to_source(pa.RecordBatchReader.from_batches(table.schema, batches()), None)
    assert [(item.id, item.text) for item in good] == AB
    assert lost.is_partial
    assert lost.detail == "values: cannot be read after row 2 (OSError); only the rows before are read"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pa.ArrowTypeError("Expected bytes, got 'secret'", "Conversion failed for column id with type object"), "'id'"),
        (pa.ArrowInvalid("secret"), "has a column that Arrow cannot hold"),
        (ValueError("Duplicate column names found: secret"), r"unique names, or records, as in to_dict\('records'\)"),
    ],
)
def test_a_frame_that_arrow_cannot_hold_is_refused(error, said):
    class Frame:
        columns = ("id", "text")

        def __arrow_c_stream__(self, requested_schema=None):
            raise error

    with pytest.raises(InvalidRequestError, match=said) as caught:
        to_source(Frame(), None)
    assert "secret" not in str(caught.value)


class Lazy:
    def collect_schema(self): ...


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "NoneType holds no records"),
        (5, "int holds no records"),
        (b"text", "bytes holds no records"),
        (dict, "type holds no records"),
        (pa.scalar("text"), "StringScalar holds no records"),
        (Lazy(), r"Lazy is not computed yet; pass its collect\(\)"),
    ],
)
def test_what_holds_no_records_is_refused(values, said):
    with pytest.raises(InvalidRequestError, match=said):
        to_source(values, None)
    (bad,) = to_source([pa.table(ROWS)], None)
    assert "Table, which holds rows; pass it by itself" in bad.detail
