"""`embedmill reindex` and `embed` over files as people have them: nothing lost, nothing misread, nothing unsaid."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedmill
from embedmill import EmbeddingClient, InvalidRequestError
from embedmill_worker import exit_codes
from support.reindexer import PATIENCE_S, Reindexer, rows


@pytest.fixture
def reindexer(mill):
    """Makes a reindexer of this mill."""
    return lambda *arguments: Reindexer({**mill.env}, arguments)


@pytest.fixture
def client(mill):
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        yield client


def carried(folder: Path) -> dict[str, dict]:
    return {id: json.loads(metadata) for id, (_, metadata) in rows(folder).items()}


def rejects(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def write_lines(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_one_odd_record_among_many_is_one_reject(reindexer, tmp_path):
    lines = [f'{{"id": "d{n}", "text": "text {n}", "city": "Köln"}}\n'.encode() for n in range(20)]
    lines[3] = lines[3].decode().encode("latin-1")
    lines[5] = b'{"id": "d5", "text": "text 5", "note": "\\ud83d"}\n'
    lines[7] = b'{"id": "d7", "text": "text 7", "\\udfff": 1}\n'
    lines[9] = b'{"id": "d9", "text": "text 9", "n": NaN}\n'
    source = tmp_path / "corpus.jsonl"
    source.write_bytes(b"".join(lines))
    for sink in ("vectors", "vectors.npy", "vectors.jsonl"):
        report = reindexer(source, "--to", tmp_path / sink).run(exit_codes.REJECTED)
        assert (report["added"], report["rejected"], report["rows"]) == (17, 3, 17)
        assert rejects(tmp_path / f"{sink}.rejects.jsonl") == ["d3", "d5", "d7"]
    assert carried(tmp_path / "vectors")["d9"] == {"n": None}
    _, err = reindexer(source, "--to", tmp_path / "vectors").start().wait(exit_codes.REJECTED)
    assert "the first: corpus.jsonl:4 is not UTF-8: name its encoding, as in --encoding latin-1" in err
    reindexer(source, "--to", tmp_path / "estimate", "--dry-run").run()
    assert not (tmp_path / "estimate").exists()


def test_a_record_that_becomes_unfit_loses_the_row_of_its_older_text(reindexer, tmp_path):
    source = write_lines(tmp_path / "c.jsonl", {"id": "a", "text": "one"}, {"id": "b", "text": "two"})
    run = reindexer(source, "--to", tmp_path / "vectors")
    run.run()
    write_lines(source, {"id": "a", "text": "entirely different", "n": "\ud800"}, {"id": "b", "text": "two"})
    report = run.run(exit_codes.REJECTED)
    assert (report["deleted"], report["rejected"], report["rows"]) == (1, 1, 1)
    assert rows(tmp_path / "vectors").keys() == {"b"}
    write_lines(source, {"id": "b", "text": "two"}, {"id": "b", "text": "x", "n": "\ud800"})
    run.run(exit_codes.REJECTED)
    assert rows(tmp_path / "vectors").keys() == {"b"}, "of two records with one id the first one counts"


def test_of_a_source_that_is_cut_off_what_was_read_is_kept_and_nothing_deleted(reindexer, tmp_path):
    data = "".join(json.dumps({"id": f"d{n}", "text": f"text {n}"}) + "\n" for n in range(300)).encode()
    source = tmp_path / "corpus.jsonl.gz"
    source.write_bytes(gzip.compress(data))
    run = reindexer(source, "--to", tmp_path / "vectors", "--delete-missing")
    assert run.run()["rows"] == 300
    source.write_bytes(gzip.compress(data)[:-300])
    report = run.run(exit_codes.UNREADABLE)
    assert (report["unread"], report["deleted"], report["rows"]) == (1, 0, 300)
    assert 0 < report["skipped"] < 300
    _, err = reindexer(source, "--to", tmp_path / "other").start().wait(exit_codes.UNREADABLE)
    assert "corpus.jsonl.gz: the file is cut off" in err
    assert "what was read is kept, and nothing was deleted" in err
    assert len(rows(tmp_path / "other")) == report["skipped"]


@pytest.mark.parametrize(
    ("name", "data", "code", "said"),
    [
        ("a.zip", b"PK\x03\x04" + bytes(200), exit_codes.UNREADABLE, "ZIP"),
        ("a.csv", b"id;text\na;one\n", exit_codes.USAGE, "--delimiter ';'"),
        ("b.csv", b"id,text,text\na,one,two\n", exit_codes.USAGE, "several columns named text"),
        ("a.jsonl", b'{"id": "a", "body": "one"}\n', exit_codes.USAGE, "--text-field"),
        ("s3://bucket/a.jsonl", None, exit_codes.USAGE, "is a URL, which is not read"),
        ("missing.jsonl", None, exit_codes.UNREADABLE, "no such file"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_done(reindexer, tmp_path, monkeypatch, name, data, code, said):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    _, err = reindexer(name, "--to", tmp_path / "vectors").start().wait(code)
    assert said in err
    assert "Traceback" not in err
    assert "committed work is kept" not in err
    assert not (tmp_path / "vectors").exists()


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("foreign.npy", "was not written by reindex"),
        ("foreign.npy/vectors", "cannot be"),
        ("/proc/vectors", "cannot be"),
        ("/proc/vectors.npy", "cannot be"),
        ("qdrant+file:/proc/vectors", "cannot be"),
        ("qdrant://127.0.0.1:1/docs", "is it running"),
        ("postgresql://127.0.0.1:1/docs", "is it running"),
    ],
)
def test_a_sink_that_is_refused_says_nothing_of_what_is_committed(reindexer, tmp_path, monkeypatch, sink, said):
    monkeypatch.chdir(tmp_path)
    source = write_lines(tmp_path / "a.jsonl", {"id": "a", "text": "one"})
    (tmp_path / "foreign.npy").write_bytes(b"somebody's")
    _, err = reindexer(source, "--to", sink).start().wait(exit_codes.FAILURE)
    assert said in err
    assert "Traceback" not in err
    assert "committed work is kept" not in err


def test_a_table_beside_documents_does_not_hide_them(reindexer, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in "abc":
        (docs / f"{name}.md").write_text(name)
    run = reindexer(docs, "--to", tmp_path / "vectors", "--delete-missing")
    run.run()
    pq.write_table(pa.table({"n": [1]}), docs / "stats.parquet")
    (docs / "picture.png").write_bytes(b"")
    report = run.run()
    assert (report["skipped"], report["deleted"], report["rows"]) == (3, 0, 3)
    (note,) = report["notes"]
    assert "passed over 1 .parquet without the field text, 1 .png" in note or "1 .png, 1 .parquet" in note


def test_the_source_itself_is_no_sink(reindexer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sf").mkdir()
    (tmp_path / "sf" / "a.md").write_text("one")
    _, err = reindexer("sf", "--to", "sf").start().wait(exit_codes.USAGE)
    assert "sf is the source itself" in err
    assert sorted(path.name for path in (tmp_path / "sf").iterdir()) == ["a.md"]


def test_files_of_one_name_do_not_write_over_each_other(reindexer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for month in ("jan", "feb"):
        (tmp_path / month).mkdir()
        (tmp_path / month / "data.txt").write_text(f"one of {month}\ntwo of {month}\n")
        report = reindexer(f"{month}/data.txt", "--to", "vectors").run()
        assert (report["added"], report["updated"]) == (2, 0)
    assert rows(tmp_path / "vectors").keys() == {f"{month}/data.txt:{n}" for month in ("jan", "feb") for n in (1, 2)}
    report = reindexer("jan/data.txt", "feb/data.txt", "--to", "vectors").run()
    assert (report["skipped"], report["rejected"]) == (4, 0)


def test_another_file_of_a_name_that_the_sink_has_is_refused_while_the_first_is_there(reindexer, tmp_path):
    for month in ("jan", "feb"):
        (tmp_path / month).mkdir()
        (tmp_path / month / "data.txt").write_text(f"one of {month}\n")
    reindexer(tmp_path / "jan" / "data.txt", "--to", tmp_path / "vectors").run()
    before = rows(tmp_path / "vectors")
    _, err = reindexer(tmp_path / "feb" / "data.txt", "--to", tmp_path / "vectors").start().wait(exit_codes.USAGE)
    assert f"holds records of {tmp_path}/jan/data.txt under the same ids" in err
    assert rows(tmp_path / "vectors") == before
    report = reindexer(tmp_path / "feb" / "data.txt", "--to", tmp_path / "vectors", "--delete-missing=all").run()
    assert report["updated"] == 1, "it takes the other's place, as asked for"
    reindexer(tmp_path / "jan" / "data.txt", "--to", tmp_path / "vectors", "--delete-missing=all").run()
    (tmp_path / "jan").rename(tmp_path / "moved")
    report = reindexer(tmp_path / "moved" / "data.txt", "--to", tmp_path / "vectors").run()
    assert report["skipped"] == 1, "it is the same corpus elsewhere"
    for month in ("jan2", "feb2"):  # records that have ids of their own come from wherever they are
        (tmp_path / month).mkdir()
        source = write_lines(tmp_path / month / "data.jsonl", {"id": month, "text": "x"})
        reindexer(source, "--to", tmp_path / "with ids").run()
    assert rows(tmp_path / "with ids").keys() == {"jan2", "feb2"}


def test_texts_that_were_cut_are_counted(reindexer, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "long.md").write_text("word " * 3_000)
    (tmp_path / "docs" / "short.md").write_text("word")
    assert reindexer(tmp_path / "docs", "--to", tmp_path / "vectors").run()["truncated"] == 1
    _, err = reindexer(tmp_path / "docs", "--to", tmp_path / "other").start().wait()
    assert "1 text was truncated, because the model reads no more; --split embeds all of a text" in err


def test_a_parquet_file_that_is_rewritten_while_it_is_read_ends_no_process(tmp_path):
    path = tmp_path / "a.parquet"
    values = [f"{n} {'x' * 200}" for n in range(200_000)]
    pq.write_table(pa.table({"text": values}), path, compression="none", row_group_size=20_000)
    code = f"""
import os
from embedmill.reindexing import open_source
items = iter(open_source([{str(path)!r}]))
next(items)
os.truncate({str(path)!r}, 100_000)
*_, last = items
print(last.is_partial, last.detail)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith("True a.parquet: cannot be read")


def test_frames_are_sources_and_no_texts(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pa.table({"id": [1, 2], "body": ["one", "two"], "at": pa.array([1, None], pa.timestamp("ns"))})
    report = embedmill.reindex(frame, "vectors", client=client, fields=embedmill.reindexing.Fields(text="body"))
    assert report.added == 2
    assert carried(tmp_path / "vectors")["1"] == {"at": "1970-01-01 00:00:00.000000001"}
    for call in (client.embed, client.submit):
        with pytest.raises(InvalidRequestError, match=r"as in texts\['id'\]; it has 'id', 'body', 'at'"):
            call(frame)
        with pytest.raises(InvalidRequestError, match=r"as in texts\['text'\]; it has 'id', 'text'"):
            call({"id": [1], "text": ["one"]})
    report = embedmill.reindex([{"id": np.int64(5), "text": np.str_("x"), "n": np.float32(1)}], "more", client=client)
    assert carried(tmp_path / "more") == {"5": {"n": 1.0}}


def test_embed_reads_what_reindex_reads_and_never_replaces_it(mill, client, tmp_path):
    def embed(*arguments, stdin=Path(os.devnull)):
        command = [sys.executable, "-m", "embedmill_worker.cli", "embed", *map(str, arguments)]
        with stdin.open("rb") as stream:
            return subprocess.run(
                command, env=mill.env, stdin=stream, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )

    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    done = embed(packed, "--output", tmp_path / "a.npy")
    assert (done.returncode, done.stderr) == (exit_codes.OK, "")
    assert np.array_equal(np.load(tmp_path / "a.npy"), client.embed(["one", "two"]))
    own = tmp_path / "own.jsonl"
    own.write_text('{"text": "one"}\n')
    for name in ("soft.jsonl", "hard.jsonl", "same/../own.jsonl"):
        (tmp_path / "same").mkdir(exist_ok=True)
        if name == "soft.jsonl":
            (tmp_path / name).symlink_to(own)
        elif name == "hard.jsonl":
            (tmp_path / name).hardlink_to(own)
        for arguments in (
            (own, "--output", tmp_path / name),
            (tmp_path / name, "--output", own),
            ("-", "--output", own),
        ):
            done = embed(*arguments, stdin=own)
            assert done.returncode == exit_codes.USAGE
            assert "is also an input file, and would be overwritten" in done.stderr
            assert own.read_text() == '{"text": "one"}\n'
    packed.write_bytes(gzip.compress(b"one\ntwo\n" * 5_000)[:-9])
    done = embed(packed, "--format", "lines", "--output", tmp_path / "b.npy")
    assert done.returncode == exit_codes.UNREADABLE
    assert "a.jsonl.gz: the file is cut off" in done.stderr
    assert len(np.load(tmp_path / "b.npy")) > 0
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(99))
    assert embed(tmp_path / "a.zip").returncode == exit_codes.UNREADABLE
