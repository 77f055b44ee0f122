"""OpenAI's files and batches as the official package knows them, with nothing changed but the address and the key."""

import base64
import json
import subprocess
import sys

import httpx
import numpy as np
import pytest

from embedmill import EmbeddingClient
from support.gateway import start
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"
KEYS = ("sk-batches-of-one-0001", "sk-batches-of-two-0002", "sk-batches-small-0003")

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0

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
    assert command(mill, source, "--output", source).returncode == 2
    assert command(mill, tmp_path / "none", "--output", output).returncode == 12
