"""Chromium as people have it, driven by playwright: the Debian package, not a browser that playwright fetches."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: Milliseconds that any one thing may take; generous, so that a busy machine fails no test.
PATIENCE_MS = 120_000

#: Names of the binary in distributions.
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Return the binary; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on the PATH: tests of the page were not run; install the package chromium")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless browser; as root it runs without its sandbox."""
    from playwright.sync_api import expect, sync_playwright

    binary = find_chromium()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=binary, args=arguments, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()
