"""What every test may use. Nothing here ever empties a server: each test has a namespace of its own."""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from embedmill.errors import SettingsError
from embedmill_worker.valkey import EmbeddedValkey
from embedmill_worker.valkey_binary import BINARY_VARIABLE, find_binary

REPOSITORY = Path(__file__).resolve().parent.parent

#: The developer's own settings must not reach a test; variables of this prefix are about the tests themselves.
KEPT_PREFIX = "EMBEDMILL_TEST_"


def pytest_configure(config: pytest.Config) -> None:
    """Takes the project's own variables out of the environment, for this process and its children."""
    for name in [name for name in os.environ if name.startswith("EMBEDMILL_")]:
        if not name.startswith(KEPT_PREFIX):
            del os.environ[name]
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before a test module imports onnxruntime itself
    if binary := os.environ.get("EMBEDMILL_TEST_VALKEY_BINARY"):
        os.environ[BINARY_VARIABLE] = binary  # as in: run the suite on a redis-server


def missing(what: str) -> None:
    """Skips on a developer's machine; fails in CI, where a part that is missing must be seen."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def valkey_binary() -> Path:
    """The server's binary."""
    try:
        return find_binary()
    except SettingsError as error:
        missing(str(error))
        raise


@pytest.fixture(scope="session")
def valkey(valkey_binary: Path) -> Iterator[EmbeddedValkey]:
    """One throw-away server for the whole run; a test that stops or freezes a server starts its own."""
    with EmbeddedValkey(persistent=False) as server:
        yield server


@pytest.fixture
def own_valkey(valkey_binary: Path, tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A persistent server for one test alone, to be killed, frozen and restarted."""
    with EmbeddedValkey(tmp_path / "valkey", persistent=True) as server:
        yield server


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """URL of the shared server."""
    return valkey.url


@pytest.fixture
def namespace() -> str:
    """A fresh prefix for every key and queue of one test."""
    return "t" + secrets.token_hex(6)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where models are kept between runs."""
    return Path(os.environ.get("EMBEDMILL_TEST_DATA_DIR", REPOSITORY / ".embedmill"))


@pytest.fixture(scope="session")
def e5_dir() -> Path:
    """A folder with multilingual-e5-small, which is too big to fetch for every run."""
    folder = os.environ.get("EMBEDMILL_TEST_E5_DIR")
    if not folder:
        pytest.skip("EMBEDMILL_TEST_E5_DIR is not set: tests with multilingual-e5-small were not run")
    return Path(folder)


@dataclass(frozen=True)
class Golden:
    """Texts and what sentence-transformers makes of them in fp32; see tests/data/golden/make.py."""

    texts: list[str]
    #: float32 (n, 384).
    vectors: np.ndarray
    token_counts: list[int]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The committed golden set of the default model."""
    folder = REPOSITORY / "tests" / "data" / "golden"
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]
    return Golden(
        texts=[row["text"] for row in rows],
        vectors=np.load(folder / "vectors.npy"),
        token_counts=[row["token_count"] for row in rows],
    )
