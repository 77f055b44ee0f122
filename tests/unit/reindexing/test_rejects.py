"""The list of rejects replaces nothing but a list of rejects, and nothing before there is something to write."""

import json
from pathlib import Path

import pytest

from embedmill import InvalidRequestError, SinkError
from embedmill.reindexing import open_sink, open_source
from embedmill.reindexing.opening import check_apart, rejects_path
from embedmill.reindexing.rejects import Rejects

OLD = '{"id": "a", "reason": "too_long", "detail": "x"}\n'


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "foreign",
    [
        '{"id": "a", "text": "one"}\n',
        '{"id": "a", "reason": "x", "detail": "y", "text": "one"}\n',
        "a line\n",
        "\n" + OLD,
        b"\xff\x00\xfe",
        "[1]\n",
        "[" * 9_999,
    ],
)
def test_a_file_that_is_no_list_is_refused_and_left_as_it_is(tmp_path, foreign):
    path = tmp_path / "v.rejects.jsonl"
    path.write_bytes(foreign if isinstance(foreign, bytes) else foreign.encode())
    before = path.read_bytes()
    with pytest.raises(InvalidRequestError, match=r"v\.rejects\.jsonl is not a list of rejects.*--rejects"):
        Rejects(path)
    assert path.read_bytes() == before


def test_an_older_list_stays_until_the_first_reject_or_the_end_of_a_whole_run(tmp_path):
    path = tmp_path / "v.rejects.jsonl"
    path.write_text(OLD)
    stopped = Rejects(path)
    stopped.close()
    assert path.read_text() == OLD
    some = Rejects(path)
    some.add("b\u2028", "spam", "why\x85")
    some.close()
    some.finish()
    assert lines(path) == [{"id": "b\u2028", "reason": "spam", "detail": "why\x85"}]
    none = Rejects(path)
    none.finish()
    assert not path.exists()
    none.finish()


def test_an_empty_file_may_take_a_list_and_is_not_removed(tmp_path):
    path = tmp_path / "list.jsonl"
    path.touch()
    Rejects(path).finish()
    assert path.exists()
    rejects = Rejects(path)
    rejects.add("a", "b", "c")
    rejects.close()
    assert len(lines(path)) == 1


def test_what_another_program_has_put_there_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "list.jsonl"
    rejects = Rejects(path)
    path.write_text("theirs\n")
    with pytest.raises(InvalidRequestError, match="is not a list of rejects"):
        rejects.add("a", "b", "c")
    rejects.finish()
    assert path.read_text() == "theirs\n"


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_name_of_no_file_is_refused(name):
    with pytest.raises(InvalidRequestError, match=r"is not the name of a file.*as in rejects\.jsonl"):
        Rejects(Path(name))


def test_folders_and_pipes_are_refused_and_missing_folders_made_for_the_first_reject(tmp_path):
    with pytest.raises(SinkError, match="not a regular file"):
        Rejects(tmp_path)
    path = tmp_path / "new" / "list.jsonl"
    rejects = Rejects(path)
    assert not path.parent.exists()
    rejects.add("a", "b", "c")
    rejects.close()
    assert path.exists()


def check(source: Path, sink: str, rejects: Path) -> None:
    check_apart(open_source([str(source)]), open_sink(sink), rejects)


def test_source_sink_and_list_lie_apart(tmp_path):
    source = tmp_path / "docs" / "a.jsonl"
    source.parent.mkdir()
    source.write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / "soft.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    elsewhere = tmp_path / "list.jsonl"
    for name in (
        source,
        tmp_path / "soft.jsonl",
        tmp_path / "hard.jsonl",
        tmp_path / "docs" / ".." / "docs" / "a.jsonl",
    ):
        with pytest.raises(InvalidRequestError, match="is the source itself"):
            check(source, str(name), elsewhere)
        with pytest.raises(InvalidRequestError, match=r"is the source itself; name another file \(--rejects\)"):
            check(source, str(tmp_path / "v"), name)
    ids = tmp_path / "v.ids.jsonl"
    ids.write_text('{"id": "a", "text": "one"}\n')
    with pytest.raises(InvalidRequestError, match="is the source itself"):
        check(ids, str(tmp_path / "v.npy"), elsewhere)
    for sink in (tmp_path / "docs", f"qdrant+file:{tmp_path / 'docs'}"):
        with pytest.raises(InvalidRequestError, match="or contains it"):
            check(source, str(sink), elsewhere)
    (tmp_path / "docs" / "b.md").write_text("two")
    for name in ("rejects.md", "sub/rejects.json"):
        with pytest.raises(InvalidRequestError, match=r"would be read as one of its files; end its name in \.jsonl"):
            check(tmp_path / "docs", str(tmp_path / "v"), tmp_path / "docs" / name)
    check(tmp_path / "docs", str(tmp_path / "docs" / "v"), tmp_path / "docs" / "v.rejects.jsonl")


@pytest.mark.parametrize("sink", ["v", "v.parquet", "v.npy", "v.jsonl", "qdrant+file:v"])
def test_the_list_is_no_file_of_the_sink(tmp_path, monkeypatch, sink):
    monkeypatch.chdir(tmp_path)
    Path("a.md").write_text("one")
    files = [path for path in open_sink(sink).paths if path.suffix]
    ledger = [Path(f"{sink.removeprefix('qdrant+file:')}.embedmill") / "x" / "ledger.sqlite"]
    for path in files + ledger:
        with pytest.raises(InvalidRequestError, match="is written by the sink"):
            check(Path("a.md"), sink, path)
    check(Path("a.md"), sink, rejects_path(open_sink(sink)))
