"""fastembed's own download code, against a model hub that this test serves on a local port."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from waiting import join

NAME = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
REPOSITORY = "Qdrant/paraphrase-multilingual-MiniLM-L12-v2-onnx-Q"
REVISION = "0123456789abcdef0123456789abcdef01234567"

RESOLVE = """
import json, sys
from pathlib import Path
from embedmill.errors import ModelLoadError
from embedmill_worker.models import fingerprint, resolve
try:
    files = resolve(sys.argv[1], data_dir=Path(sys.argv[2]), download=sys.argv[3] == "True")
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({
        "graph": str(files.graph), "tokenizer": str(files.tokenizer), "pooling": files.pooling,
        "normalize": files.normalize, "max_tokens": files.max_tokens, "prompts": dict(files.prompts),
        "precision": files.precision, "fingerprint": fingerprint(files),
    }))
"""


def tiny_graph() -> bytes:
    words = numpy_helper.from_array(np.arange(40, dtype=np.float16).reshape(10, 4), "words")
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["halves"]),
        helper.make_node("Cast", ["halves"], ["last_hidden_state"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 4])
    return helper.make_model(helper.make_graph(nodes, "tiny", inputs, [output], [words])).SerializeToString()


@dataclass
class Hub:
    """A model hub with one repository."""

    files: dict[str, bytes]
    url: str = ""
    #: Paths of the files that were sent.
    sent: list[str] = field(default_factory=list)

    def entry(self, path: str) -> dict:
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": self.blob_id(path)}
        if path.endswith(".onnx"):
            entry["lfs"] = {"oid": self.sha256(path), "size": len(content), "pointerSize": 100}
        return entry

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()

    def blob_id(self, path: str) -> str:
        return hashlib.sha1(self.files[path]).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        api = f"/api/models/{REPOSITORY}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self.send({"id": REPOSITORY, "modelId": REPOSITORY, "sha": REVISION, "siblings": siblings}, with_body)
        elif path.startswith(f"{api}/tree/"):
            self.send([self.hub.entry(name) for name in self.hub.files], with_body)
        elif (name := path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/")) in self.hub.files:
            tag = self.hub.sha256(name) if name.endswith(".onnx") else self.hub.blob_id(name)
            if with_body:
                self.hub.sent.append(name)
            self.send(self.hub.files[name], with_body, {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION})
        else:
            self.send_error(404)

    def send(self, value: object, with_body: bool, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        for key, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        "model_optimized.onnx": tiny_graph(),
        "tokenizer.json": json.dumps({"model": {"type": "WordLevel"}}).encode(),
        "tokenizer_config.json": json.dumps({"model_max_length": 512, "max_length": 128}).encode(),
        "config.json": json.dumps({"model_type": "bert"}).encode(),
        "special_tokens_map.json": b"{}",
        "README.md": b"not wanted",
        "pytorch_model.bin": b"not wanted either",
    }
    hub = Hub(files)
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield hub
        server.shutdown()
        join(thread)


def resolve(hub_url: str, data_dir: Path, name: str = NAME, *, download: bool = True) -> dict:
    """In a process of its own: the hub's client reads its address when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    environment = kept | {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HOME": str(data_dir / "hf-home")}
    command = [sys.executable, "-c", RESOLVE, name, str(data_dir), str(download)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_user_s_model_is_fetched_once_and_then_needs_no_hub(hub, tmp_path):
    files = resolve(hub.url, tmp_path)
    assert "error" not in files, files
    # What fastembed's PooledEmbedding does: mean, not normalised.
    assert (files["pooling"], files["normalize"], files["max_tokens"], files["prompts"]) == ("mean", False, 128, {})
    assert files["precision"] == "fp16"
    assert Path(files["graph"]).read_bytes() == hub.files["model_optimized.onnx"]
    assert Path(files["graph"]).is_relative_to(tmp_path)
    assert "pytorch_model.bin" not in hub.sent
    sent = len(hub.sent)
    assert resolve("http://127.0.0.1:9", tmp_path) == files
    assert resolve(hub.url, tmp_path, download=False) == files
    assert len(hub.sent) == sent


@pytest.mark.parametrize(
    ("part", "damage"),
    [("graph", "truncated"), ("graph", "same size"), ("tokenizer", "truncated"), ("tokenizer", "gone")],
)
def test_a_damaged_download_is_found_and_fetched_again(hub, tmp_path, part, damage):
    files = resolve(hub.url, tmp_path)
    path = Path(files[part])
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "truncated" else content[:-9] + b"#" * 9)
    assert resolve(hub.url, tmp_path) == files
    assert path.read_bytes() == content


def test_a_download_that_was_cut_off_before_its_last_file_is_completed(hub, tmp_path):
    files = resolve(hub.url, tmp_path)
    (manifest,) = (tmp_path / "hub/manifests").iterdir()
    (metadata,) = (tmp_path / "hub").rglob("files_metadata.json")
    tokenizer = Path(files["tokenizer"])
    for path in (manifest, metadata, tokenizer.resolve(), tokenizer):
        path.unlink(missing_ok=True)
    assert "error" in resolve(hub.url, tmp_path, download=False)
    assert resolve(hub.url, tmp_path) == files


def test_a_hub_that_sends_other_content_than_it_names_is_not_believed(hub, tmp_path):
    honest = hub.files["model_optimized.onnx"]
    other = honest[:-9] + b"#" * 9
    digest = hub.sha256("model_optimized.onnx")
    hub.sha256 = lambda _: digest
    hub.files["model_optimized.onnx"] = other
    assert "damaged" in resolve(hub.url, tmp_path)["error"]
    hub.files["model_optimized.onnx"] = honest
    assert "error" not in resolve(hub.url, tmp_path)


def test_without_a_hub_the_error_names_the_way_out(tmp_path):
    error = resolve("http://127.0.0.1:9", tmp_path)["error"]
    assert "could not be fetched" in error
    assert f"{NAME}=/path/to/folder" in error
    assert "downloads are off" in resolve("http://127.0.0.1:9", tmp_path, download=False)["error"]
