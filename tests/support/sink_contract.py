"""What every sink promises. A file of its own in ``tests/integration`` tries a new one so:

    @pytest.fixture
    def kind():
        return Kind(lambda folder: f"word:{folder / 'vectors'}", read)

    class TestWord(SinkContract):
        pass

and runs every test of the contract on it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from embedmill.errors import InvalidRequestError, SinkError
from embedmill.reindexing import Index, Rows, Sink, open_sink
from embedmill.reindexing.planning.ledger import Entry, Ledger

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


@dataclass(frozen=True)
class Kind:
    """A kind of sink, and what a reader finds in it."""

    #: Its name in a folder.
    name: Callable[[Path], str]
    #: From its name to (id, vector, metadata, text) of every row.
    read: Callable[[str], Iterable[tuple[str, np.ndarray, dict, str | None]]]
    #: Largest difference of components from those that were written.
    tolerance: float = 0.0
    #: Whether it can be read while a run has it open.
    has_readers_meanwhile: bool = True
    #: Whether its rows lie in the folder.
    is_local: bool = True

    def content(self, folder: Path) -> dict[str, tuple[np.ndarray, dict, str | None]]:
        """What a reader finds: id → vector, metadata, text."""
        rows = list(self.read(self.name(folder)))
        result = {id: (np.asarray(vector), metadata, text) for id, vector, metadata, text in rows}
        assert len(result) == len(rows), "an id stands there twice"
        return result

    def expect(self, folder: Path, *batches: Rows) -> None:
        """The sink holds these rows and no others, with the same bits if there is no tolerance."""
        wanted = {id: (rows, i) for rows in batches for i, id in enumerate(rows.ids)}
        found = self.content(folder)
        assert found.keys() == wanted.keys()
        for id, (rows, i) in wanted.items():
            vector, metadata, text = found[id]
            if self.tolerance:
                np.testing.assert_allclose(vector, rows.vectors[i], rtol=0, atol=self.tolerance)
            else:
                assert vector.tobytes() == rows.vectors[i].tobytes()
            assert metadata == json.loads(rows.metadata[i])
            assert text == (None if rows.texts is None else rows.texts[i])


class SinkContract:
    """What is asked of every sink; what it says itself that it cannot do is not asked of it."""

    def test_rows_come_back_as_they_were_written(self, kind, make, tmp_path):
        book = make()
        rows = book.put(IDS)
        book.finish()
        book.close()
        kind.expect(tmp_path, rows)

    def test_a_later_row_takes_the_place_of_an_earlier_one(self, kind, make, tmp_path):
        book = make()
        book.put(IDS)
        newer = book.put(IDS[:2], seed=1)
        book.finish()
        book.close()
        kept = make_rows(IDS, an_index()).select(np.array([2, 3, 4]))
        kind.expect(tmp_path, kept, newer)

    def test_deleted_rows_are_gone_and_deleting_twice_is_no_error(self, kind, make, tmp_path):
        book = make()
        book.put(IDS)
        book.delete(IDS[1:])
        book.delete(["never", *IDS[1:]])
        book.finish()
        book.close()
        kind.expect(tmp_path, make_rows(IDS[:1], an_index()))

    def test_a_write_that_a_crash_kept_out_of_the_ledger_is_written_again(self, kind, make, tmp_path):
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
        kind.expect(tmp_path, first, lost)

    def test_it_says_what_it_was_filled_with(self, kind, make, tmp_path):
        new = open_sink(kind.name(tmp_path))
        assert new.read_index() is None
        new.close()
        book = make()
        book.put(IDS)
        book.finish()
        book.close()
        again = open_sink(kind.name(tmp_path))
        assert again.read_index() == an_index()
        again.close()

    def test_a_rebuild_leaves_the_old_version_in_use_until_it_is_whole(self, kind, make, tmp_path):
        book = make()
        old = book.put(IDS)
        book.finish()
        book.close()

        newer = an_index(fingerprint="f2", dimension=16)
        current = open_sink(kind.name(tmp_path))
        if not current.has_versions:
            with pytest.raises(InvalidRequestError, match="no versions"):
                current.new_version(newer)
            current.close()
            return
        assert current.read_index() == an_index()
        rebuilt = make(newer, current.new_version(newer))
        new = rebuilt.put(IDS[:3], seed=2)
        if kind.has_readers_meanwhile:
            kind.expect(tmp_path, old)
        assert rebuilt.finish()
        rebuilt.close()
        current.close()
        kind.expect(tmp_path, new)

        again = open_sink(kind.name(tmp_path))
        assert again.read_index() == newer
        again.close()
        # And it goes on as the version in use.
        later = make(newer)
        more = later.put(IDS[3:], seed=3)
        assert not later.finish()
        later.close()
        kind.expect(tmp_path, new, more)

    def test_new_metadata_leave_the_vectors_as_they_are(self, kind, make, tmp_path):
        book = make()
        if not book.sink.can_update_metadata:
            return
        rows = book.put(IDS)
        newer = make_rows(IDS[1:4], book.index, write_id=book.ledger.next_write_id(), seed=7)
        book.sink.update_metadata(replace(newer, vectors=np.empty((3, 0), np.float32)), [rows.write_id] * 3)
        book.note(newer)
        book.finish()
        book.close()
        kept = rows.select(np.array([0, 4]))
        kind.expect(tmp_path, kept, replace(newer, vectors=rows.vectors[1:4]))

    def test_many_rows_in_several_writes(self, kind, make, tmp_path):
        book = make(an_index(dimension=32))
        ids = [f"row {i}" for i in range(600)]
        first, second = book.put(ids[:400]), book.put(ids[400:])
        book.finish()
        book.close()
        kind.expect(tmp_path, first, second)

    def test_a_lost_ledger_is_made_anew_from_the_sink(self, make):
        book = make()
        if book.sink.count() is None:  # its ledger lies beside it
            return
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

    def test_a_full_disk_is_said_and_with_room_the_same_rows_are_written(self, kind, small_disk):
        if not kind.is_local:
            return
        filler = small_disk / "filler"
        book = Book(kind.name(small_disk), small_disk, an_index())
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
        found = kind.content(small_disk)
        assert set(rows.ids) <= found.keys()
