"""`embedmill reindex` as a user runs it: first runs, later runs, stops, refusals."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedmill
from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill.reindexing import Rows, Sink
from embedmill.reindexing.planning import planner
from embedmill_worker.cli.measure import corpus
from support import apps
from support.reindexer import PATIENCE_S, Reindexer, rows, write_jsonl
from support.servers import plain_redis
from support.waiting import wait_until

TEXTS = corpus.short(150)


@pytest.fixture
def reindexer(mill, tmp_path):
    """Makes a reindexer of this mill whose small files lie in the test's folder."""

    def make(*arguments, module="embedmill_worker.cli", **env) -> Reindexer:
        return Reindexer({**mill.env, "PYTHONPATH": apps.FOLDER, **env}, arguments, module)

    return make


@pytest.fixture
def client(mill):
    with EmbeddingClient(mill.redis_url, namespace=mill.namespace) as client:
        yield client


def drained(mill) -> int:
    """Tokens that the bulk lane has ever drained: each forward pass adds some."""
    with plain_redis(mill.redis_url) as server:
        (model,) = server.hkeys(f"{mill.namespace}:models")
        return int(server.hget(Keyspace(mill.namespace).lane(model.decode(), "bulk"), "drained") or 0)


def edit(texts, every=50):
    return [f"{text} changed" if i % every == 0 else text for i, text in enumerate(texts)]


def rejects(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_corpus_becomes_the_vectors_that_the_client_gives(reindexer, client, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS, lang="id")
    report = reindexer(source, "--to", tmp_path / "vectors").run()
    assert (report["added"], report["rows"], report["rejected"]) == (150, 150, 0)
    wanted = client.embed(TEXTS, input_type="passage")
    found = rows(tmp_path / "vectors")
    assert found == {f"d{i}": (wanted[i].tobytes(), '{"lang":"id"}') for i in range(150)}


def test_a_second_run_does_no_forward_pass_and_a_third_embeds_what_has_changed(reindexer, mill, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    run = reindexer(source, "--to", tmp_path / "vectors")
    run.run()
    before, tokens = rows(tmp_path / "vectors"), drained(mill)
    report = run.run()
    assert (report["added"], report["updated"], report["skipped"]) == (0, 0, 150)
    assert drained(mill) == tokens
    assert rows(tmp_path / "vectors") == before

    write_jsonl(source, edit(TEXTS))
    report = run.run()
    assert (report["added"], report["updated"], report["skipped"]) == (0, 3, 147)
    after = rows(tmp_path / "vectors")
    assert {id for id in after if after[id] != before[id]} == {"d0", "d50", "d100"}
    assert after.keys() == before.keys()


def test_new_metadata_cost_no_forward_pass(reindexer, mill, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:50], seen="yesterday")
    run = reindexer(source, "--to", tmp_path / "vectors")
    run.run()
    before, tokens = rows(tmp_path / "vectors"), drained(mill)
    write_jsonl(source, TEXTS[:50], seen="today")
    report = run.run()
    assert (report["updated"], report["tokens"], report["rows"]) == (50, 0, 50)
    assert drained(mill) == tokens
    assert rows(tmp_path / "vectors") == {id: (vector, '{"seen":"today"}') for id, (vector, _) in before.items()}


def test_what_has_vanished_is_deleted_when_asked_and_only_then(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    run = reindexer(source, "--to", tmp_path / "vectors")
    run.run()
    write_jsonl(source, TEXTS[:100])
    assert run.run()["deleted"] == 0
    assert len(rows(tmp_path / "vectors")) == 150
    report = reindexer(source, "--to", tmp_path / "vectors", "--delete-missing").run()
    assert (report["deleted"], report["rows"]) == (50, 100)
    assert rows(tmp_path / "vectors").keys() == {f"d{i}" for i in range(100)}


@pytest.mark.parametrize("source", ["", "not JSON\n"], ids=["no record", "an unreadable one"])
def test_nothing_is_taken_for_missing_when_the_source_is_in_doubt(reindexer, tmp_path, source):
    path = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:5])
    reindexer(path, "--to", tmp_path / "vectors").run()
    path.write_text(source)
    report = reindexer(path, "--to", tmp_path / "vectors", "--delete-missing").run(7 if source else 0)
    assert (report["deleted"], report["rows"]) == (0, 5)
    assert "no missing rows were deleted" in report["notes"][0]


def test_what_has_no_vector_is_listed_and_the_rest_goes_on(reindexer, mill, tmp_path):
    source = tmp_path / "corpus.jsonl"
    long = corpus.long(1)[0]
    lines = [
        {"id": "good", "text": "one"},
        {"id": "good", "text": "the same id"},
        {"id": "long", "text": long},
        {"id": "lone", "text": "\ud800"},
        {"id": "number", "text": 7},
        {"id": "none"},
        {"id": "fine", "text": "two"},
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not JSON\n")
    run = reindexer(source, "--to", tmp_path / "vectors", "--no-truncate")
    report = run.run(7)
    assert (report["added"], report["rejected"], report["rows"]) == (2, 6, 2)
    assert report["rejects"] == str(tmp_path / "vectors.rejects.jsonl")
    listed = rejects(tmp_path / "vectors.rejects.jsonl")
    assert {(entry["id"], entry["reason"]) for entry in listed} == {
        ("good", "duplicate_id"),
        ("long", "too_long"),
        ("lone", "invalid_unicode"),
        ("corpus.jsonl:5", "unreadable"),
        ("corpus.jsonl:6", "unreadable"),
        ("corpus.jsonl:8", "unreadable"),
    }
    assert all(entry["detail"] and long[:20] not in entry["detail"] for entry in listed)

    tokens = drained(mill)
    assert run.run(7)["rejected"] == 6
    assert drained(mill) == tokens, "what was rejected is not sent again"
    assert rejects(tmp_path / "vectors.rejects.jsonl")[0]["id"] == "good"
    again = reindexer(source, "--to", tmp_path / "vectors", "--no-truncate", "--retry-rejected").run(7)
    assert (again["rejected"], again["skipped"]) == (6, 2)
    assert drained(mill) > tokens


def test_a_text_that_is_rejected_now_loses_the_row_of_its_older_text(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["one", "two"])
    run = reindexer(source, "--to", tmp_path / "vectors", "--no-truncate")
    run.run()
    write_jsonl(source, [corpus.long(1)[0], "two"])
    report = run.run(7)
    assert (report["deleted"], report["rejected"], report["rows"]) == (1, 1, 1)
    assert rows(tmp_path / "vectors").keys() == {"d1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_is_finished_and_the_same_command_goes_on(reindexer, client, mill, tmp_path, number):
    texts = corpus.short(20_000)  # far more than are done before the stop
    source = write_jsonl(tmp_path / "corpus.jsonl", texts)
    run = reindexer(source, "--to", tmp_path / "stopped", module="small_windows").start()
    wait_until(lambda: list((tmp_path / "stopped").glob("*.parquet")))
    run.process.send_signal(number)
    _, err = run.wait(130)
    assert f"Continue with: embedmill reindex {source} --to {tmp_path / 'stopped'}" in err
    kept = rows(tmp_path / "stopped")
    assert 256 <= len(kept) < len(texts)
    with plain_redis(mill.redis_url) as server:
        wait_until(
            lambda: not list(server.scan_iter(Keyspace(mill.namespace).texts("reindex-*"))), "what was begun is done"
        )

    count = len(kept) + 100
    write_jsonl(source, texts[:count])
    wanted = client.embed(texts[:count], input_type="passage")
    report = reindexer(source, "--to", tmp_path / "stopped").run()
    found = rows(tmp_path / "stopped")
    assert report["added"] == count - sum(f"d{i}" in kept for i in range(count))
    assert [found[f"d{i}"][0] for i in range(count)] == [row.tobytes() for row in wanted]
    assert {id: found[id] for id in kept} == kept


def test_what_was_under_work_at_a_stop_is_not_embedded_again(client, mill, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "WINDOW_TEXTS", 512)
    texts = [(f"d{i}", f"{i} {text}") for i, text in enumerate(corpus.short(1_024))]
    embedded, tokens = [0], drained(mill)

    def watch(progress, warning):
        embedded.append(progress.embedded)

    sink = tmp_path / "vectors"
    first = embedmill.reindex(texts, sink, client=client, on_progress=watch, should_stop=lambda: embedded[-1] > 0)
    assert (first.is_whole, first.rows < 1_024) == (False, True)
    with plain_redis(mill.redis_url) as server:
        wait_until(lambda: not list(server.scan_iter(Keyspace(mill.namespace).texts("reindex-*"))))
    assert drained(mill) > tokens
    second = embedmill.reindex(texts, sink, client=client)
    assert (first.added + second.added, second.rows) == (1_024, 1_024)
    assert drained(mill) - tokens < 1.2 * (first.tokens + second.tokens), "the lane counts by estimate"


def test_texts_count_as_soon_as_they_are_done_and_not_when_their_window_is(client, tmp_path):
    seen = list[tuple[int, int, int]]()

    def watch(progress, warning):
        seen.append((progress.embedded, progress.counts.embedded, progress.texts_in_flight))

    texts = [(f"d{i}", f"{i} {text}" * 4) for i, text in enumerate(corpus.short(800))]
    report = embedmill.reindex(texts, tmp_path / "vectors", client=client, on_progress=watch)
    under_way = {embedded for embedded, committed, _ in seen if not committed}
    assert len(under_way - {0}) > 1, "of a window that is under work, what is done is counted"
    assert [embedded for embedded, _, _ in seen] == sorted(embedded for embedded, _, _ in seen)
    assert seen[-1] == (report.added, report.added, 0)
    assert all(embedded + in_flight <= len(texts) for embedded, _, in_flight in seen)


def test_an_error_after_a_commit_says_what_stays_and_how_to_go_on(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", corpus.short(2_000))
    run = reindexer(source, "--to", tmp_path / "vectors", module="small_windows").start()
    wait_until(lambda: len(list((tmp_path / "vectors").glob("*.parquet"))) > 1)
    (tmp_path / "vectors").rename(tmp_path / "away")
    _, err = run.wait(1)
    assert f"committed work is kept; continue with: embedmill reindex {source} --to {tmp_path / 'vectors'}" in err
    assert "cannot be written: No such file or directory" in err
    (tmp_path / "away").rename(tmp_path / "vectors")
    assert reindexer(source, "--to", tmp_path / "vectors").run()["rows"] == 2_000


def test_a_job_that_somebody_cancels_ends_the_run_and_the_next_one_goes_on(own_mill, tmp_path):
    own_mill.start_worker().stop()  # its card stays, and nobody does the job before it is cancelled
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    run = Reindexer(own_mill.env, [source, "--to", tmp_path / "vectors"]).start()
    with plain_redis(own_mill.redis_url) as server:
        (key,) = wait_until(lambda: list(server.scan_iter(Keyspace(own_mill.namespace).texts("reindex-*"))))
    with EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        assert client.job(key.decode().split(":")[-2]).cancel()
    _, err = run.wait(1)
    assert "cancelled" in err
    own_mill.start_worker()
    assert Reindexer(own_mill.env, [source, "--to", tmp_path / "vectors"]).run()["rows"] == 150


def test_a_sink_that_was_filled_otherwise_is_refused_and_rebuilt_when_asked(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:50])
    reindexer(source, "--to", tmp_path / "vectors").run()
    before = rows(tmp_path / "vectors")
    other = reindexer(source, "--to", tmp_path / "vectors", "--dimensions", "128")
    _, err = other.start().wait(6)
    assert "was filled with other settings (dimension 384 and 128)" in err
    assert f"embedmill reindex {source} --to {tmp_path / 'vectors'} --dimensions 128 --rebuild" in err
    assert rows(tmp_path / "vectors") == before

    report = reindexer(source, "--to", tmp_path / "vectors", "--dimensions", "128", "--rebuild").run()
    assert report["added"] == 50
    assert {len(vector) for vector, _ in rows(tmp_path / "vectors").values()} == {128 * 4}
    kept = next(word for word in report["notes"][0].split() if ".before-" in word)
    assert rows(Path(kept)) == before
    # And later runs go on with the new version, with and without the flag.
    for more in ([], ["--rebuild"]):
        again = reindexer(source, "--to", tmp_path / "vectors", "--dimensions", "128", *more).run()
        assert again["skipped"] == 50


def test_a_sink_of_another_fingerprint_is_refused(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:5])
    reindexer(source, "--to", tmp_path / "vectors").run()
    index = tmp_path / "vectors.embedmill" / "index.json"
    fields = json.loads(index.read_text())
    index.write_text(json.dumps(fields | {"fingerprint": "0123456789abcdef"}))
    _, err = reindexer(source, "--to", tmp_path / "vectors").start().wait(6)
    assert f"fingerprint 0123456789abcdef and {fields['fingerprint']}" in err


def test_a_second_reindexer_on_the_same_sink_is_refused(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", corpus.short(20_000))  # far more than are done before the second
    first = reindexer(source, "--to", tmp_path / "vectors", module="small_windows").start()
    wait_until(lambda: list((tmp_path / "vectors").glob("*.parquet")))
    _, err = reindexer(source, "--to", tmp_path / "vectors").start().wait(1)
    assert "another reindex is writing to it" in err
    first.process.send_signal(signal.SIGINT)
    first.wait(130)


def test_two_reindexers_share_the_lane(own_mill, tmp_path):
    own_mill.start_worker().stop()  # its card stays
    env = {**own_mill.env, "PYTHONPATH": apps.FOLDER}
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", corpus.short(1_000, seed=n)) for n in range(2)]
    runs = [Reindexer(env, [path, "--to", path.with_suffix("")], "small_windows").start() for path in paths]
    with plain_redis(own_mill.redis_url) as server:
        waiting = Keyspace(own_mill.namespace).texts("reindex-*")
        wait_until(lambda: len(list(server.scan_iter(waiting))) == 4, "two windows of each")
    own_mill.start_worker(ready=False)
    for run in runs:
        run.wait()
    written = [sorted(part.stat().st_mtime for part in path.with_suffix("").glob("*.parquet")) for path in paths]
    assert [len(times) for times in written] == [4, 4]
    first, last = max(times[0] for times in written), min(times[-1] for times in written)
    assert first < last, "one of them had to wait for the other's end"


def test_a_document_that_shrinks_loses_the_parts_that_it_no_longer_has(reindexer, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# One\n\n" + " ".join(corpus.short(40)) + "\n")
    (docs / "b.md").write_text("short")
    run = reindexer(docs, "--to", tmp_path / "vectors", "--split", "64", "--overlap", "8")
    first = run.run()
    assert first["rows"] > 5
    (docs / "a.md").write_text("# One\n\nonly this\n")
    report = run.run()
    assert report["updated"] == 1
    assert report["deleted"] == first["rows"] - 2
    assert rows(tmp_path / "vectors").keys() == {"a.md#0", "b.md#0"}


def test_standard_input_and_csv_are_read_and_fields_chosen(reindexer, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text('sku,title,price,note\n7,"a, quoted",1.5,x\n8,plain,2,y\n')
    flags = ["--text-field", "title", "--id-field", "sku", "--metadata", "price"]
    reindexer(table, "--to", tmp_path / "csv", *flags).run()
    assert {id: json.loads(m) for id, (_, m) in rows(tmp_path / "csv").items()} == {
        "7": {"price": "1.5"},
        "8": {"price": "2"},
    }
    command = [sys.executable, "-m", "embedmill_worker.cli", "reindex", "-", "--to", str(tmp_path / "lines.npy")]
    env = reindexer().env
    subprocess.run(command, input="one\ntwo\n", text=True, env=env, check=True, timeout=PATIENCE_S)
    assert np.load(tmp_path / "lines.npy", mmap_mode="r").shape == (2, 384)
    ids = [json.loads(line)["id"] for line in (tmp_path / "lines.ids.jsonl").read_text().splitlines()]
    assert ids == ["stdin:1", "stdin:2"]


def test_a_lost_ledger_and_a_lost_index_are_both_noticed(reindexer, mill, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS[:20])
    run = reindexer(source, "--to", f"qdrant+file:{tmp_path / 'index'}#docs")
    assert run.run()["added"] == 20
    shutil.rmtree(tmp_path / "index.embedmill")
    tokens = drained(mill)
    assert run.run()["skipped"] == 20
    assert drained(mill) == tokens
    shutil.rmtree(tmp_path / "index")
    report = run.run()
    assert (report["added"], report["rows"]) == (20, 20)


def test_an_id_of_two_documents_keeps_the_first(reindexer, tmp_path):
    source = tmp_path / "corpus.jsonl"
    lines = [{"id": f"d{i % 400}", "text": f"text {i}"} for i in range(800)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = reindexer(source, "--to", tmp_path / "vectors", module="small_windows").run(7)
    assert (report["added"], report["rejected"], report["rows"]) == (400, 400, 400)


def test_a_dry_run_reckons_and_leaves_no_trace(reindexer, mill, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", TEXTS)
    tokens = drained(mill)
    out, _ = reindexer(source, "--to", tmp_path / "vectors", "--dry-run").start().wait()
    assert "estimate from all 150 records of the source" in out
    estimate = reindexer(source, "--to", tmp_path / "vectors", "--dry-run").run()
    assert (estimate["texts"], estimate["unchanged"]) == (150, 0)
    assert estimate["seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl"]
    assert drained(mill) == tokens
    reindexer(source, "--to", tmp_path / "vectors").run()
    assert reindexer(source, "--to", tmp_path / "vectors", "--dry-run").run()["unchanged"] == 150


def test_no_text_and_no_password_is_written_anywhere_but_into_the_sink(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["zebra quartz marmalade"] * 2)
    to = "postgresql://someone:s3cret@127.0.0.1:1/none"
    out, err = reindexer(source, "--to", to, EMBEDMILL_DATA_DIR=str(tmp_path / "data")).start().wait(1)
    assert "s3cret" not in out + err
    assert "postgresql://someone:***@127.0.0.1:1/none" in err
    out, err = reindexer(source, "--to", tmp_path / "vectors").start().wait()
    assert "zebra" not in out + err
    for path in (tmp_path / "vectors").rglob("*"):
        assert path.is_dir() or b"zebra" not in path.read_bytes()


def test_a_redis_that_is_away_is_said_at_once(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["one"])
    run = reindexer(source, "--to", tmp_path / "vectors", EMBEDMILL_REDIS_URL="redis://127.0.0.1:1/0")
    _, err = run.start().wait(4)
    assert "Redis" in err
    assert not (tmp_path / "vectors").exists()


class MemorySink(Sink):
    """A sink of one's own."""

    name = "memory"

    def __init__(self) -> None:
        self.rows: dict[str, np.ndarray] = {}

    def open(self, index) -> None:
        self.dimension = index.dimension

    def write(self, rows: Rows) -> None:
        self.rows |= dict(zip(rows.ids, rows.vectors, strict=True))

    def delete(self, ids) -> None:
        for id in ids:
            self.rows.pop(id, None)


def test_python_programs_have_sources_and_sinks_of_their_own(client, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    sink = MemorySink()
    records = [("a", "one"), {"id": "b", "text": "two", "n": 1}, ("c", "three", {"n": 2}), ["not", "a", "record", 4]]
    monkeypatch.chdir(tmp_path)
    report = embedmill.reindex(records, sink, client=client)
    assert (report.added, report.rejected, report.is_whole) == (3, 1, True)
    assert sink.rows.keys() == {"a", "b", "c"}
    wanted = client.embed(["one", "two", "three"], input_type="passage")
    assert [sink.rows[id].tobytes() for id in "abc"] == [row.tobytes() for row in wanted]
    report = embedmill.reindex(records[:1], sink, client=client, delete_missing=True)
    assert (report.skipped, report.deleted) == (1, 2)
    assert sink.rows.keys() == {"a"}
    for rebuild in (False, True):
        with pytest.raises(embedmill.RequestError, match=r"dimension 384 and 128|has no versions"):
            embedmill.reindex(records, sink, client=client, dimensions=128, rebuild=rebuild)
    assert sink.rows.keys() == {"a"}


def test_a_source_that_is_not_there_leaves_no_sink_behind(client, tmp_path):
    with pytest.raises(embedmill.SourceError, match="no such file"):
        embedmill.reindex(tmp_path / "missing.jsonl", tmp_path / "vectors", client=client)
    assert list(tmp_path.iterdir()) == []


def test_files_whose_ledger_is_lost_are_left_alone(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["one"])
    reindexer(source, "--to", tmp_path / "vectors").run()
    before = rows(tmp_path / "vectors")
    (tmp_path / "vectors.embedmill" / "ledger.sqlite").unlink()
    _, err = reindexer(source, "--to", tmp_path / "vectors").start().wait(1)
    assert "ledger.sqlite is missing; restore it" in err
    assert rows(tmp_path / "vectors") == before


def test_a_sink_that_fails_loses_nothing(client, mill, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    class Failing(MemorySink):
        fails = True

        def write(self, rows: Rows) -> None:
            if self.fails:
                raise embedmill.SinkError(self.name, "the disk is full")
            super().write(rows)

    def jobs() -> set[bytes]:
        with plain_redis(mill.redis_url) as server:
            return set(server.scan_iter(Keyspace(mill.namespace).job("reindex-*")))

    sink, records, tokens, before = Failing(), [(f"d{i}", text) for i, text in enumerate(TEXTS)], drained(mill), jobs()
    with pytest.raises(embedmill.SinkError, match="the disk is full"):
        embedmill.reindex(records, sink, client=client)
    spent = drained(mill) - tokens
    sink.fails = False
    assert embedmill.reindex(records, sink, client=client).added == 150
    assert drained(mill) - tokens == spent, "the vectors were still in Redis"
    assert jobs() <= before


def test_the_environment_gives_what_flags_do_not(reindexer, tmp_path):
    source = write_jsonl(tmp_path / "corpus.jsonl", ["one"])
    env = {"EMBEDMILL_SINK": str(tmp_path / "vectors"), "EMBEDMILL_DTYPE": "float16"}
    assert reindexer(source, **env).run()["rows"] == 1
    assert [len(vector) for vector, _ in rows(tmp_path / "vectors").values()] == [384 * 2]
