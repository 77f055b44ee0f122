"""The store: what belongs to whom, quotas, expiry, pages, and what kills and full disks leave."""

import errno
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from embedmill_worker.batches.objects import Batch, Progress, Status, StoredFile
from embedmill_worker.batches.scheduler import open_store
from embedmill_worker.batches.store import LEAST_BYTES, MAX_UNFINISHED, FileStore, check_quota, ended, new_id
from embedmill_worker.gateway.refusals import Kind, RefusedError

NOW = 1_000_000


@pytest.fixture
def store(tmp_path):
    found = FileStore(tmp_path / "files")
    yield found
    found.close()


def add(store, data=b"data", owner="one", *, max_bytes=0, expires_at=NOW + 100, filename="a.jsonl"):
    with store.new_upload() as upload:
        upload.write(data)
        file = StoredFile(
            id=new_id("file-"),
            owner=owner,
            filename=filename,
            purpose="batch",
            n_bytes=len(data),
            created_at=NOW,
            expires_at=expires_at,
        )
        store.add_file(upload, file, max_bytes=max_bytes)
    return file


def new_batch(file, **changes):
    batch = Batch(
        id=new_id("batch_"),
        owner=file.owner,
        input_file_id=file.id,
        completion_window="24h",
        metadata={"a": "b"},
        output_expires_s=None,
        output_id=new_id("file-"),
        error_id=new_id("file-"),
        created_at=NOW,
        expires_at=NOW + 86_400,
    )
    return replace(batch, **changes)


def refusal(call, *args, **kwargs):
    with pytest.raises(RefusedError) as caught:
        call(*args, **kwargs)
    return caught.value.kind


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_belongs_to_its_owner(store):
    file = add(store)
    assert store.file(file.id, "one", NOW) == file
    assert store.path(file.id).read_bytes() == b"data"
    assert refusal(store.file, file.id, "two", NOW) is Kind.NOT_FOUND
    assert refusal(store.delete_file, file.id, "two") is Kind.NOT_FOUND
    assert store.held_bytes("two") == 0
    store.delete_file(file.id, "one")
    assert refusal(store.file, file.id, "one", NOW) is Kind.NOT_FOUND
    assert not store.path(file.id).exists()


@pytest.mark.parametrize("name", ["' OR 1=1 --", "../../etc/passwd", "", "\0", "file-" + "0" * 32, "%", "a" * 100_000])
def test_ids_that_nobody_gave_are_not_found(store, name):
    file = add(store)
    for call in (store.file, store.delete_file):
        extra = (NOW,) if call == store.file else ()
        assert refusal(call, name, "one", *extra) is Kind.NOT_FOUND
    assert refusal(store.batch, name, "one") is Kind.NOT_FOUND
    assert refusal(store.batches, "one", after=name, limit=1) is Kind.INVALID
    assert refusal(store.files, "one", NOW, after=name, limit=1, order="asc", purpose=None) is Kind.INVALID
    assert refusal(store.add_batch, new_batch(file, input_file_id=name)) is Kind.NOT_FOUND
    assert store.file(file.id, "one", NOW)


def test_pages(store):
    ids = [add(store).id for _ in range(5)]
    add(store, owner="two")

    def page(**options):
        files, has_more = store.files(
            "one", NOW, **{"after": None, "limit": 2, "order": "desc", "purpose": None} | options
        )
        return [file.id for file in files], has_more

    assert page() == (ids[:2:-1], True)
    assert page(after=ids[3]) == (ids[2:0:-1], True)
    assert page(after=ids[1]) == ([ids[0]], False)
    assert page(order="asc") == (ids[:2], True)
    assert page(order="asc", after=ids[2]) == (ids[3:], False)
    assert page(purpose="batch_output") == ([], False)
    file = store.file(ids[0], "one", NOW)
    batches = [new_batch(file) for _ in range(3)]
    for batch in batches:
        store.add_batch(batch)
    assert store.batches("one", after=None, limit=2) == ([batches[2], batches[1]], True)
    assert store.batches("one", after=batches[1].id, limit=2) == ([batches[0]], False)
    assert store.batches("two", after=None, limit=2) == ([], False)


def test_a_quota_counts_all_files_of_an_owner_and_small_ones_as_a_block(store):
    quota = 3 * LEAST_BYTES
    file = add(store, b"", max_bytes=quota)
    add(store, b"x" * 2 * LEAST_BYTES, max_bytes=quota)
    assert store.held_bytes("one") == quota
    assert refusal(add, store, b"", max_bytes=quota) is Kind.QUOTA
    add(store, b"x" * quota, "two", max_bytes=quota)
    store.delete_file(file.id, "one")
    add(store, b"", max_bytes=quota)
    assert len(names(store.path("x").parent)) == 3  # what was refused left nothing
    check_quota(1 << 60, 0)


def test_uploads_at_the_same_time_do_not_pass_a_quota_together(store):
    outcomes = []

    def run():
        try:
            add(store, b"x" * LEAST_BYTES, max_bytes=3 * LEAST_BYTES)
            outcomes.append("stored")
        except RefusedError as error:
            outcomes.append(error.kind)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["quota"] * 5 + ["stored"] * 3


def test_files_expire_unless_a_batch_reads_them(store):
    kept, used, gone = (
        add(store, expires_at=NOW + 100),
        add(store, expires_at=NOW + 10),
        add(store, expires_at=NOW + 10),
    )
    batch = new_batch(used)
    store.add_batch(batch)
    assert refusal(store.delete_file, used.id, "one") is Kind.CONFLICT
    assert refusal(store.file, gone.id, "one", NOW + 10) is Kind.NOT_FOUND
    assert store.sweep(NOW + 10, 1_000) == 1
    assert names(store.path("x").parent) == sorted([kept.id, used.id])
    store.update(batch.id, lambda found: ended(found, Status.FAILED, NOW))
    assert store.sweep(NOW + 10, 1_000) == 1
    assert names(store.path("x").parent) == [kept.id]
    assert store.batch(batch.id).status is Status.FAILED
    store.sweep(NOW + 100_000, 1_000)
    assert refusal(store.batch, batch.id) is Kind.NOT_FOUND


def test_a_batch_changes_in_one_step(store):
    batch = new_batch(add(store))
    store.add_batch(batch)
    assert store.batch(batch.id, "one") == batch
    assert refusal(store.batch, batch.id, "two") is Kind.NOT_FOUND
    assert refusal(store.update, batch.id, lambda found: found, owner="two") is Kind.NOT_FOUND
    assert store.unfinished() == [(batch.id, "one")]

    def add_one():
        for _ in range(20):
            store.update(batch.id, lambda found: replace(found, total=found.total + 1))

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.batch(batch.id).total == 80
    with pytest.raises(ZeroDivisionError):
        store.update(batch.id, lambda found: replace(found, total=1 // 0))
    progress = Progress(output_bytes=5)
    store.path(batch.output_id).write_bytes(b"lines")
    store.path(batch.error_id).write_bytes(b"")
    done = store.update(
        batch.id, lambda found: replace(ended(found, Status.COMPLETED, NOW), progress=progress), files=NOW + 5
    )
    store.clean_up(done)
    assert store.unfinished() == []
    assert done.shown()["output_file_id"] == batch.output_id and done.shown()["error_file_id"] is None
    output = store.file(batch.output_id, "one", NOW)
    assert (output.n_bytes, output.purpose, output.expires_at) == (5, "batch_output", NOW + 5)
    assert not store.path(batch.error_id).exists()


def test_an_owner_has_a_bound_of_batches(store):
    file = add(store)
    insert = "INSERT INTO batches (id, owner, is_over, input_file_id, data) VALUES (?, 'one', 0, '', x'')"
    with store._writing() as database:
        database.executemany(insert, [(str(i),) for i in range(MAX_UNFINISHED)])
    assert refusal(store.add_batch, new_batch(file)) is Kind.QUOTA


def test_an_owner_s_oldest_ended_batches_are_forgotten(store, monkeypatch):
    monkeypatch.setattr("embedmill_worker.batches.store.MAX_ENDED", 2)
    file = add(store)
    batches = [new_batch(file) for _ in range(4)]
    for batch in batches:
        store.add_batch(batch)
        store.update(batch.id, lambda found: ended(found, Status.FAILED, NOW))
    running = new_batch(file)
    store.add_batch(running)
    assert [each.id for each in store.batches("one", after=None, limit=9)[0]] == [
        running.id,
        *(batch.id for batch in (batches[3], batches[2])),
    ]


def test_another_process_goes_on_and_only_what_nobody_writes_is_swept(store, tmp_path):
    file = add(store)
    batch = new_batch(file)
    store.add_batch(batch)
    store.path(batch.output_id).write_bytes(b"half")
    store.path("file-orphan").write_bytes(b"orphan")
    uploads = tmp_path / "files" / "uploads"
    (uploads / "dead").write_bytes(b"of a killed process")
    lock = store.lock(batch.id)
    assert lock is not None and store.lock(batch.id) is None
    program = f"""
from pathlib import Path
from embedmill_worker.batches.store import FileStore
store = FileStore(Path({str(tmp_path / "files")!r}))
assert store.lock({batch.id!r}) is None
assert store.unfinished() == [({batch.id!r}, "one")]
print(store.file({file.id!r}, "one", {NOW}).n_bytes)
"""
    with store.new_upload() as upload:
        upload.write(b"goes on")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
        assert names(uploads) == [upload.path.name]
    assert names(uploads) == []
    assert names(tmp_path / "files" / "bytes") == sorted([file.id, batch.output_id])
    lock.release()
    again = store.lock(batch.id)
    assert again is not None
    again.release()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_a_full_disk_is_a_refusal_and_leaves_nothing(store, tmp_path, monkeypatch, number, where):
    def fail(*args):
        raise OSError(number, "full")

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(type(tmp_path), "rename", fail)
    assert refusal(add, store) is Kind.STORAGE_FULL
    monkeypatch.undo()
    assert names(tmp_path / "files" / "uploads") == names(tmp_path / "files" / "bytes") == []
    assert store.held_bytes("one") == 0
    add(store)


def test_a_folder_that_cannot_be_used_is_logged_and_no_reason_to_end(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    assert open_store(tmp_path / "file" / "files") is None
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "files.sqlite3").write_bytes(b"no database" * 1_000)
    assert open_store(tmp_path / "broken") is None
    assert [record.action for record in caplog.records] == ["files_off"] * 2


def test_several_gateways_may_start_at_once(tmp_path):
    program = f"""
import sys
from pathlib import Path
from embedmill_worker.batches.scheduler import open_store
sys.stdin.read()
store = open_store(Path({str(tmp_path / "files")!r}))
print(store is not None and store.held_bytes("one") == 0)
"""
    pipe = subprocess.PIPE
    started = [subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in started:
        process.stdin.close()
        process.stdin = None
    assert [process.communicate(timeout=60)[0] for process in started] == ["True\n"] * 2


def test_a_limit_of_file_size_is_a_full_disk(tmp_path):
    """As the kernel has it: RLIMIT_FSIZE stands for a quota, and SQLite meets it, too."""
    program = f"""
import resource
from pathlib import Path
from embedmill_worker.batches.store import FileStore
from embedmill_worker.gateway.refusals import RefusedError
store = FileStore(Path({str(tmp_path / "files")!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with store.new_upload() as upload:
    upload.write(b"x" * (1 << 19))
    try:
        upload.write(b"x" * (1 << 20))
    except RefusedError as error:
        print(error.kind)
print(store.held_bytes("one"), len(list((Path({str(tmp_path / "files")!r}) / "uploads").iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "storage_full\n0 0\n"), done.stderr
