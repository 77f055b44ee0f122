"""A model named by its folder or its repository, in every command, as a new user types it."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedmill_worker import exit_codes
from support.model_hub import Repository, environment, model_hub
from support.waiting import first_line

COMMAND = [sys.executable, "-m", "embedmill_worker.cli"]
KINDS = Path(__file__).resolve().parent.parent / "data" / "golden" / "kinds"

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 180.0


@pytest.fixture
def home(tmp_path):
    """The environment of somebody who has just installed the package, and whose shell is in an empty folder."""
    (tmp_path / "work").mkdir()
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}


def embedmill(*arguments, env, **options):
    """Runs a command to its end in the user's folder."""
    where = Path(env["HOME"], "work")
    return subprocess.run(
        [*COMMAND, *arguments], env=env, cwd=where, capture_output=True, timeout=PATIENCE_S, check=False, **options
    )


@contextmanager
def up(env):
    """Run `embedmill up`; the block begins when it is ready, and gets a list that holds its log at the end."""
    said = []
    where = Path(env["HOME"], "work")
    command = [*COMMAND, "up", "--concurrency", "1"]
    with subprocess.Popen(
        command, env=env, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = first_line(process)
            assert line.startswith("export "), process.communicate(timeout=PATIENCE_S)
            yield said
        finally:
            process.terminate()
            said.append(process.communicate(timeout=PATIENCE_S)[1])


def copy_model(folder):
    shutil.copytree(KINDS / "bert", folder)
    return folder


def check_commands(home, name, *, revision=""):
    """Check that commands that are told nothing find the model, the tokenizer that its texts are split by included."""
    where = Path(home["HOME"], "work")
    status = json.loads(embedmill("status", "--wait", "60", "--json", env=home).stdout)
    (worker,) = status["workers"]
    assert worker["model"] == name
    done = embedmill("embed", "--dimensions", "8", env=home, input=b"selamat pagi\n")
    assert (done.returncode, done.stdout.count(b"\n")) == (exit_codes.OK, 1), done.stderr
    (where / "corpus.txt").write_text("selamat pagi dunia, good morning world. " * 40)
    done = embedmill("reindex", "corpus.txt", "--to", "vectors/", "--split", "16", "--json", env=home)
    assert done.returncode == exit_codes.OK, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["added"] > 5
    assert report["fingerprint"] == worker["fingerprint"]
    (part, *_) = (where / "vectors").glob("*.parquet")
    described = next(value for value in pq.read_schema(part).metadata.values() if b"fingerprint" in value)
    assert json.loads(described)["revision"] == revision
    return worker["fingerprint"]


def test_a_model_is_named_by_its_folder_in_every_command(home):
    copy_model(Path(home["HOME"], "work", "e5-mine"))
    with up({**home, "EMBEDMILL_MODEL": "./e5-mine"}) as said:
        fingerprint = check_commands(home, "e5-mine")
        for spec in ("./e5-mine", "e5-mine", "e5-mine=e5-mine", str(Path(home["HOME"], "work", "e5-mine"))):
            facts = json.loads(embedmill("models", "show", spec, "--json", env=home).stdout)
            assert (facts["name"], facts["fingerprint"]) == ("e5-mine", fingerprint)
            done = embedmill("status", "--wait", "60", "--model", spec, env=home)
            assert done.returncode == exit_codes.OK, done.stderr
        assert (facts["query"], facts["passage"], facts["pooling"], facts["normalize"]) == (
            "query: ", "passage: ", "mean", True,
        )  # fmt: skip
        assert facts["sources"]["query"] == "the family of the name e5-mine"
        shown = embedmill("models", "show", "./e5-mine", env=home).stdout.decode()
        assert "from the family of the name e5-mine" in shown
        assert "from sentence_bert_config.json" in shown
    assert "come from the family of the name e5-mine, as no file states any" in said[0]


def test_a_model_is_named_by_its_repository_and_fetched_once(home, tmp_path):
    with model_hub() as hub:
        hub.repositories["org/tiny"] = Repository.of_folder(copy_model(tmp_path / "tiny"))
        revision = f"org/tiny@{hub.repositories['org/tiny'].commit}"
        given = {key: value for key, value in environment(hub.url, tmp_path / "hf").items() if key.startswith("HF_")}
        own = {**home, **given, "EMBEDMILL_MODEL": "org/tiny"}
        with up(own) as said:
            sent = len(hub.sent)
            check_commands({**home, "HF_HOME": str(tmp_path / "hf")}, "org/tiny", revision=revision)
            facts = json.loads(embedmill("models", "show", "org/tiny", "--json", env=own).stdout)
            assert facts["revision"] == revision
        assert f"files of {revision}" in said[0]
        assert len(hub.sent) == sent
        mistyped = embedmill("worker", "--model", "org/tiyn", env={**own, "EMBEDMILL_REDIS_URL": "redis://127.0.0.1:1"})
    assert mistyped.returncode == exit_codes.MODEL
    assert "org/tiyn cannot be loaded: there is no repository org/tiyn at http://127.0.0.1" in mistyped.stderr.decode()
    assert b"Traceback" not in mistyped.stderr
