"""docs/reindex.md: its guide runs as it stands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from support.reindexer import PATIENCE_S, write_jsonl

GUIDE = (REPOSITORY / "docs" / "reindex.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(mill, tmp_path):
    """A clone, as far as the guide needs it, with the command on the PATH."""
    # Fewer pages than a clone has show the same, and take a third of the time.
    names = ("decisions", "performance.md", "operations.md", "reliability.md", "architecture.*", "protocol.md")
    unneeded = shutil.ignore_patterns(*names)
    shutil.copytree(REPOSITORY / "docs", tmp_path / "clone" / "docs", ignore=unneeded)
    binaries = Path(sys.executable).parent
    env = {**mill.env, "PATH": f"{binaries}:{mill.env['PATH']}"}
    return tmp_path / "clone", env


def test_the_guide_indexes_interrupts_updates_and_searches(place):
    clone, env = place
    kinds = [kind for kind, _ in BLOCKS[:3]]
    assert kinds == ["sh", "sh", "python"]
    _, begin = BLOCKS[0]
    out = run(["bash", "-e", "-c", begin], clone, env)
    assert "time " in out
    assert re.search(r"notes: [\d,]+ added, 0 updated, [\d,]+ unchanged, 0 deleted, 0 rejected; [\d,]+ rows", out)
    _, change = BLOCKS[1]
    out = run(["bash", "-e", "-c", change], clone / "try", env)
    added, updated, unchanged, deleted = map(
        int, re.search(r"notes: (\d+) added, (\d+) updated, (\d+) unchanged, (\d+) deleted, 0 rejected", out).groups()
    )
    assert 0 < added + updated < unchanged
    assert deleted > 0, "parts that models.md and security.md no longer have"
    _, search = BLOCKS[2]
    out = run([sys.executable, "-c", search], clone / "try", env)
    assert "models.md#0: '# Animals" in out.splitlines()[0]


def test_the_sink_of_one_s_own_works_as_it_stands(place):
    clone, env = place
    env = env | {"EMBEDMILL_DATA_DIR": str(clone)}
    write_jsonl(clone / "corpus.jsonl", ["one", "two"])
    kind, program = BLOCKS[3]
    assert kind == "python"
    assert run([sys.executable, "-c", program], clone, env) == "2 added, 0 unchanged\n"
    assert run([sys.executable, "-c", program], clone, env) == "0 added, 2 unchanged\n"


def run(command, folder, env) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
