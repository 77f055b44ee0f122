"""Files for contributors say the same as the tools do: editor settings, hooks, targets of the Makefile."""

import re
import shlex
import tomllib

import pytest
import yaml

from conftest import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")


def recipe(target):
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]


def test_editors_break_lines_where_the_linter_does():
    ruff = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    editors = (REPOSITORY / ".editorconfig").read_text("utf-8")
    assert re.findall(r"^max_line_length = (\d+)$", editors, re.MULTILINE) == [str(ruff["line-length"])]


def test_hooks_are_local_and_call_what_check_calls():
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        program, command, *_ = shlex.split(hook["entry"])
        assert program == ".venv/bin/ruff"
        assert f"$(BIN)/ruff {command}" in recipe("check")


def test_fix_repairs_what_check_finds():
    assert set(re.findall(r"ruff (\w+)", recipe("fix"))) == set(re.findall(r"ruff (\w+)", recipe("check")))


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", CONTRIBUTING, re.MULTILINE)))
)
def test_a_target_that_contributing_names_is_there(target):
    assert recipe("".join(target))


@pytest.mark.parametrize("template", sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").iterdir(), key=str))
def test_an_issue_template_has_a_name_and_says_what_it_is_about(template):
    _, front, body = template.read_text("utf-8").split("---\n", 2)
    assert {"name", "about"} <= set(yaml.safe_load(front))
    assert body.strip()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:producer|worker|tests|docs|benchmarks)/[\w./-]+)`", CONTRIBUTING)))
)
def test_a_path_that_contributing_names_is_there(path):
    assert (REPOSITORY / path).exists()
