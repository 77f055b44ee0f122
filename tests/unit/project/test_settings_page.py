"""docs/settings.md says what the code reads: no variable more, none less."""

import re
from pathlib import Path

from support import settings_page

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_page_is_what_the_commands_help_says():
    assert settings_page.PAGE.read_text("utf-8") == settings_page.page(settings_page.variables()), "run: make settings"


def test_every_variable_of_the_source_is_on_the_page_and_no_other():
    sources = [*(REPOSITORY / "producer").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")]
    read = {name for path in sources for name in re.findall(r'"(EMBEDMILL_[A-Z0-9_]+)"', path.read_text("utf-8"))}
    shown = {*settings_page.variables(), *settings_page.OTHERS}
    assert read - settings_page.INTERNAL <= shown
    assert set(settings_page.OTHERS) <= read
