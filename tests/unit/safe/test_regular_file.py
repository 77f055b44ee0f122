"""Only files are read: a pipe, a device or a folder in a file's place is refused at once."""

import os
import signal
from pathlib import Path

import pytest

from embedmill.errors import ModelLoadError, SinkError, SourceError
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.record import Record
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.sinks.registry import open_sink
from embedmill.reindexing.sources.registry import open_source
from embedmill.reindexing.splitting import Splitter
from embedmill.safe.regular_file import check_regular, open_regular, read_regular
from embedmill_worker import health
from embedmill_worker.models import resolve

#: Seconds after which a read that waits for ever is interrupted.
LIMIT_S = 60


@pytest.fixture(autouse=True)
def limit():
    """Whatever opens a pipe without care would wait for ever."""

    def fail(*_):
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path) -> Path:
    """A pipe that nobody writes to."""
    path = tmp_path / "pipe.md"
    os.mkfifo(path)
    return path


def others(pipe):
    link = pipe.with_name("link.md")
    if not link.is_symlink():
        link.symlink_to(pipe)
    return [pipe, link, Path("/dev/zero"), pipe.parent]


def test_what_is_no_file_is_refused_at_once(pipe):
    for path in others(pipe):
        for read in (open_regular, check_regular, lambda p: read_regular(p, 10)):
            with pytest.raises(OSError, match="not a regular file"):
                read(path)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"ten bytes.")
    assert read_regular(path, 10) == b"ten bytes."
    with pytest.raises(OSError, match="more than 9 bytes"):
        read_regular(path, 9)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 9)


def test_a_folder_passes_over_a_pipe_and_reads_the_rest(pipe):
    (pipe.parent / "a.md").write_text("a text")
    (pipe.parent / "link.md").symlink_to(pipe)
    os.mkfifo(pipe.parent / ".hidden.md")
    source = open_source([str(pipe.parent)])
    assert [(item.id, type(item)) for item in source] == [("a.md", Record)]
    assert source.notes == [f"{pipe.parent}: passed over 2 pipes, sockets or devices"]


@pytest.mark.parametrize("form", ["lines", "jsonl", "csv", "parquet"])
def test_a_source_that_is_a_pipe_is_refused_with_the_way_out(pipe, form):
    with pytest.raises(SourceError, match="is not a regular file; a pipe is read as standard input"):
        open_source([str(pipe)], form=form)


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    for form in ("lines", "jsonl", "csv"):
        path = tmp_path / form
        path.write_text("text\n")
        source = open_source([str(path)], form=form)
        path.unlink()
        os.mkfifo(path)
        (lost,) = list(source)
        assert lost.is_partial
        assert "not a regular file" in lost.detail


def test_a_parquet_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    source = open_source([str(path)])
    path.unlink()
    os.mkfifo(path)
    (lost,) = list(source)
    assert lost.is_partial
    assert "not a regular file" in lost.detail


@pytest.mark.parametrize("place", ["current", "0123abcd/index.json"])
def test_a_sink_s_state_that_is_a_pipe_is_refused(tmp_path, place):
    state = tmp_path / "v.jsonl.embedmill"
    (state / "0123abcd").mkdir(parents=True)
    (state / "current").write_text("0123abcd")
    (state / place).unlink(missing_ok=True)
    os.mkfifo(state / place)
    with pytest.raises(SinkError, match="not a regular file"):
        open_sink(str(tmp_path / "v.jsonl")).read_index()


def test_a_sink_s_version_is_no_path(tmp_path):
    (tmp_path / "v.jsonl.embedmill").mkdir()
    (tmp_path / "v.jsonl.embedmill" / "current").write_text("../../etc\x1b[2J")
    with pytest.raises(SinkError, match="names no version"):
        open_sink(str(tmp_path / "v.jsonl")).read_index()


def test_a_ledger_a_list_of_rejects_and_a_tokenizer_that_are_pipes_are_refused(pipe):
    with pytest.raises(SinkError, match="not a regular file"):
        Ledger(pipe, "sink")
    with pytest.raises(SinkError, match="not a regular file"):
        Rejects(pipe)
    assert pipe.is_fifo()
    splitter = Splitter(max_tokens=8, overlap_tokens=0, tokenizer=pipe)
    with pytest.raises(SourceError, match="is not a tokenizer"):
        splitter.parts("a text", is_markdown=False)


def test_a_health_file_that_is_a_pipe_is_none(pipe):
    assert health.read(pipe) is None
    assert health.read(Path("/dev/zero")) is None


@pytest.mark.parametrize("spec", ["ft={pipe}", "{pipe}", "ft={folder}"])
def test_a_fasttext_file_that_is_a_pipe_is_refused(tmp_path, spec):
    pipe = tmp_path / "folder" / "vectors.bin"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    with pytest.raises(ModelLoadError):
        resolve(spec.format(pipe=pipe, folder=pipe.parent), data_dir=tmp_path / "data")
