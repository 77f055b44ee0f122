"""Reads an input file once, before anything of it is embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from embedmill_worker.batches.lines import FileCheck, InvalidLineError, RawLine, read_lines
from embedmill_worker.batches.threads import in_thread

#: Lines that are checked at a time.
CHECK_LINES: Final = 500


async def check_file(path: Path, *, max_line_bytes: int) -> FileCheck:
    """Return what is known of a file, its faults included.

    Raises:
        OSError: it cannot be read.
    """
    check = FileCheck()
    with await asyncio.to_thread(path.open, "rb") as file:
        lines = read_lines(file, number=0, max_bytes=max_line_bytes)
        try:
            while not check.is_over and await in_thread(_check, check, lines):
                pass
        except InvalidLineError as error:
            check.fail(error.fault)
    check.finish()
    return check


def _check(check: FileCheck, lines: Iterator[RawLine]) -> bool:
    """Check the next lines; return whether there were any."""
    found = False
    for line in islice(lines, CHECK_LINES):
        found = True
        check.add(line)
        if check.is_over:
            break
    return found
