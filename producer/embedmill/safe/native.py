"""Calls into native libraries: their exceptions become embedmill's errors, and what they print is dropped."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from embedmill.errors import InferenceError

#: Exceptions that ask a process or a generator to end. Every other BaseException is a failure of the work; a panic in
#: Rust is one.
STOPS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)

#: Lock around the redirection of descriptor 2: if two threads overlapped, it would not be restored.
_ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def guarded(model: str, what: str) -> Iterator[None]:
    """Raise InferenceError for any exception of a native library. Its message may quote the input, so it is dropped.

    Args:
        model: the model's name, for the error.
        what: what failed, for the error.

    Raises:
        InferenceError: the block raised an exception.
        MemoryError: the library could not allocate memory.
    """
    try:
        yield
    except STOPS:
        raise
    except BaseException as error:
        raise_if_memory(error)
        raise InferenceError(model, f"{what} ({type(error).__name__})") from None


def raise_if_memory(error: BaseException) -> None:
    """Raise MemoryError if the error means that; back ends say so only in their message."""
    words = str(error).lower()
    if isinstance(error, MemoryError) or "bad_alloc" in words or "failed to allocate memory" in words:
        raise MemoryError("the back end could not allocate memory") from None


@contextmanager
def silenced() -> Iterator[None]:
    """Drop what any thread of this process writes to descriptor 2 during the block.

    Before Python sees the exception, Rust writes a panic's message there, which may quote the text; Python cannot turn
    that off. This takes 2 µs. If no descriptor is free, nothing is dropped.
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
    """Redirect descriptor 2 to the null device; return a duplicate of the former one, or None if that failed."""
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
