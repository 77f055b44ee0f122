"""`embedmill reindex` removes and replaces what it has written itself, and nothing else."""

import json
from pathlib import Path

import pytest

import embedmill
from embedmill import EmbeddingClient, InvalidRequestError
from embedmill_worker import exit_codes
from support.reindexer import Reindexer, rows


def deeply(*cases):
    """Returns cases that `make deep` tries: each starts commands, and the others show the same rule."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.deep) for case in cases]


@pytest.fixture
def reindexer(mill, tmp_path, monkeypatch):
    """Makes a reindexer of this mill, run in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **env: Reindexer({**mill.env, **env}, arguments)


@pytest.fixture
def tree(tmp_path):
    """What lies in the test's folder: path → bytes."""
    return lambda: {
        path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()
    }


def write_docs(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"the text of {name}")
    return folder


@pytest.mark.parametrize(
    "rejects", ["c.jsonl", "linked.jsonl", "docs/a.md", "v.embedmill/list.jsonl", "notes.txt", "", "."]
)
def test_a_list_of_rejects_takes_no_other_file_s_place(reindexer, tree, tmp_path, rejects):
    write_docs(tmp_path / "docs", "a.md")
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b"}\n')
    (tmp_path / "linked.jsonl").symlink_to("c.jsonl")
    (tmp_path / "notes.txt").write_text("theirs")
    before = tree()
    _, err = reindexer("c.jsonl", "docs", "--to", "v", "--rejects", rejects).start().wait(exit_codes.USAGE)
    assert "rejects: " in err
    assert tree() == before, "nothing is read or written"


@pytest.mark.parametrize(("sink", "name"), [("v", "v.rejects.jsonl"), ("qdrant+file:q#docs", "docs.rejects.jsonl")])
def test_the_usual_list_is_no_other_program_s_file_either(reindexer, tree, tmp_path, sink, name):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / name).write_text('{"theirs": 1}\n')
    before = tree()
    _, err = reindexer("c.jsonl", "--to", sink).start().wait(exit_codes.USAGE)
    assert f"{name} is not a list of rejects and would be replaced; name another file (--rejects)" in err
    assert tree() == before
    assert reindexer("c.jsonl", "--to", sink, "--rejects", "other.jsonl").run()["added"] == 1
    assert (tmp_path / name).read_text() == '{"theirs": 1}\n'


def test_a_list_is_replaced_by_the_next_and_removed_when_nothing_is_rejected(reindexer, tmp_path):
    source, rejects = tmp_path / "c.jsonl", tmp_path / "v.rejects.jsonl"
    source.write_text('{"id": "a", "text": "one"}\n{"id": "b"}\n{"id": "c"}\n')
    reindexer("c.jsonl", "--to", "v").run(exit_codes.REJECTED)
    assert len(rejects.read_text().splitlines()) == 2
    source.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    report = reindexer("c.jsonl", "--to", "v").run(exit_codes.REJECTED)
    (line,) = map(json.loads, rejects.read_text().splitlines())
    assert line["reason"] == "duplicate_id"
    assert "(--id-field)" in report["first_reject"], "what to do"
    source.write_text('{"id": "a", "text": "one"}\n')
    reindexer("c.jsonl", "--to", "v").run()
    assert not rejects.exists()


@pytest.mark.parametrize("sink", ["", ".", *deeply("..", "/", "-", "./", "qdrant+file:.")])
def test_a_sink_without_a_name_is_refused_with_one_that_works(reindexer, tree, tmp_path, sink):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n')
    _, err = reindexer("c.jsonl", "--to", sink).start().wait(exit_codes.USAGE)
    assert "vectors" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("corpus.ids.jsonl", "corpus.npy"),
        ("own.jsonl", "own.jsonl"),
        ("own.jsonl", "hard.jsonl"),
        ("docs", "docs"),
        *deeply(("own.jsonl", "soft.jsonl"), ("docs/a.md", "docs"), ("docs", "qdrant+file:docs")),
    ],
)
def test_a_source_is_not_written_to(reindexer, tree, tmp_path, source, sink):
    write_docs(tmp_path / "docs", "a.md")
    for name in ("corpus.ids.jsonl", "own.jsonl"):
        (tmp_path / name).write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "own.jsonl")
    (tmp_path / "soft.jsonl").symlink_to("own.jsonl")
    before = tree()
    _, err = reindexer(source, "--to", sink).start().wait(exit_codes.USAGE)
    assert "is the source itself" in err
    assert tree() == before


@pytest.mark.parametrize("sink", ["docs/corpus.npy", "docs", *deeply("docs/notes.jsonl", "qdrant+file:docs/index")])
def test_a_sink_that_is_refused_leaves_nothing_that_hides_a_document(reindexer, tree, tmp_path, sink):
    write_docs(tmp_path / "docs", "a.md", "b.txt")
    (tmp_path / "docs" / "notes.jsonl").write_text('{"id": "n", "text": "one"}\n')
    (tmp_path / "docs" / "corpus.ids.jsonl").write_text('{"id": "i", "text": "one"}\n')
    write_docs(tmp_path / "docs" / "index", "c.md")
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n')
    before = tree()
    reindexer("c.jsonl", "--to", sink).start().wait(exit_codes.FAILURE)
    assert tree() == before
    assert reindexer("docs", "--to", "v").run()["rows"] == 5


def test_nothing_is_deleted_when_the_source_is_read_otherwise(reindexer, tmp_path):
    docs = write_docs(tmp_path / "docs", "a.md", "b.md", "c.txt")
    (docs / "d.jsonl").write_text('{"id": "d", "text": "one", "body": "two"}\n')
    reindexer("docs", "--to", "v").run()
    before = rows(tmp_path / "v")

    def refused(*arguments: str) -> str:
        _, err = reindexer(*arguments, "--to", "v", "--delete-missing").start().wait(exit_codes.USAGE)
        assert "use --delete-missing=all" in err
        assert rows(tmp_path / "v") == before
        return err

    assert f"{docs} was read with format auto, and now jsonl" in refused("docs", "--format", "jsonl")
    assert f"{docs} is not among the sources" in refused("docs/d.jsonl")
    assert "with text field text, and now body" in refused("docs", "--text-field", "body")
    assert "with split unset, and now 64 tokens" in refused("docs", "--split", "64")
    (docs / "c.txt").rename(tmp_path / "c.txt")
    assert f"{docs} had files of the kind .txt, and has none now" in refused("docs")
    (tmp_path / "c.txt").rename(docs / "c.txt")
    reindexer("docs", "--to", "v", "--format", "folder").run()  # it deletes nothing, and takes no other way's place
    assert "with format auto, and now folder" in refused("docs", "--format", "folder")
    (docs / "b.md").unlink()
    (docs / "more.csv").write_text("id,text\nm,more\n")
    assert "with format folder, and now auto" in refused("docs")

    report = reindexer("--to", "v", "--delete-missing=all", "docs").run()
    assert (report["deleted"], report["added"], report["rows"]) == (1, 1, 4)
    (docs / "a.md").unlink()
    write_docs(docs, "e.md")
    report = reindexer("--to", "v", "--delete-missing", "docs").run()
    assert (report["deleted"], report["added"], report["rows"]) == (1, 1, 4)


def test_a_table_that_has_lost_its_text_is_not_missing(reindexer, tmp_path):
    docs = write_docs(tmp_path / "docs", "a.md")
    (docs / "t.csv").write_text("id,text\nx,two\n")
    run = reindexer("docs", "--to", "v", "--delete-missing")
    assert run.run()["rows"] == 2
    (docs / "t.csv").write_text("id,body\nx,two\n")
    report = run.run()
    assert (report["deleted"], report["rows"]) == (0, 2)
    assert "have no text field now, so no missing rows were deleted: " in report["notes"][0]
    assert "t.csv" in report["notes"][0]
    assert reindexer("docs", "--to", "v", "--delete-missing=all").run()["deleted"] == 1
    assert run.run()["deleted"] == 0


def test_the_environment_may_ask_for_all(reindexer, tmp_path):
    docs = write_docs(tmp_path / "docs", "a.md", "b.txt")
    reindexer("docs", "--to", "v").run()
    (docs / "b.txt").unlink()
    on = {"EMBEDMILL_REINDEX_DELETE_MISSING": "1"}
    assert "kind .txt" in reindexer("docs", "--to", "v", **on).start().wait(exit_codes.USAGE)[1]
    assert reindexer("docs", "--to", "v", EMBEDMILL_REINDEX_DELETE_MISSING="all").run()["deleted"] == 1
    assert reindexer("docs", "--to", "v", **on).run()["deleted"] == 0


def test_programs_delete_by_the_same_rules(mill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one"}\n')
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        embedmill.reindex("a.jsonl", "v", client=client)
        for source in ([("b", "two")], [{"id": "b", "text": "two"}]):
            with pytest.raises(InvalidRequestError, match=r"a\.jsonl is not among the sources"):
                embedmill.reindex(source, "v", client=client, delete_missing=True)
        assert embedmill.reindex([("b", "two")], "v", client=client, delete_missing="all").deleted == 1
        assert embedmill.reindex([("c", "three")], "v", client=client, delete_missing=True).deleted == 1
        with pytest.raises(InvalidRequestError, match="takes True, False or 'all'"):
            embedmill.reindex([("c", "three")], "v", client=client, delete_missing="al")
    assert rows(tmp_path / "v").keys() == {"c"}


@pytest.mark.parametrize(
    "sink", ["vectors", *deeply("vectors.parquet", "vectors.npy", "vectors.jsonl", "qdrant+file:index#notes")]
)
def test_a_sink_within_the_source_is_read_by_no_run(reindexer, tmp_path, sink):
    write_docs(tmp_path, "a.md", "b.md")
    run = reindexer(".", "--to", sink, "--with-text", "--delete-missing")
    assert run.run()["added"] == 2
    (tmp_path / "a.md").write_text("changed")
    (tmp_path / "c.md").write_text("new")
    for expected in ((1, 1, 0, 3), (0, 0, 0, 3)):
        report = run.run()
        assert (report["added"], report["updated"], report["deleted"], report["rows"]) == expected
    (tmp_path / "b.md").unlink()
    assert run.run()["deleted"] == 1
