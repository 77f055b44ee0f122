"""What ``import embedmill`` gives, and what it does not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import embedmill

PACKAGE = Path(embedmill.__file__).parent

#: Fixed: other people's programs depend on it.
PUBLIC = {
    *("AsyncDeadLetters", "DeadLetter", "DeadLetters", "FingerprintError", "UnknownLetterError"),
    *("AsyncEmbeddingClient", "AsyncJob", "EmbeddingClient", "Job", "AsyncJobs", "JobList", "Jobs"),
    *("EmbeddingReply", "JobState", "JobStatus", "Reason", "Rejected", "ReplyPart"),
    *("ReindexReport", "reindex", "SinkError", "SinkMismatchError", "SourceError"),
    *("read_status", "wait_for_worker"),
    *("rejected_of", "signature", "unpack_binary", "unpack_int8", "vectors_of"),
    *("BrokerUnavailableError", "ClientClosedError", "EmbedError", "EngineError", "InferenceError"),
    *("InvalidRequestError",),
    *("InvalidTextError", "JobCancelledError", "JobConflictError", "JobTooLargeError"),
    *("KeyConflictError", "ProtocolVersionError"),
    *("MessageError", "ModelLoadError"),
    *("QueueError", "QueueFullError", "RequestError", "ResultError", "ResultExpiredError", "ResultTimeoutError"),
    *("SettingsError", "TextsRejectedError", "TooManyTextsError", "UnknownModelError"),
}

#: What only a worker needs, and Celery, which takes as long to load as all the rest.
HEAVY = (
    *("onnxruntime", "fastembed", "tokenizers", "onnx", "embedmill_worker", "huggingface_hub", "celery", "kombu"),
    # And what single sinks and sources need.
    *("pyarrow", "qdrant_client", "psycopg", "pgvector", "semantic_text_splitter"),
)

PROBE = f"""
import os, socket, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(f"importing does {{event}}")

class Watched(dict):
    asked = []
    def __missing__(self, name):
        raise KeyError(name)
    def get(self, name, default=None):
        Watched.asked.append(name)
        return super().get(name, default)
    def __getitem__(self, name):
        Watched.asked.append(name)
        return super().__getitem__(name)
    def __contains__(self, name):
        Watched.asked.append(name)
        return super().__contains__(name)

os.environ._data = Watched(os.environ._data)
sys.addaudithook(refuse)
import embedmill
asked = [name for name in Watched.asked if b"EMBEDMILL" in name]
assert not asked, asked
assert "__version__" not in vars(embedmill)
assert "embedmill.reindexing" not in sys.modules
loaded = sorted(name for name in {HEAVY!r} if name in sys.modules)
assert not loaded, loaded
os.environ.get("EMBEDMILL_PROBE")
assert Watched.asked, "the probe sees nothing"
"""


def test_the_public_names_are_the_promised_ones():
    assert sorted(embedmill.__all__) == sorted(PUBLIC)
    assert all(getattr(embedmill, name).__doc__ for name in PUBLIC)


def test_there_is_no_public_name_besides_them():
    found = {name for name in dir(embedmill) if not name.startswith("_")}
    modules = {path.stem for path in PACKAGE.iterdir()} | {"TYPE_CHECKING", "Any"}
    assert found - modules == PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = embedmill.Nothing


def test_importing_loads_no_model_library_reads_no_setting_and_connects_to_nothing():
    subprocess.run([sys.executable, "-c", PROBE], check=True, timeout=60)


def test_the_client_knows_nothing_of_the_worker():
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".lua")]
    assert len(files) > 20
    assert [path.name for path in files if "embedmill_worker" in path.read_text("utf-8")] == []


def test_the_client_imports_only_what_it_declares():
    declared = {*sys.stdlib_module_names, "embedmill", "celery", "redis", "msgpack", "numpy"}
    # These modules are loaded when a sink, a source or splitting is asked for that needs the extra "reindex".
    extra = {
        "parquet.py": {"pyarrow"},
        "arrow.py": {"pyarrow"},
        "qdrant.py": {"qdrant_client"},
        "postgres.py": {"psycopg", "pgvector"},
        "splitting.py": {"semantic_text_splitter", "tokenizers"},
    }
    for path in PACKAGE.rglob("*.py"):
        allowed = declared | (extra.get(path.name, set()) if path.is_relative_to(PACKAGE / "reindexing") else set())
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {module.partition(".")[0] for module in modules} <= allowed, path.name


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
