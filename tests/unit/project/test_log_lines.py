"""Messages that the docs quote are those that the code writes.

A quotation stands in backticks, holds an ellipsis for what varies, and has three words or more. It may be a part
of the line. It is compared with the strings of the source, in which a placeholder stands for anything.
"""

import ast
import re
from functools import cache

import pytest

from conftest import REPOSITORY

PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
SOURCES = [*(REPOSITORY / "producer").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")]

#: What varies: in a quotation an ellipsis or N, in the source a placeholder.
ANY = "\0"

#: Share of a quotation's letters that must stand in the source's string, and not in the place of a placeholder.
WRITTEN = 0.5

#: Quotations of programs and data, which also have ellipses.
CODE = re.compile(r"[{\[]|\w+\(")


def quotations(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\||- |\d+\. )", text):
        for span in block.split("`")[1::2]:
            quoted = " ".join(span.split())
            if "…" in quoted and quoted.count(" ") >= 2 and not CODE.match(quoted):
                yield quoted


@cache
def written():
    """Every string of the source, with ``ANY`` in the place of each placeholder."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else ANY for part in node.values)
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[-+0-9.#]*[sdfgr]", ANY, node.value))
    return sorted(found)


def overlap(quoted, source):
    """Return the most letters that both have in the same places, whatever varies stands for; -1: they never agree."""
    below = [-1] * (len(source) + 1)
    below[-1] = 0
    rows = [below]
    for i in range(len(quoted), -1, -1):
        row = [-1] * (len(source) + 1)
        for j in range(len(source), -1, -1):
            if i == len(quoted):
                ways = [0] if j == len(source) else [row[j + 1]] if source[j] == ANY else [-1]
            else:
                after = rows[-1]
                ways = [-1]
                if quoted[i] == ANY:
                    ways += [after[j], *([row[j + 1]] if j < len(source) else [])]
                if j < len(source) and source[j] == ANY:
                    ways += [row[j + 1], after[j]]
                if j < len(source) and quoted[i] == source[j] != ANY and after[j + 1] >= 0:
                    ways.append(after[j + 1] + quoted[i].isalnum())
            row[j] = max(ways)
        rows.append(row)
    return rows[-1][0]


def is_written(quoted):
    pattern = ANY + re.sub(r"\bN\b|…", ANY, quoted) + ANY
    needed = WRITTEN * sum(map(str.isalnum, pattern))
    words = set(re.findall(r"[A-Za-z_]{4,}", pattern))
    alike = (source for source in written() if 2 * len(words & set(re.findall(r"[A-Za-z_]{4,}", source))) >= len(words))
    return any(overlap(pattern, source) >= needed for source in alike)


@pytest.mark.parametrize(
    ("page", "quoted"), [pytest.param(page, quoted, id=quoted) for page in PAGES for quoted in quotations(page)]
)
def test_a_message_that_a_page_quotes_is_written_by_the_code(page, quoted):
    assert is_written(quoted), f"no string of the source reads like this line of {page.name}"


@pytest.mark.parametrize(
    ("quoted", "source", "agree"),
    [
        ("a child was killed under chunk …", "a child %s under chunk %s; it is back", True),
        ("N lost chunks are back", "%d lost chunks are back", True),
        ("beat failed: …", "%s failed: %s", True),
        ("a child was killed under chunk …", "a child %s beside chunk %s; it is back", False),
        ("the lane … is gone", "%s", False),
    ],
)
def test_lines_are_compared_by_what_is_written(monkeypatch, quoted, source, agree):
    monkeypatch.setitem(globals(), "written", lambda: [re.sub(r"%[sd]", ANY, source)])
    assert is_written(quoted) is agree
