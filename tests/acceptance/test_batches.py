"""OpenAI's files and batches as the official package knows them, with nothing changed but the address and the key."""

import base64
import json
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import numpy as np
import pytest

from embedmill import EmbeddingClient
from support.gateway import start
from support.waiting import wait_until

from .conftest import PATIENCE_S, new_mill

MODEL = "all-MiniLM-L6-v2"
KEYS = ("sk-batches-of-one-0001", "sk-batches-of-two-0002", "sk-batches-small-0003")

OVER = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def openai():
    return pytest.importorskip("openai")


@pytest.fixture(scope="module")
def queue(mill):
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def gateway(mill, tmp_path_factory):
    """A gateway with keys and a folder of its own."""
    folder = tmp_path_factory.mktemp("batches")
    keys = f"{KEYS[0]} name=one,{KEYS[1]} name=two"
    found = start(mill.env, folder, EMBEDMILL_API_KEYS=keys, EMBEDMILL_FILES_DIR=str(folder / "files"))
    yield found
    found.stop()


def sdk_of(openai, gateway, key):
    return openai.OpenAI(base_url=gateway.openai_url, api_key=key, max_retries=0, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def sdk(openai, gateway):
    with sdk_of(openai, gateway, KEYS[0]) as client:
        yield client


@pytest.fixture(scope="module")
def other(openai, gateway):
    with sdk_of(openai, gateway, KEYS[1]) as client:
        yield client


def line(number, value=None, *, custom_id=None, url="/v1/embeddings", method="POST", **body):
    body = {"model": MODEL, "input": f"text number {number}" if value is None else value} | body
    custom_id = f"request-{number}" if custom_id is None else custom_id
    return {"custom_id": custom_id, "method": method, "url": url, "body": body}


def packed(lines) -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines).encode()


def upload(sdk, lines, name="input.jsonl"):
    data = lines if isinstance(lines, bytes) else packed(lines)
    return sdk.files.create(file=(name, data), purpose="batch")


def create(sdk, file_id, **options):
    wanted = {"endpoint": "/v1/embeddings", "completion_window": "24h"} | options
    return sdk.batches.create(input_file_id=file_id, **wanted)


def wait_over(sdk, batch):
    def over():
        found = sdk.batches.retrieve(batch.id)
        return found if found.status in OVER else None

    return wait_until(over, "the end of the batch")


def rows(sdk, file_id):
    return [json.loads(each) for each in sdk.files.content(file_id).text.splitlines()] if file_id else []


def vector(row):
    (one,) = row["response"]["body"]["data"]
    return np.asarray(one["embedding"], dtype=np.float64).astype(np.float32)


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_is_stored_listed_read_and_deleted(openai, sdk, other):
    data = packed([line(0)])
    file = sdk.files.create(file=("my input.jsonl", data), purpose="batch")
    assert file.id.startswith("file-")
    assert (file.object, file.filename, file.purpose, file.bytes) == ("file", "my input.jsonl", "batch", len(data))
    assert file.status == "processed" and file.expires_at - file.created_at == 30 * 86_400
    assert sdk.files.retrieve(file.id) == file
    content = sdk.files.content(file.id)
    assert content.content == data and content.response.headers["content-length"] == str(len(data))
    assert file.id in [each.id for each in sdk.files.list(purpose="batch")]

    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file.id)
        assert caught.value.param == "id" and file.id not in str(caught.value.message)
    assert file.id not in [each.id for each in other.files.list()]

    deleted = sdk.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)


def test_a_batch(sdk, queue):
    lines = [line(i) for i in range(20)]
    lines.append(line(20, ["two", "texts"], encoding_format="base64", dimensions=64))
    lines.append(line(21, ""))
    lines.append(line(22, "é😀", user="nobody", input_type="query"))
    lines.append(line(23, dimensions=100_000))
    batch = create(sdk, upload(sdk, lines).id, metadata={"who": "me"})
    assert batch.status == "validating" and batch.object == "batch" and batch.id.startswith("batch_")
    assert batch.expires_at - batch.created_at == 86_400
    done = wait_over(sdk, batch)
    assert done.status == "completed" and done.errors is None and done.model == MODEL
    assert done.metadata == {"who": "me"}
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (24, 22, 2)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    results, errors = rows(sdk, done.output_file_id), rows(sdk, done.error_file_id)
    assert [each["custom_id"] for each in results] == [f"request-{i}" for i in (*range(21), 22)]
    assert [each["custom_id"] for each in errors] == ["request-21", "request-23"]
    assert len({each["id"] for each in results + errors}) == 24
    wanted = queue.embed([f"text number {i}" for i in range(20)])
    assert all((vector(row) == wanted[i]).all() for i, row in enumerate(results[:20]))
    packed_rows = [base64.b64decode(each["embedding"]) for each in results[20]["response"]["body"]["data"]]
    assert packed_rows == [row.tobytes() for row in queue.embed(["two", "texts"], dimensions=64)]
    assert (vector(results[21]) == queue.embed(["é😀"], input_type="query")[0]).all()
    assert done.usage.input_tokens == done.usage.total_tokens > 0
    assert done.usage.input_tokens == sum(each["response"]["body"]["usage"]["total_tokens"] for each in results)
    # What the route itself answers to the same requests.
    for row, request in zip([results[0], results[20], *errors], [lines[i] for i in (0, 20, 21, 23)], strict=True):
        answer = httpx.post(
            f"{sdk.base_url}embeddings",
            json=request["body"],
            headers={"authorization": f"Bearer {sdk.api_key}"},
            timeout=PATIENCE_S,
        )
        assert row["error"] is None and row["response"]["request_id"]
        assert (row["response"]["status_code"], row["response"]["body"]) == (answer.status_code, answer.json())
    output = sdk.files.retrieve(done.output_file_id)
    assert output.purpose == "batch_output" and output.bytes == len(sdk.files.content(output.id).content)
    with pytest.raises(Exception, match="Cannot cancel a batch with status 'completed'"):
        sdk.batches.cancel(batch.id)


# --- the command --------------------------------------------------------------------------------------------------


def command(mill, *arguments):
    line = [sys.executable, "-m", "embedmill_worker.cli", "batch", *map(str, arguments)]
    return subprocess.run(line, env=mill.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_the_command_writes_the_same_lines(mill, queue, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(packed([*(line(i) for i in range(30)), line(30, "")]))
    done = command(mill, source, "--output", output)
    assert done.returncode == 7, done.stderr
    assert "1 of 31 requests were refused" in done.stderr
    found = [json.loads(each) for each in output.read_text().splitlines()]
    assert [each["custom_id"] for each in found] == [f"request-{i}" for i in range(31)]
    wanted = queue.embed([f"text number {i}" for i in range(30)])
    assert all((vector(row) == wanted[i]).all() for i, row in enumerate(found[:30]))
    assert found[30]["response"]["status_code"] == 400
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_the_command_refuses_a_wrong_file_as_a_whole(mill, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(packed([line(0), line(0)]) + b"{zebra\n")
    done = command(mill, source, "--output", output)
    assert done.returncode == 2
    assert f"{source}:2: The 'custom_id' of this line" in done.stderr and f"{source}:3: This line is not" in done.stderr
    assert "zebra" not in done.stderr and not output.exists()
    source.write_bytes(packed([line(0, model="nobody-serves-this")]))
    done = command(mill, source, "--output", output)
    assert done.returncode == 2 and MODEL in done.stderr
    assert list(tmp_path.iterdir()) == [source]


def test_a_wrong_file_fails_as_a_whole_and_says_why(sdk):
    second = line(1, url="/v1/chat/completions")
    data = packed([line(0), second, line(0), line(2, model="other"), {"custom_id": "x"}]) + b"\x00\n\xff\n{zebra"
    batches = {
        "lines": create(sdk, upload(sdk, data).id),
        "model": create(sdk, upload(sdk, [line(0, model="text-embedding-3-small")]).id),
        "empty": create(sdk, upload(sdk, b"").id),
        "long": create(sdk, upload(sdk, b"x" * ((16 << 20) + 1)).id),
    }
    found = {name: wait_over(sdk, batch) for name, batch in batches.items()}
    assert {batch.status for batch in found.values()} == {"failed"}
    assert all(batch.failed_at and batch.output_file_id is batch.error_file_id is None for batch in found.values())
    assert found["lines"].errors.object == "list"
    assert [(fault.code, fault.line, fault.param) for fault in found["lines"].errors.data] == [
        ("invalid_url", 2, "url"),
        ("duplicate_custom_id", 3, "custom_id"),
        ("mismatched_model", 4, "body.model"),
        ("missing_required_parameter", 5, "method"),
        ("invalid_json_line", 6, None),
        ("invalid_json_line", 7, None),
        ("invalid_json_line", 8, None),
    ]
    assert "zebra" not in found["lines"].model_dump_json()
    (fault,) = found["model"].errors.data
    assert fault.code == "model_not_found" and MODEL in fault.message
    assert [fault.code for fault in found["empty"].errors.data] == ["empty_file"]
    assert [(fault.code, fault.line) for fault in found["long"].errors.data] == [("line_too_long", 1)]


def test_what_cannot_be_served_is_refused_at_once(openai, sdk, other):
    file = upload(sdk, [line(0)])
    cases = [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3_600}}, "output_expires_after.anchor"),
    ]
    for options, param in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            create(sdk, file.id, **options)
        assert caught.value.param == param, options
    for client, name in ((other, file.id), (sdk, "file-none"), (sdk, "' OR 1=1 --")):
        with pytest.raises(openai.NotFoundError) as caught:
            create(client, name)
        assert caught.value.param == "input_file_id"
    for purpose in ("fine-tune", "assistants"):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.files.create(file=b"x", purpose=purpose)
        assert caught.value.param == "purpose"
    for expires in ({"anchor": "created_at", "seconds": 3_599}, {"anchor": "other", "seconds": 3_600}):
        with pytest.raises(openai.BadRequestError):
            sdk.files.create(file=b"x", purpose="batch", expires_after=expires)
    kept = sdk.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600})
    assert kept.expires_at - kept.created_at == 3_600
    for call in (sdk.batches.retrieve, sdk.batches.cancel, other.batches.retrieve):
        with pytest.raises(openai.NotFoundError):
            call("batch_none")


def test_lists_come_in_pages(openai, sdk, other):
    file = upload(sdk, b"wrong")
    batches = [create(sdk, file.id) for _ in range(3)]
    files = [file, *(upload(sdk, b"") for _ in range(2))]
    newest = [batch.id for batch in batches[::-1]]
    first = sdk.batches.list(limit=2)
    assert [each.id for each in first.data] == newest[:2]
    assert first.has_more
    rest = sdk.batches.list(limit=1, after=newest[0])
    assert [each.id for each in rest.data] == newest[1:2]
    assert [each.id for _, each in zip(range(3), sdk.batches.list(limit=1), strict=False)] == newest
    found = [each.id for _, each in zip(range(3), sdk.files.list(limit=2), strict=False)]
    assert found == [each.id for each in files[::-1]]
    oldest = sdk.files.list(order="asc", limit=1)
    assert oldest.data[0].created_at <= file.created_at and oldest.data[0].id != files[-1].id
    assert list(other.batches.list()) == []
    for options in ({"limit": 0}, {"limit": 101}, {"limit": -1}, {"after": "batch_none"}, {"after": file.id}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.batches.list(**options)
        assert caught.value.param == next(iter(options))
    for options in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "' OR 1=1 --"}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.files.list(**options)
        assert caught.value.param == next(iter(options))
    with pytest.raises(openai.BadRequestError):  # of another owner
        other.batches.list(after=newest[0])


# --- without workers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lonely(valkey, data_dir, tmp_path_factory):
    """A gateway that no worker serves, with room for little."""
    folder = tmp_path_factory.mktemp("lonely")
    mill = new_mill(valkey.url, data_dir, folder)
    files = {"EMBEDMILL_FILES_DIR": str(folder / "files"), "EMBEDMILL_BODY_TIMEOUT_S": "2"}
    found = start(mill.env, folder, "--max-file", "2", "--max-stored", "4", ready=False, **files)
    found.folder = folder / "files" / mill.namespace
    yield found
    found.stop()


@pytest.fixture
def alone(openai, lonely):
    with sdk_of(openai, lonely, "unused") as client:
        yield client
        for file in client.files.list():
            client.files.delete(file.id)


def left(gateway):
    return [path.name for folder in ("uploads", "bytes") for path in (gateway.folder / folder).iterdir()]


def test_expired_and_cancelled_batches_say_so_for_every_line(openai, alone):
    file = upload(alone, [*(line(i) for i in range(2_500)), line(2_500, "", custom_id="é")])
    late, unwanted = create(alone, file.id, completion_window="1s"), create(alone, file.id)
    with pytest.raises(openai.ConflictError):
        alone.files.delete(file.id)
    assert alone.batches.cancel(unwanted.id).status == "cancelling"
    for batch, status, code in ((late, "expired", "batch_expired"), (unwanted, "cancelled", "batch_cancelled")):
        done = wait_over(alone, batch)
        assert done.status == status and getattr(done, f"{status}_at")
        assert (done.request_counts.total, done.request_counts.failed, done.output_file_id) == (2_501, 2_501, None)
        errors = rows(alone, done.error_file_id)
        assert [each["custom_id"] for each in errors] == [*(f"request-{i}" for i in range(2_500)), "é"]
        assert all(each["response"] is None and each["error"]["code"] == code for each in errors)
        with pytest.raises(openai.ConflictError, match="Cannot cancel"):
            alone.batches.cancel(batch.id)
    alone.files.delete(file.id)


def test_a_batch_ends_though_others_of_its_key_have_all_turns(alone):
    file = upload(alone, [line(0)])
    waiting = [create(alone, file.id) for _ in range(2)]
    unwanted, late = create(alone, file.id), create(alone, file.id, completion_window="1s")
    alone.batches.cancel(unwanted.id)
    assert [wait_over(alone, batch).status for batch in (unwanted, late)] == ["cancelled", "expired"]
    assert {alone.batches.retrieve(batch.id).status for batch in waiting} == {"validating"}
    for batch in waiting:
        alone.batches.cancel(batch.id)
        wait_over(alone, batch)
    alone.files.delete(file.id)


def test_a_batch_that_waits_does_not_begin_while_its_key_is_over_its_quota(alone, lonely):
    file = upload(alone, [line(i) for i in range(2_000)])
    upload(alone, b"x" * (2 << 20))
    upload(alone, b"x" * ((2 << 20) - file.bytes - 10_000))
    batches = [create(alone, file.id) for _ in range(3)]
    for batch in batches[:2]:  # their answers are over the quota
        alone.batches.cancel(batch.id)
        wait_over(alone, batch)
    wait_until(lambda: f"batch {batches[2].id} is tried again" in lonely.log, "a refusal")
    alone.batches.cancel(batches[2].id)
    assert wait_over(alone, batches[2]).status == "cancelled"


TRICKS = [
    "../../../../etc/passwd",
    "/etc/passwd",
    "a\\..\\b",
    "..",
    "a\x00b\r\nc",
    "x" * 3_000,
    "é😀",
    '"; DROP TABLE',
]


def form(name, data, *, boundary=b"zebra"):
    disposition = b'content-disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
    head = b"--" + boundary + b"\r\n" + disposition
    purpose = b'\r\n--%b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % boundary
    return head + data + purpose + b"--" + boundary + b"--\r\n"


def send(gateway, body, kind="multipart/form-data; boundary=zebra"):
    headers = {"content-type": kind}
    return httpx.post(f"{gateway.openai_url}/files", content=body, headers=headers, timeout=PATIENCE_S)


def test_names_of_files_are_never_paths(lonely, alone):
    for name in TRICKS:
        file = alone.files.create(file=(name, b"{}"), purpose="batch")
        assert not set(file.filename) & set("\x00\r\n") and len(file.filename) <= 255
        assert alone.files.content(file.id).content == b"{}"
    for name in (b"\xff\xfe", b"a\x00b", b""):
        answer = send(lonely, form(name, b"{}"))
        assert answer.status_code in (200, 400), answer.text
    assert all(re.fullmatch(r"file-[0-9a-f]{32}", name) for name in left(lonely))
    assert {path.name for path in lonely.folder.parent.iterdir()} == {lonely.folder.name}


GARBAGE = {
    "nothing": b"",
    "no form": b"zebra",
    "only a boundary": b"--zebra\r\n",
    "only the end": b"--zebra--\r\n",
    "no end": form(b"a", b"{}")[:-12],
    "no file": b'--zebra\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--zebra--\r\n',
    "no name": b"--zebra\r\ncontent-disposition: form-data\r\n\r\nbatch\r\n--zebra--\r\n",
    "no disposition": b"--zebra\r\n\r\nbatch\r\n--zebra--\r\n",
    "two files": form(b"a", b"{}")[:-11] + form(b"b", b"{}"),
    "a long header": b"--zebra\r\n" + b"x" * 100_000 + b": y\r\n\r\n--zebra--\r\n",
    "many headers": b"--zebra\r\n" + b"a: b\r\n" * 1_000 + b"\r\n--zebra--\r\n",
    "many parts": (b'--zebra\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n' * 1_000) + b"--zebra--\r\n",
    "a long field": form(b"a", b"{}").replace(b"batch\r\n", b"batch" * 10_000 + b"\r\n"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_and_leaves_nothing(lonely, name):
    answer = send(lonely, GARBAGE[name])
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error" and "zebra" not in answer.text
    assert left(lonely) == []


def test_other_bodies_are_refused(lonely):
    for kind in (
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=zebra",
    ):
        assert send(lonely, form(b"a", b"{}"), kind).status_code == 400
    long = "multipart/form-data; boundary=" + "z" * 5_000
    assert send(lonely, form(b"a", b"{}"), long).status_code == 400
    assert left(lonely) == []


def test_a_file_over_the_limit_is_refused_however_it_comes(openai, lonely, alone):
    large = b"x" * ((2 << 20) + 1)
    with pytest.raises(openai.APIStatusError) as caught:
        alone.files.create(file=large, purpose="batch")
    assert caught.value.status_code == 413
    answer = send(lonely, iter([form(b"a", large)]))
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
    answer = send(lonely, iter([form(b"a", b"{}"), large * 2]))  # more, behind the end of the form
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
    assert left(lonely) == []
    assert alone.files.create(file=large[:-1], purpose="batch").bytes == 2 << 20


def test_a_quota_holds_for_uploads_at_the_same_time(openai, lonely, alone):
    def one(_number):
        try:
            return alone.files.create(file=b"x" * (3 << 19), purpose="batch").bytes
        except openai.RateLimitError as error:
            assert (error.code, error.response.headers["x-should-retry"]) == ("insufficient_quota", "false")
            return None

    with ThreadPoolExecutor(6) as pool:
        sizes = list(pool.map(one, range(6)))
    assert 1 <= len(list(filter(None, sizes))) <= 2
    assert len(left(lonely)) == len(list(filter(None, sizes)))
    for file in alone.files.list():
        alone.files.delete(file.id)
    assert [one(0), one(1), one(2)] == [3 << 19, 3 << 19, None]


def half(gateway, body):
    """Sends the head of an upload and what comes first of its body."""
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("content-type", "multipart/form-data; boundary=zebra")
    connection.putheader("content-length", str(1 << 20))
    connection.endheaders(body)
    return connection


def test_an_upload_that_is_cut_off_or_stalls_leaves_nothing(lonely, alone):
    body = form(b"a", b"x" * (600 << 10))[:-100]
    connection = half(lonely, body)
    wait_until(lambda: left(lonely), "the upload")
    connection.close()
    wait_until(lambda: not left(lonely), "the end of the upload")
    connection = half(lonely, form(b"a", b"x" * (10 << 10))[:-100])
    answer = connection.getresponse()
    assert answer.status == 408 and json.loads(answer.read())["error"]["message"]
    connection.close()
    wait_until(lambda: not left(lonely), "the end of the upload")
    assert list(alone.files.list()) == []


def test_a_full_disk_refuses_an_upload_and_harms_nothing(openai, lonely, alone):
    """As a quota of the disk does: the kernel refuses to let a file of the process grow."""
    file = alone.files.create(file=b"here before", purpose="batch")
    usual = resource.prlimit(lonely.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(lonely.process.pid, resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            alone.files.create(file=b"x" * (3 << 19), purpose="batch")
        error = caught.value
        assert (error.status_code, error.code, error.type) == (507, "storage_full", "server_error")
        assert error.response.headers["x-should-retry"] == "false"
        assert left(lonely) == [file.id]
        assert alone.files.content(file.id).content == b"here before"
    finally:
        resource.prlimit(lonely.process.pid, resource.RLIMIT_FSIZE, usual)
    assert alone.files.create(file=b"x" * (3 << 19), purpose="batch").bytes == 3 << 19


def test_a_batch_whose_file_was_lost_fails(alone, lonely):
    file = upload(alone, [line(0)])
    (lonely.folder / "bytes" / file.id).unlink()
    done = wait_over(alone, create(alone, file.id))
    assert done.status == "failed" and [fault.code for fault in done.errors.data] == ["file_damaged"]
    assert done.output_file_id is done.error_file_id is None
    assert list((lonely.folder / "locks").iterdir()) == []


def test_what_a_killed_gateway_leaves_is_swept_and_what_was_stored_is_there(openai, valkey, data_dir, tmp_path):
    mill = new_mill(valkey.url, data_dir, tmp_path)
    first = start(mill.env, tmp_path, ready=False, EMBEDMILL_FILES_DIR=str(tmp_path / "files"))
    first.folder = tmp_path / "files" / mill.namespace
    with sdk_of(openai, first, "unused") as sdk:
        file = upload(sdk, [line(0)])
        batch = create(sdk, file.id, completion_window="30d")
    connection = half(first, form(b"a", b"x" * (600 << 10))[:-100])
    wait_until(lambda: len(left(first)) > 1, "the upload")
    first.process.kill()
    first.process.wait()
    connection.close()
    assert len(left(first)) == 2
    second = start(mill.env, tmp_path, ready=False, EMBEDMILL_FILES_DIR=str(tmp_path / "files"))
    assert left(first) == [file.id]
    with sdk_of(openai, second, "unused") as sdk:
        assert sdk.files.retrieve(file.id) == file
        assert sdk.batches.retrieve(batch.id).status == "validating"
        sdk.batches.cancel(batch.id)
        assert wait_over(sdk, batch).status == "cancelled"
    assert second.stop() == 0
