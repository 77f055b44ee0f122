"""README.md, docs/start.md, docs/client.md and docs/gateway.md: what they show runs as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from support.waiting import PATIENCE_S

README, START, CLIENT, GATEWAY = (
    REPOSITORY / name for name in ("README.md", "docs/start.md", "docs/client.md", "docs/gateway.md")
)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(command, mill, folder, **more):
    path = f"{Path(sys.executable).parent}:{mill.env['PATH']}"
    done = subprocess.run(
        command, env={**mill.env, "PATH": path, **more}, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(page, code, id=f"{page.name} {i}")
        for page in (README, CLIENT)
        for i, code in enumerate(blocks(page, "python"))
    ],
)
def test_every_block_of_python_runs(page, code, mill, tmp_path):
    run([sys.executable, "-c", code], mill, tmp_path)


def test_readme_s_request_and_corpus_work_with_a_gateway_and_a_worker(mill, gateway, tmp_path):
    (block,) = (each for each in blocks(README, "sh") if "curl" in each)
    request, corpus = block.split("embedmill reindex")
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    reply = json.loads(run(["bash", "-c", request.replace(":8080", f":{gateway.port}")], mill, tmp_path))
    assert [len(each["embedding"]) for each in reply["data"]] == [384, 384]
    small = tmp_path / "small"
    small.mkdir()
    (small / "a.md").write_text("a page")
    run(["bash", "-c", f"embedmill reindex{corpus}".replace("docs/", "small/")], mill, tmp_path)
    assert list((tmp_path / "vectors").glob("*.parquet"))


def test_the_second_terminal_of_the_first_steps(mill, tmp_path):
    (block,) = (each for each in blocks(START, "sh") if each.startswith("printf"))
    assert "(1, 384)" in run(["bash", "-ec", block], mill, tmp_path)
    assert (tmp_path / "vectors.npy").stat().st_size > 2 * 384 * 4


def test_keys_as_the_page_writes_them_are_read(mill, make_gateway, tmp_path):
    (keys,) = blocks(GATEWAY, "text")
    path = tmp_path / "keys.txt"
    path.write_text(keys)
    made = make_gateway(mill.env, "--api-keys-file", str(path))
    script = f"curl -s -o /dev/null -w '%{{http_code}}' {made.openai_url}/models"
    assert run(["bash", "-c", script], mill, tmp_path) == "401"
    assert run(["bash", "-c", f"{script} -H 'Authorization: Bearer {keys.split()[0]}'"], mill, tmp_path) == "200"
