"""Words of the code: docstrings, comments and messages in the field's plain English.

A phrase stands here because readers stumbled over it; its replacement says what to write instead.
"""

import ast
import re
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = [
    path
    for path in sorted(
        [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "examples").glob("*.md")]
    )
    if path.name != "CHANGELOG.md"
]
SOURCES = sorted([*(REPOSITORY / "producer").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")])

#: Phrase, as a regular expression → what the field says.
BANNED = {
    r"(in|of) (any|every|other|its|whatever) (company|companies)": "batch-invariant; in any batch",
    r"(ring|rings|rung|rang) (it |them )?again": "re-queue",
    r"\bmills?\b(?!\.)": "queue, stack or worker",
    r"\bverdicts?\b": "probe result",
    r"\bjudg(e|es|ed|ing|ement)\b": "classify, decide",
    r"\banew\b": "again",
    r"\bwhoever\b": "who; a caller who; anyone who",
    r"\bnought\b": "zero",
    r"\bso many\b": "the number itself: a number of seconds, N",
    r"(?<!\bthere )\bis no (?!longer\b|more\b)": "is not a",
    r"(?<!\bthere )\bare no (?!longer\b|more\b)": "are not",
    r"\bis none of\b": "is not one of",
    r"\b(is|are|be|was|were) told\b": "is reported, is logged, is named",
    r"\bby now\b": "meanwhile, already",
    r"\b(way out|ways out)\b": "hint",
    r"\blet(s)? go of\b": "release, free",
    r"\bgive(s)? way\b": "yield",
    r"\bin vain\b": "without success",
    r"\bthe like\b": "similar ones, by name",
    r"\bin one go\b": "at once",
    r"\bputs? out\b": "returns, outputs",
}

#: Words that no docstring and no comment of a field begins with: the subject, or the verb, comes first.
HEADLESS = ("Of", "By", "As", "For", "From", "Give", "Gives", "Say", "Says", "Tell", "Tells", "Let", "To")


def prose(path):
    """Yield (line, text) of each docstring, comment and string of several words in a file."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") > 1:
            yield node.lineno, " ".join(node.value.split())
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_phrase_is_private_to_this_project(path):
    found = [
        f"{path.name}:{line}: {match[0]!r} in {text[:100]!r}; write: {instead}"
        for line, text in prose(path)
        for phrase, instead in BANNED.items()
        for match in [re.search(phrase, text, re.IGNORECASE)]
        if match
    ]
    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_phrase_of_a_page_is_private_to_this_project(path):
    text = " ".join(path.read_text("utf-8").split())
    found = [
        f"{match[0]!r} in {text[max(0, match.start() - 40) : match.end() + 40]!r}; write: {instead}"
        for phrase, instead in BANNED.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]
    assert found == []


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_docstrings_and_field_comments_begin_with_a_subject_or_a_verb(path):
    source = path.read_text("utf-8")
    begun = list(docstrings(ast.parse(source)))
    lines = source.splitlines()
    begun += [
        (number, line.strip()[2:].strip())
        for number, line in enumerate(lines, 1)
        if line.strip().startswith("#:") and not lines[number - 2].strip().startswith("#:")
    ]
    found = [f"{path.name}:{line}: {text[:80]!r}" for line, text in begun if re.split(r"\W", text)[0] in HEADLESS]
    assert found == []


def test_no_docstring_of_tests_and_benchmarks_begins_with_give_say_or_tell():
    paths = [path for root in ("tests", "benchmarks", "examples") for path in (REPOSITORY / root).rglob("*.py")]
    begun = [text for path in paths for _, text in docstrings(ast.parse(path.read_text("utf-8")))]
    assert [text for text in begun if re.match(r"(Give|Say|Tell|Let)s?\b", text)] == []
