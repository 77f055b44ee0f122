"""Nothing is deleted on the strength of a source that is read otherwise than before."""

from dataclasses import replace
from pathlib import Path

import pytest

from embedmill import InvalidRequestError
from embedmill.reindexing import Fields, Index, open_source
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.planning.ways import changes, check_ways, merged, note_ways, ways_of
from embedmill.reindexing.sources import listing, registry
from embedmill.reindexing.sources.base import Values


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a.md", "b.txt"):
        (folder / name).write_text(name)
    (folder / "c.jsonl").write_text('{"id": "c", "text": "x", "body": "y", "key": "z"}\n')
    return folder


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "sink") as ledger:
        ledger.set_index(Index(model="m", fingerprint="f", dimension=8))
        ledger.commit(1, [Entry(number=1, id="a.md", parent="", digest=b"d", write_id=1)], "")
        yield ledger


def ways(*paths, **options):
    return ways_of(open_source(list(map(str, paths)), **options))


def test_what_is_read_as_before_is_no_change(docs):
    assert changes(ways(docs), ways(docs)) == []
    assert changes(ways(docs), ways(docs / ".." / "docs")) == []
    (docs / "stats.csv").write_text("id,text\n1,x\n")
    assert changes(ways(docs)[:1], ways(docs)) == [], "more kinds than before are none"
    assert changes([], ways(docs)) == [], "an older ledger knows of nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "jsonl"}, "was read with format auto, and now jsonl"),
        ({"form": "jsonl"}, "had files of the kind .md, .txt, and has none now"),
        ({"fields": Fields(text="body")}, "was read with text field text, and now body"),
        ({"fields": Fields(id="key")}, "was read with id field id, and now key"),
        ({"encoding": "latin-1"}, "was read with encoding utf-8, and now iso8859-1"),
        ({"delimiter": ";"}, "was read with delimiter unset, and now ;"),
    ],
)
def test_what_is_read_otherwise_is_named(docs, options, said):
    found = changes(ways(docs), ways(docs, **options))
    assert f"{docs} {said}" in found


def test_sources_and_kinds_that_are_missing_are_named(docs, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("x")
    both = ways(docs, other)
    assert changes(both, ways(docs)) == [f"{other} is not among the sources"]
    other.unlink()
    assert changes(both, ways(docs)) == [], "what is gone is gone"
    before = ways(docs)
    (docs / "a.md").unlink()
    assert changes(before, ways(docs)) == [f"{docs} had files of the kind .md, and has none now"]
    assert changes([{"source": "standard input"}], ways(docs)) == ["standard input is not among the sources"]


def test_of_a_folder_that_cannot_be_read_whole_nobody_knows_the_kinds(docs, monkeypatch):
    before = ways(docs)
    (docs / "a.md").unlink()
    real = listing.list_folder
    monkeypatch.setattr(registry, "list_folder", lambda *args: replace(real(*args), broken={"x": "no permission"}))
    assert changes(before, ways(docs)) == [], "the run says that itself, and deletes nothing"


def test_a_file_whose_form_has_changed_is_named(tmp_path):
    path = tmp_path / "a.dat"
    path.write_text("a line\n")
    before = ways(path)
    path.write_text('{"text": "a"}\n')
    assert changes(before, ways(path)) == [f"{path} was read with format lines, and now jsonl"]


def test_values_of_programs_have_ways_too():
    before = ways_of(Values([]))
    assert changes(before, ways_of(Values([]))) == []
    assert "text field text, and now body" in changes(before, ways_of(Values([], Fields(text="body"))))[0]


def test_ways_that_differ_in_kinds_alone_are_one(docs):
    before = ways(docs)
    (docs / "a.md").unlink()
    together = merged(before, ways(docs))
    assert len(together) == 1
    assert together[0]["kinds"] == ".jsonl .md .txt"
    assert len(merged(together, ways(docs, form="jsonl"))) == 2
    assert merged(merged(together, ()), together) == merged(together, ())


def test_a_run_that_deletes_nothing_takes_no_way_s_place(docs, ledger):
    note_ways(open_source([str(docs)]), ledger)
    only = open_source([str(docs)], form="jsonl")
    note_ways(only, ledger)  # a run without --delete-missing
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=r"format auto, and now jsonl.*--delete-missing=all"):
            check_ways(only, ledger, "sink", deletes=True)
    check_ways(only, ledger, "sink", deletes="all")
    check_ways(only, ledger, "sink", deletes=False)
    ledger.set_reading(ways_of(only))  # it has deleted what it has not
    check_ways(only, ledger, "sink", deletes=True)


def test_a_sink_without_rows_has_nothing_to_lose_and_nonsense_is_refused(docs, tmp_path):
    with Ledger(tmp_path / "new.sqlite", "sink") as ledger:
        note_ways(open_source([str(docs)]), ledger)
        check_ways(open_source([str(docs)], form="jsonl"), ledger, "sink", deletes=True)
        with pytest.raises(InvalidRequestError, match="takes True, False or 'all'"):
            check_ways(open_source([str(docs)]), ledger, "sink", deletes="most")
    assert not Path("sink").exists()
