"""The planner and the ledger: what is embedded, what is passed over, and that windows stay the same."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import SinkError
from embedmill.reindexing import BadRecord, Index, Record
from embedmill.reindexing.planning import planner
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.planning.missing import SeenRows
from embedmill.reindexing.planning.planner import Planner
from embedmill.reindexing.report import Counts
from embedmill.reindexing.sources.base import Values

INDEX = Index(model="m", fingerprint="f", dimension=4)


class Bench:
    """A ledger in a folder, and runs of the planner over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.rejected: list[tuple[str, str]] = []
        self.counts = Counts()
        self.keeps: list[bool] = []
        self.can_update_metadata = False

    def run(
        self, records, *, commit=True, retry_rejected=False, reject=frozenset(), stop_after=None
    ) -> list[list[str]]:
        """Plans and, window by window, commits; gives the windows' ids."""
        self.rejected, self.counts, self.keeps = [], Counts(), []
        windows = []
        with Ledger(self.path, "sink") as ledger:
            self.planner = Planner(
                ledger,
                self.counts,
                lambda id, reason, _: self.rejected.append((id, reason)),
                row_bytes=INDEX.row_bytes,
                can_update_metadata=self.can_update_metadata,
                retry_rejected=retry_rejected,
            )
            for window in self.planner.windows(Values(records), lambda: None):
                windows.append([p.record.id for p in window.pending])
                self.keeps.append(window.keeps_vectors)
                self.job_ids = [*getattr(self, "job_ids", []), window.job_id(INDEX, "sink")]
                if commit:
                    ledger.commit(window.write_id, [entry(p, window.write_id, reject) for p in window.pending], "")
                    self.planner.committed(window)
                if stop_after is not None and len(windows) == stop_after:
                    break
        return windows


def entry(pending, write_id, reject) -> Entry:
    is_rejected = pending.record.id in reject
    return Entry(
        number=pending.number,
        id=pending.record.id,
        parent=pending.record.parent,
        digest=pending.digest,
        write_id=None if is_rejected else write_id,
        reason="too_long" if is_rejected else "",
    )


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(planner, "BATCH_RECORDS", 4)
    return Bench(tmp_path)


def records(*texts, start=0):
    return [Record(id=f"d{i}", text=text) for i, text in enumerate(texts, start)]


def test_new_records_are_cut_into_windows_in_their_order(bench):
    assert bench.run(records(*"abcdefg")) == [["d0", "d1", "d2"], ["d3", "d4", "d5"], ["d6"]]
    assert bench.counts.read == 7


def test_unchanged_records_are_passed_over_and_changed_ones_are_not(bench):
    bench.run(records(*"abcdefg"))
    assert bench.run(records(*"abcdefg")) == []
    assert bench.counts.skipped == 7
    assert bench.run(records(*"abXdefg")) == [["d2"]]
    changed = [*records(*"abX"), Record(id="d3", text="d", metadata={"n": 1})]
    assert bench.run(changed) == [["d3"]], "metadata counts"


def test_what_has_new_metadata_alone_keeps_its_vector_where_the_sink_can(bench):
    bench.run(records(*"abcd"))
    changed = [Record(id=f"d{i}", text=text, metadata={"n": i}) for i, text in enumerate("abXd")]
    bench.can_update_metadata = True
    assert bench.run([*changed, Record(id="new", text="e")]) == [["d0", "d1", "d3"], ["d2", "new"]]
    assert bench.keeps == [True, False]
    assert bench.run([*changed, Record(id="new", text="e")]) == []


def test_windows_and_their_jobs_are_the_same_after_a_stop_at_any_place(bench, tmp_path):
    whole = bench.run(records(*"abcdefghij"))
    jobs = bench.job_ids
    for stop in range(1, len(whole)):
        other = Bench(tmp_path / str(stop))
        first = other.run(records(*"abcdefghij"), stop_after=stop)
        assert first + other.run(records(*"abcdefghij")) == whole
        assert other.job_ids == jobs


def test_a_job_is_named_by_its_window_its_index_and_its_sink(bench):
    bench.run(records("a", "b"), commit=False)
    with Ledger(bench.path, "sink") as ledger:
        plan = Planner(ledger, Counts(), lambda *_: None, row_bytes=16)
        (window,) = plan.windows(Values(records("a", "b")), lambda: None)
        (other,) = Planner(ledger, Counts(), lambda *_: None, row_bytes=16).windows(
            Values(records("a", "c")), lambda: None
        )
        names = {
            window.job_id(INDEX, "sink"),
            window.job_id(INDEX, "another"),
            window.job_id(Index(model="m", fingerprint="g", dimension=4), "sink"),
            other.job_id(INDEX, "sink"),
        }
    assert bench.job_ids[0] in names
    assert len(names) == 4


@pytest.mark.parametrize("gap", [0, 1, 3, 9])
def test_the_second_record_of_an_id_is_rejected_however_far_behind_it_comes(bench, gap):
    between = records(*"xxxxxxxxx"[:gap], start=10)
    windows = bench.run([Record(id="twice", text="a"), *between, Record(id="twice", text="b")])
    assert sum(window.count("twice") for window in windows) == 1
    assert bench.rejected == [("twice", "duplicate_id")]
    assert bench.run([Record(id="twice", text="a"), *between, Record(id="twice", text="b")]) == []
    assert bench.rejected == [("twice", "duplicate_id")]


def test_what_was_rejected_is_passed_over_until_it_changes_or_is_retried(bench):
    bench.run(records("a", "b"), reject={"d1"})
    assert bench.run(records("a", "b")) == []
    assert bench.rejected == [("d1", "too_long")]
    assert bench.run(records("a", "b"), retry_rejected=True) == [["d1"]]
    bench.run(records("a", "c"), reject={"d1"})
    assert bench.run(records("a", "c")) == []
    assert bench.run(records("a", "d")) == [["d1"]]


def test_a_window_is_bounded_by_characters_and_by_its_vectors(bench, monkeypatch):
    monkeypatch.setattr(planner, "WINDOW_CHARS", 10)
    assert bench.run(records("x" * 6, "x" * 6, "x" * 30, "x")) == [["d0"], ["d1"], ["d2"], ["d3"]]
    monkeypatch.setattr(planner, "WINDOW_BYTES", 2 * INDEX.row_bytes)
    assert bench.run(records("y", "y", "y", "y")) == [["d0", "d1"], ["d2", "d3"]]


def test_what_cannot_be_read_makes_the_rest_doubtful_unless_its_id_is_known(bench):
    bench.run(records("a", "b"))
    known = BadRecord(id="d0", reason="unreadable", detail="gone", is_anonymous=False)
    bench.run([known])
    assert not bench.planner.has_unreadable
    assert 1 in bench.planner.seen
    assert 2 not in bench.planner.seen
    bench.run([BadRecord(id="here:1", reason="unreadable", detail="is not JSON")])
    assert bench.planner.has_unreadable


def test_metadata_that_json_cannot_hold_is_one_record_s_problem(bench):
    odd = [Record(id="a", text="a", metadata={"x": object()}), Record(id="b", text="b", metadata={"x": "\ud800"})]
    assert bench.run([*odd, Record(id="c", text="c")]) == [["c"]]
    assert bench.rejected == [("a", "unfit"), ("b", "unfit")]


@given(st.lists(st.integers(0, 1_000_000), max_size=60))
def test_seen_is_a_set(numbers):
    seen, reference = SeenRows(), set()
    for number in numbers:
        assert seen.add(number) == (number not in reference)
        reference.add(number)
    assert all(number in seen for number in numbers)
    assert 1_000_001 not in seen


def test_one_process_at_a_time(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "sink"), pytest.raises(SinkError, match="another reindex"):
        Ledger(tmp_path / "ledger.sqlite", "sink")
    Ledger(tmp_path / "ledger.sqlite", "sink").close()


def test_a_damaged_ledger_and_one_of_another_version_are_refused(tmp_path):
    (tmp_path / "damaged.sqlite").write_bytes(b"SQLite format 3\0" + b"garbage" * 1_000)
    with pytest.raises(SinkError, match="cannot be used"):
        Ledger(tmp_path / "damaged.sqlite", "sink")
    with sqlite3.connect(tmp_path / "newer.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SinkError, match="version 99"):
        Ledger(tmp_path / "newer.sqlite", "sink")


def test_a_commit_that_fails_in_the_middle_leaves_nothing(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "sink") as ledger:
        good = Entry(number=1, id="a", parent="", digest=b"d", write_id=1)
        clash = Entry(number=2, id="a", parent="", digest=b"d", write_id=1)
        with pytest.raises(SinkError):
            ledger.commit(1, [good, clash], "")
        assert ledger.count() == 0
        assert ledger.segments() == []
        ledger.commit(1, [good], "")
        assert (ledger.count(), ledger.segments()) == (1, [(1, 1, 1)])


def test_places_and_numbers_are_never_used_again(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "sink") as ledger:
        ledger.commit(5, [Entry(number=9, id="a", parent="", digest=b"d", write_id=5)], "")
        ledger.set_row_count(5, 0)
        assert (ledger.next_write_id(), ledger.next_number()) == (6, 10)


def test_jobs_are_noted_until_they_are_committed_or_dropped(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, "sink") as ledger:
        for job in ("one", "two", "three", "two"):
            ledger.note_job(job)
        ledger.commit(1, [], "one")
        ledger.drop_job("three")
    with Ledger(path, "sink") as ledger:
        assert ledger.jobs() == {"two"}


def test_a_window_and_a_batch_are_bounded_by_metadata(bench, monkeypatch):
    monkeypatch.setattr(planner, "WINDOW_CARRIED", 100)
    heavy = [Record(id=f"d{i}", text="x", metadata={"html": "y" * 60}) for i in range(3)]
    assert bench.run(heavy) == [["d0"], ["d1"], ["d2"]]


class Halves:
    """Documents in two parts each, and how often one was split."""

    name, settings = "halves", "2"

    def __init__(self, documents) -> None:
        self.documents, self.split = Values(documents), []

    def fraction(self) -> float:
        return 1.0

    def parts(self, record):
        self.split.append(record.id)
        half = len(record.text) // 2
        for n, text in enumerate((record.text[:half], record.text[half:])):
            yield Record(id=f"{record.id}#{n}", text=text, parent=record.id)


def plan(path, source):
    """Plan and commit as a run does; return the counts."""
    counts = Counts()
    with Ledger(path, "sink") as ledger:
        plan = Planner(ledger, counts, lambda *_: None, row_bytes=16)
        for window in plan.windows(source, lambda: None):
            entries = [entry(p, window.write_id, ()) for p in window.pending]
            ledger.commit(window.write_id, entries, "", plan.whole_by(window.pending, ()))
            plan.committed(window)
    return counts


def test_an_unchanged_document_is_not_split_and_a_changed_one_is(tmp_path):
    path, first = tmp_path / "ledger.sqlite", Halves([("a", "onetwo"), ("b", "tencat")])
    plan(path, first)
    assert first.split == ["a", "b"]
    again = Halves([("a", "onetwo"), ("b", "tendog")])
    counts = plan(path, again)
    assert (again.split, counts.skipped) == (["b"], 3)
    other = Halves([("a", "onetwo"), ("b", "tendog")])
    other.settings = "3"
    plan(path, other)
    assert other.split == ["a", "b"]
