"""Commands, settings and data in the docs: what no other test runs is at least read as the program reads it."""

import argparse
import dataclasses
import json
import re
import shlex
from itertools import takewhile

import pytest
import yaml

from conftest import REPOSITORY
from embedmill.whereabouts import Whereabouts
from embedmill_worker.cache.store import POLICY
from embedmill_worker.cli.dispatch import parser

PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")

#: Languages of code blocks; tests of a page run what is Python.
LANGUAGES = {"sh", "python", "json", "yaml", "text", "hex", "mermaid"}

#: Between two commands of a line.
SEPARATORS = {"|", "||", "&&", ";", "<", ">", "&"}


def blocks(page, *languages):
    for language, code in re.findall(r"^```(\w*).*?\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if language in languages:
            yield code


def spans(page):
    """What stands in backticks within the prose and the tables of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\||- |\d+\. )", text):
        yield from (" ".join(span.split()) for span in block.split("`")[1::2])


def commands(code, program):
    """Yield the arguments of each call of a program in a block of shell."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
        for place, word in enumerate(words):
            if word == program and (not place or words[place - 1] not in ("<", ">")):
                yield list(takewhile(lambda each: each not in SEPARATORS, words[place + 1 :]))


def cases(found):
    return [pytest.param(*case, id=f"{case[0].name}: {' '.join(case[1])}") for case in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page):
    fences = re.findall(r"^```(\w*)", page.read_text("utf-8"), re.MULTILINE)[::2]
    assert set(fences) <= LANGUAGES


@pytest.mark.parametrize(
    ("page", "given"),
    cases((page, given) for page in PAGES for code in blocks(page, "sh", "") for given in commands(code, "embedmill")),
)
def test_a_command_in_a_block_is_read_by_the_program(page, given, capsys):
    try:
        parser().parse_args(given)
    except SystemExit as end:
        assert end.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "given"),
    cases(
        (page, span.split()[1:])
        for page in PAGES
        for span in spans(page)
        if span.startswith("embedmill ") and "…" not in span.split()[1]
    ),
)
def test_a_command_in_the_prose_has_its_words_and_flags(page, given):
    """It may leave out what is not its subject, and name several commands with a bar between."""
    words = list(takewhile(lambda word: not word.startswith("-"), given))
    found = [parser()]
    for word in words:
        named = {name: command for each in found for name, command in subcommands(each).items()}
        if not named:
            break
        found = [named[name] for name in word.split("|")]
    known = {flag for each in found for flag in flags(each)}
    assert {word.partition("=")[0] for word in given if word.startswith("--")} <= known


def flags(command):
    """The flags of a command and of all its subcommands."""
    known = {flag for action in command._actions for flag in action.option_strings}
    return known.union(*map(flags, subcommands(command).values()))


def subcommands(command):
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


@pytest.mark.parametrize(
    ("page", "given"),
    cases(
        (page, given)
        for page in PAGES
        for code in (*blocks(page, "sh", ""), *spans(page))
        if "make " in code
        for given in commands(code, "make")
    ),
)
def test_a_target_of_make_is_there_and_what_it_is_given(page, given):
    target, *rest = given or ["help"]
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    for words in (shlex.split(word.removeprefix("ARGS=")) for word in rest if word.startswith("ARGS=")):
        if target == "bench":
            check_benchmark(words)
        else:
            assert all((REPOSITORY / word).exists() for word in words if word.startswith("tests/"))


@pytest.mark.parametrize(
    ("page", "given"),
    cases(
        (page, given)
        for page in PAGES
        for code in (*blocks(page, "sh", ""), *spans(page))
        if "benchmarks/" in code
        for given in commands(code, "python")
    ),
)
def test_a_benchmark_is_there_and_knows_its_flags(page, given):
    script, *words = given
    assert (REPOSITORY / script).exists()
    if script == "benchmarks/run.py":
        check_benchmark(words)


def check_benchmark(words):
    source = (REPOSITORY / "benchmarks" / "run.py").read_text("utf-8")
    questions = set(re.findall(r'"(\w+)"', "".join(re.findall(r"^(?:QUESTIONS|MORE) = \((.*?)\)", source, re.M))))
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r'"(--\w+)"', source))
    if words and not words[0].startswith("-"):
        assert words[0] in questions


# settings.md has a test of its own.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "settings.md"], ids=lambda page: page.name)
def test_every_variable_that_a_page_names_is_read_somewhere(page):
    paths = [
        path for root in ("producer", "worker", "tests", "benchmarks") for path in (REPOSITORY / root).rglob("*.py")
    ]
    code = " ".join(path.read_text("utf-8") for path in paths)
    # A flag's variable has the flag's name, and is put together where flags are made.
    for name in set(re.findall(r"\bEMBEDMILL_[A-Z_]+\b", page.read_text("utf-8"))):
        assert name in code, name


OPERATIONS = REPOSITORY / "docs" / "operations.md"


def test_the_file_of_up_is_shown_as_it_is_written():
    (shown,) = (json.loads(code) for code in blocks(OPERATIONS, "json"))
    assert list(shown) == [field.name for field in dataclasses.fields(Whereabouts)]


def test_probes_for_kubernetes_call_the_program():
    (code,) = blocks(OPERATIONS, "yaml")
    for probe in yaml.safe_load(code).values():
        program, command, *flags = probe["exec"]["command"]
        assert (program, command) == ("embedmill", "health")
        assert set(flags) <= {"--live", "--ready"}
        parser().parse_args([command, *flags])


def test_the_cache_s_server_is_started_with_the_policy_that_workers_want():
    (given,) = (given for code in blocks(OPERATIONS, "sh") for given in commands(code, "valkey-server"))
    assert given[given.index("--maxmemory-policy") + 1] == POLICY
    assert "--maxmemory" in given
