"""What every test may use. Nothing here ever empties a server: each test has a namespace of its own."""

import json
import os
import random
import secrets
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import is_hypothesis_test
from hypothesis import settings as hypothesis_settings

from embedmill.errors import SettingsError
from embedmill_worker.cli.local.server import BINARY_VARIABLE, find_binary
from support.breakable import BreakableValkey

REPOSITORY = Path(__file__).resolve().parent.parent

#: The developer's own settings must not reach a test; variables of this prefix are about the tests themselves.
KEPT_PREFIX = "EMBEDMILL_TEST_"


#: Examples of a property in `make test`, and in `make deep`, which names the profile. No example is too slow.
ORDINARY_EXAMPLES, DEEP_EXAMPLES = 20, 200
hypothesis_settings.register_profile("ordinary", max_examples=ORDINARY_EXAMPLES, deadline=None)
hypothesis_settings.register_profile("deep", max_examples=DEEP_EXAMPLES, deadline=None)
hypothesis_settings.load_profile("ordinary")


def pytest_configure(config: pytest.Config) -> None:
    """Take the project's own variables out of the environment, for this process and its children."""
    # A shell has SIGINT ignored in what it starts in the background, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("EMBEDMILL_")]:
        if not name.startswith(KEPT_PREFIX):
            del os.environ[name]
    # Nor must an `embedmill up` of the developer's be found by a test that names no Redis.
    nowhere = tempfile.TemporaryDirectory(prefix="embedmill-test-home-")
    config.add_cleanup(nowhere.cleanup)
    os.environ["XDG_DATA_HOME"] = nowhere.name
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before a test module imports onnxruntime itself
    if binary := os.environ.get("EMBEDMILL_TEST_VALKEY_BINARY"):
        os.environ[BINARY_VARIABLE] = binary  # as in: run the suite on a redis-server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark properties, so that `make deep` finds them: there they are tried with more examples."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)) and not item.get_closest_marker("soak"):
            item.add_marker("property")


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
def valkey(valkey_binary: Path) -> Iterator[BreakableValkey]:
    """One throw-away server for the whole run; a test that stops or freezes a server starts its own."""
    with BreakableValkey(persistent=False) as server:
        yield server


@pytest.fixture
def own_valkey(valkey_binary: Path, tmp_path: Path) -> Iterator[BreakableValkey]:
    """A persistent server for one test alone, to be killed, frozen and restarted."""
    with BreakableValkey(tmp_path / "valkey", persistent=True) as server:
        yield server


@pytest.fixture
def redis_url(valkey: BreakableValkey) -> str:
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


@pytest.fixture(scope="session")
def golden_kinds() -> dict[str, np.ndarray]:
    """Return sentence-transformers' vectors of tests/data/golden/kinds by variant, float32 (n, dimension)."""
    # Read whole and closed: whatever collects an open archive later, with a warning, would be another test.
    with np.load(REPOSITORY / "tests" / "data" / "golden" / "kinds" / "vectors.npz") as archive:
        return dict(archive)


@dataclass(frozen=True)
class FastTextWriter:
    """Writes files as fastText does, from scratch, so that they may be huge, odd or wrong."""

    folder: Path

    def __call__(
        self,
        name: str = "made.bin",
        *,
        words: tuple[bytes, ...] = (b"</s>", b"river", b"pagi"),
        labels: tuple[bytes, ...] = (),
        dimension: int = 4,
        bucket: int = 20,
        **changes: int,
    ) -> Path:
        """The rows of words hold random numbers, those of n-grams are a hole that reads as zeros."""
        fields = {"magic": 793_712_314, "version": 12, "model": 2, "word_ngrams": 1, "minn": 3, "maxn": 6, "pruned": -1}
        fields |= {
            "word_count": len(words),
            "label_count": len(labels),
            "total": len(words) + len(labels),
            "quantised": 0,
        }
        fields |= {
            "rows": len(words) + bucket,
            "columns": dimension,
            "out_rows": len(words),
            "stated_bucket": bucket,
        } | changes
        f = {key: int(value) for key, value in fields.items()}
        arguments = (
            dimension,
            5,
            5,
            1,
            5,
            f["word_ngrams"],
            1,
            f["model"],
            f["stated_bucket"],
            f["minn"],
            f["maxn"],
            100,
            1e-4,
        )
        path = self.folder / name
        with path.open("wb") as file:
            file.write(struct.pack("<2i12id", f["magic"], f["version"], *arguments))
            file.write(struct.pack("<3i2q", f["total"], f["word_count"], f["label_count"], 100, f["pruned"]))
            for i, word in enumerate((*words, *labels)):
                file.write(word + b"\0" + struct.pack("<qb", 7, i >= len(words)))
            file.write(struct.pack("<?2q", f["quantised"], f["rows"], f["columns"]))
            matrix = file.tell()
            rng = np.random.default_rng(3)
            file.write(rng.normal(size=(len(words), dimension)).astype("<f4").tobytes())
            file.seek(matrix + (len(words) + bucket) * dimension * 4)
            file.write(struct.pack("<?2q", False, f["out_rows"], dimension))
            file.truncate(file.tell() + len(words) * dimension * 4)
        return path


@pytest.fixture
def write_fasttext(tmp_path: Path) -> FastTextWriter:
    """Writes fastText files into the test's folder."""
    return FastTextWriter(tmp_path)


@dataclass(frozen=True)
class TrainedFastText:
    """A model of the official package and the file that it saved."""

    official: Any
    path: Path

    def vector(self, text: str) -> np.ndarray | None:
        """The official vector; None where the package refuses: rows that a model without buckets has not got."""
        try:
            return self.official.get_sentence_vector(text)
        except ValueError:
            return None


#: Words of the trained models: several scripts, a label, the end of a line.
FASTTEXT_WORDS = ("river", "pagi", "Selamat", "jalan", "toko", "buku", "réunion", "Ünïcode", "данные", "日本語")
FASTTEXT_WORDS += ("emoji😀", "the", "and", "of", "to", "__label__x", "</s>", "kata-kata")


@pytest.fixture(scope="session")
def trained_fasttext(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainedFastText]:
    """Trains small models with the official package, each once."""
    import fasttext

    folder = tmp_path_factory.mktemp("fasttext")
    rng = random.Random(1)
    lines = [" ".join(rng.choices(FASTTEXT_WORDS, k=rng.randint(2, 12))) for _ in range(300)]
    (folder / "plain.txt").write_text("\n".join(lines) + "\n", "utf-8")
    labelled = [f"__label__{'ab'[i % 2]} {line}" for i, line in enumerate(lines)]
    (folder / "labelled.txt").write_text("\n".join(labelled) + "\n", "utf-8")

    @cache
    def train(kind: str, **options: int) -> TrainedFastText:
        fixed = {"dim": 16, "epoch": 3, "minCount": 1, "bucket": 1_000, "thread": 1, "verbose": 0}
        if kind == "supervised":
            official = fasttext.train_supervised(str(folder / "labelled.txt"), **fixed, **options)
        else:
            official = fasttext.train_unsupervised(str(folder / "plain.txt"), model=kind, **fixed, **options)
        path = folder / f"{kind}-{'-'.join(map(str, options.values()))}.bin"
        official.save_model(str(path))
        return TrainedFastText(official, path)

    return train
