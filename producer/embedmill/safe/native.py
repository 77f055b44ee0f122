"""Calls into libraries of other languages: what they throw is an error of ours, and what they print is not seen."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from embedmill.errors import InferenceError

#: What asks a process or a generator to end. All else that is thrown is a failure of the work, whatever its class:
#: a panic of Rust is a BaseException.
STOPS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)

#: Two threads that set the descriptor aside by turns would never get it back.
_ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def guarded(model: str, what: str) -> Iterator[None]:
    """Raise an error of ours for whatever a library throws; its own words may quote the input and are dropped.

    Args:
        model: its name, for the error.
        what: what failed, for the error.

    Raises:
        InferenceError: something was thrown.
        MemoryError: there was not enough.
    """
    try:
        yield
    except STOPS:
        raise
    except BaseException as error:
        raise_if_memory(error)
        raise InferenceError(model, f"{what} ({type(error).__name__})") from None


def raise_if_memory(error: BaseException) -> None:
    """Raise MemoryError if that is what is meant: back ends say so in words only."""
    words = str(error).lower()
    if isinstance(error, MemoryError) or "bad_alloc" in words or "failed to allocate memory" in words:
        raise MemoryError("the back end could not allocate memory") from None


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what is written to descriptor 2 meanwhile, by any thread of this process.

    Rust writes a panic's message there, which may quote the text, before Python sees an exception, and offers Python
    no switch for it. Takes 2 µs. A process without a free descriptor goes on unsilenced.
    """
    with _ONE_AT_A_TIME:
        kept = _set_aside()
        try:
            yield
        finally:
            if kept is not None:
                os.dup2(kept, 2)
                os.close(kept)


def _set_aside() -> int | None:
    """Let descriptor 2 lead nowhere; return where it led, or None if it stays as it is."""
    try:
        kept = os.dup(2)
    except OSError:
        return None
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(kept)
        return None
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return kept
