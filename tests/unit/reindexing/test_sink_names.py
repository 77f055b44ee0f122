"""Sinks by name: what each name means, what is refused, and that no password is shown."""

from pathlib import Path

import psycopg
import pytest

from embedmill import InvalidRequestError, SinkError
from embedmill.protocol.vectors import Dtype
from embedmill.reindexing import Index, open_sink
from embedmill.reindexing.opening import rejects_path
from embedmill.reindexing.sinks import postgres, qdrant
from embedmill.reindexing.sinks.parquet import ParquetFile, ParquetFolder
from embedmill.reindexing.sinks.single_file import JsonlFile, NpyFile

INDEX = Index(model="m", fingerprint="f", dimension=8)


def test_a_path_says_what_it_is(tmp_path):
    kinds = {"v": ParquetFolder, "v.parquet": ParquetFile, "v.npy": NpyFile, "v.jsonl": JsonlFile}
    for name, kind in kinds.items():
        assert type(open_sink(str(tmp_path / name))) is kind
    (tmp_path / "folder.parquet").mkdir()
    assert type(open_sink(str(tmp_path / "folder.parquet"))) is ParquetFolder


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "./",
        "a/..",
        "-",
        "v.csv",
        "v.txt",
        "mysql://host/db",
        "s3://bucket/x",
        "base://x",
        "v.base",
        "v.registry",
        "v.os",
        "v.single_file",
        "v.qdrant",
        "qdrant://",
        "qdrant+file:",
        "qdrant+file:.",
        "qdrant+file:..#x",
    ],
)
def test_what_is_no_sink_is_refused_with_what_is_one(name):
    with pytest.raises(InvalidRequestError, match=r"a folder or FILE\.parquet|name (qdrant://HOST|one, as in qdrant)"):
        open_sink(name)


@pytest.mark.parametrize(
    ("name", "url", "collection"),
    [
        ("qdrant://host/docs", "http://host:6333", "docs"),
        ("qdrant://host:7000", "http://host:7000", "documents"),
        ("qdrants://key:s3cret@host/docs", "https://host:6333", "docs"),
        ("qdrant://[::1]:7000/docs", "http://[::1]:7000", "docs"),
    ],
)
def test_qdrant_s_servers(name, url, collection, monkeypatch):
    monkeypatch.delenv(qdrant.KEY_VARIABLE, raising=False)
    address = qdrant.parse(name)
    assert (address.url, address.collection) == (url, collection)
    assert address.api_key == ("s3cret" if "s3cret" in name else None)
    assert "s3cret" not in address.name + repr(address)


def test_qdrant_s_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(qdrant.KEY_VARIABLE, "from-the-environment")
    assert qdrant.parse("qdrant://host/docs").api_key == "from-the-environment"


def test_qdrant_s_own_files():
    assert qdrant.parse("qdrant+file:a/b").folder == Path("a/b")
    assert qdrant.parse("qdrant+file:a/b#docs").collection == "docs"
    with pytest.raises(InvalidRequestError, match="a collection's name"):
        qdrant.parse("qdrant+file:a/b#no/slash")
    assert qdrant.QdrantSink("qdrant+file:a/b#docs").ledger_path(INDEX) == Path(
        f"a/b.embedmill/docs-{INDEX.tag}.sqlite"
    )


def test_postgresql_s_table_is_ours_and_the_rest_is_libpq_s():
    assert postgres.parse("postgresql://u:p@h:1/db?table=docs&sslmode=require") == (
        "postgresql://u:p@h:1/db?sslmode=require",
        "docs",
    )
    assert postgres.parse("postgresql:///db?host=/tmp/run") == ("postgresql:///db?host=/tmp/run", "documents")
    for table in ("a-b", "a;drop", "x" * 60, '"quoted"'):
        with pytest.raises(InvalidRequestError, match="a table's name"):
            postgres.parse(f"postgresql://h/db?table={table}")
    assert "s3cret" not in postgres.PostgresSink("postgresql://u:s3cret@h/db?table=docs").name


@pytest.mark.parametrize("name", ["qdrant://127.0.0.1:1/docs", "postgresql://u:s3cret@127.0.0.1:1/db"])
def test_a_server_that_is_away_is_an_error_of_ours(name):
    sink = open_sink(name)
    with pytest.raises(SinkError, match="is it running") as caught:
        sink.read_index()
    assert "s3cret" not in str(caught.value)
    sink.close()


def test_a_server_whose_disk_is_full_is_said_to_be_so():
    sink = postgres.PostgresSink("postgresql://u:s3cret@host/db")
    with pytest.raises(SinkError, match="the server's disk is full; make room there") as caught, sink._mapped():
        raise psycopg.errors.DiskFull("could not extend a file")
    assert "s3cret" not in str(caught.value)


def test_a_dtype_that_a_sink_cannot_hold_is_refused_before_anything_is_sent(tmp_path):
    sink = open_sink(f"qdrant+file:{tmp_path / 'index'}")
    with pytest.raises(InvalidRequestError, match="Qdrant can hold float32, float16, not int8"):
        sink.open(Index(model="m", fingerprint="f", dimension=8, dtype=Dtype.INT8))
    sink.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("some/vectors", "some/vectors.rejects.jsonl"),
        ("v.npy", "v.npy.rejects.jsonl"),
        ("qdrant+file:some/index#docs", "docs.rejects.jsonl"),
        ("qdrant://host/docs", "docs.rejects.jsonl"),
        ("postgresql://u:p@h/db?table=docs", "docs.rejects.jsonl"),
    ],
)
def test_rejects_lie_beside_files_and_in_this_folder_for_servers(name, expected):
    assert rejects_path(open_sink(name)) == Path(expected)
