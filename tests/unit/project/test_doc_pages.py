"""Pages of the docs: each says what it is for and links to what is there; newer ones keep their sentences short."""

import re

import pytest

from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINKING = [
    *PAGES,
    *sorted((DOCS / "decisions").glob("*.md")),
    *(REPOSITORY / f"{n}.md" for n in ("README", "CONTRIBUTING")),
]

#: Words of a sentence, in pages that were written with this bound.
LONGEST_SENTENCE = 30
NAMES = ("architecture", "client", "gateway", "glossary", "jobs", "protocol", "settings", "start")
BOUNDED = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(DOCS / f"{name}.md" for name in NAMES)]


def name(path):
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_begins_with_its_question_and_its_readers(page):
    title, intro, *_ = page.read_text("utf-8").split("\n\n")
    assert title.startswith("# ")
    assert intro.startswith("This page ")
    assert " for " in " ".join(intro.split())
    assert len(re.findall(r"\.(?=\s|$)", intro)) <= 2


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(REPOSITORY), target
        assert not anchor or anchor in anchors(found), target


def sentences(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:- |\d+\. |\|))", text):
        for cell in block.split(" | "):
            plain = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "CODE", " ".join(cell.split())))
            yield from re.split(r"(?<=[.!?:;])\s", plain)


@pytest.mark.parametrize("page", BOUNDED, ids=name)
def test_no_sentence_is_long(page):
    long = [each for each in sentences(page) if len(re.findall(r"\w[\w'’.,/-]*", each)) > LONGEST_SENTENCE]
    assert long == []


def test_the_picture_names_every_folder_of_both_packages():
    shown = set(
        re.findall(
            r"\w+", re.sub(r"<style>.*?</style>", "", (DOCS / "architecture.svg").read_text("utf-8"), flags=re.S)
        )
    )
    for package in (REPOSITORY / "producer" / "embedmill", REPOSITORY / "worker" / "embedmill_worker"):
        assert {path.parent.name for path in package.glob("*/__init__.py")} <= shown


def test_the_page_on_architecture_names_every_folder_and_each_file_that_it_names_is_there():
    page = (DOCS / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/.]+)`", page))
    packages = [REPOSITORY / "producer" / "embedmill", REPOSITORY / "worker" / "embedmill_worker"]
    for package in packages:
        assert {path.parent.name for path in package.glob("*/__init__.py")} <= named
    for path in (each for each in named if each.endswith((".py", ".lua"))):
        places = [*(package / path for package in packages), REPOSITORY / path, packages[0] / "protocol" / "lua" / path]
        assert any(place.exists() for place in places), path


def test_the_code_uses_the_words_of_the_glossary():
    terms = re.findall(r"^- \*\*(.+?)\*\*", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert terms == sorted(terms)
    sources = [path for root in ("producer", "worker") for path in (REPOSITORY / root).rglob("*.py")]
    code = " ".join(path.read_text("utf-8").lower() for path in sources)
    assert [term for term in terms if term not in code and term.replace(" ", "_") not in code] == []
