"""A Hugging Face hub on a local port, as far as huggingface_hub asks it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

from support.waiting import join

TOKEN = "hf_the_token_of_the_tests"
#: Files that a hub keeps in its large file storage, by their sha256.
LARGE = (".onnx", ".onnx_data", ".safetensors", ".bin", ".data")


@dataclass
class Repository:
    """One repository: its files at its only commit."""

    files: dict[str, bytes]
    #: Shown with the token alone.
    is_private: bool = False
    is_gated: bool = False
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        whole = "".join(f"{name}{len(content)}{content[:64]}" for name, content in sorted(self.files.items()))
        return hashlib.sha1(whole.encode()).hexdigest()

    @classmethod
    def of_folder(cls, folder: Path, **more: bytes) -> Repository:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return cls(files | more)


@dataclass
class Hub:
    """A hub with some repositories."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    #: Paths of the files that were sent, and of all that was asked for.
    sent: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    #: Answers everything so if it is set: with a status, or with a body in place of what is asked for.
    broken_with: int = 0
    says: bytes | None = None
    #: Of this file it says that it is of another commit.
    moved: str = ""
    #: Of this file it sends only half.
    cut: str = ""

    def sha256(self, content: bytes) -> str:
        """Return what the hub says that a large file's sha256 is."""
        return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(path)
        if self.hub.broken_with:
            self.refuse(self.hub.broken_with, "")
            return
        # Of models alone: what it says of anything else, the client remembers for as long as the process lives.
        if self.hub.says is not None and path.startswith("/api/models/"):
            self.send(self.hub.says, with_body, {})
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repository = self.hub.repositories.get(match[1]) if match else None
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if match is None or repository is None or (repository.is_private and not has_token):
            self.refuse(401 if repository is None or repository.is_private else 404, "RepoNotFound")
            return
        revision = match[3] if api else match[2]
        if revision and revision not in (*repository.revisions, repository.commit):
            self.refuse(404, "RevisionNotFound")
        elif api:
            self.tell(match[1], repository, api[2] == "tree", with_body)
        elif repository.is_gated and not has_token:
            self.refuse(403, "GatedRepo")
        else:
            self.give(match[3], repository, with_body)

    def tell(self, name: str, repository: Repository, is_tree: bool, with_body: bool) -> None:
        entries = []
        for path, content in repository.files.items():
            entry = {"type": "file", "size": len(content), "oid": self.tag(path, content, is_git=True)}
            entry["blobId"] = entry["oid"]
            entry["path" if is_tree else "rfilename"] = path
            if path.endswith(LARGE):
                digest = self.hub.sha256(content)
                entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 100}
            entries.append(entry)
        info = {"id": name, "modelId": name, "sha": repository.commit, "siblings": entries}
        self.send(json.dumps(entries if is_tree else info).encode(), with_body, {})

    def give(self, path: str, repository: Repository, with_body: bool) -> None:
        if path not in repository.files:
            self.refuse(404, "EntryNotFound")
            return
        content = repository.files[path]
        if with_body:
            self.hub.sent.append(path)
        commit = "0" * 40 if path == self.hub.moved else repository.commit
        headers = {"ETag": f'"{self.tag(path, content)}"', "X-Repo-Commit": commit}
        is_cut = with_body and path == self.hub.cut
        self.send(content[: len(content) // 2] if is_cut else content, with_body, headers)

    def tag(self, path: str, content: bytes, *, is_git: bool = False) -> str:
        is_large = path.endswith(LARGE) and not is_git
        return self.hub.sha256(content) if is_large else hashlib.sha1(content).hexdigest()

    def send(self, content: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, text)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def model_hub() -> Iterator[Hub]:
    """Serve a hub for as long as the block runs."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            join(thread)


@contextmanager
def asking(hub_url: str, home: Path, *, is_offline: bool = False, **variables: str) -> Iterator[None]:
    """Have this process ask this hub and no other, with a cache of its own, as with `environment`: it reads it once."""
    from huggingface_hub import constants

    given = {key: value for key, value in environment(hub_url, home).items() if not key.startswith("HF_")} | variables
    values = {
        "ENDPOINT": hub_url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub_url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": is_offline,
    }
    with mock.patch.multiple(constants, **values), mock.patch.dict(os.environ, given, clear=True):
        yield


def environment(hub_url: str, home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that asks this hub and no other, with a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return kept | {
        "HF_ENDPOINT": hub_url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(home),
        **more,
    }
