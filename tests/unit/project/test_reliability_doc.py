"""docs/reliability.md names tests that exist, and a test for every row of its table."""

import re

import pytest

from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "reliability.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED, ids="::".join)
def test_a_named_test_exists(path, name):
    assert re.search(rf"^(    )?def {name}\(", (REPOSITORY / path).read_text("utf-8"), re.MULTILINE)


def test_every_fault_names_its_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what"))]
    assert len(rows) >= 14
    assert all("::test_" in row for row in rows)
