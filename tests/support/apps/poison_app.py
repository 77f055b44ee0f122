"""A worker whose engine does what a marked text says: it exists in the tests alone.

Run as ``celery -A poison_app worker`` with this folder on PYTHONPATH.
"""

import ctypes
import dataclasses
import os
import resource
import signal

import psutil
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from embedmill.errors import InferenceError
from embedmill_worker.engine import engines
from embedmill_worker.jobs import processor

#: What the memory of a process may grow by when a text eats it: the machine is shared.
ROOM_BYTES = 128 << 20


def limit_memory() -> None:
    """Leaves this process little room; given back by nobody, as it is about to die or to be told."""
    room = psutil.Process().memory_info().vms + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


def eat_in_python() -> None:
    limit_memory()
    try:
        eaten = [bytearray(16 << 20) for _ in range(1_000)]
        raise AssertionError(f"{len(eaten)} blocks fitted")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def eat_in_c() -> None:
    limit_memory()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while libc.malloc(ctypes.c_size_t(16 << 20)):
        pass
    libc.abort()  # as C++ does with an uncaught std::bad_alloc


def raise_(error: BaseException) -> None:
    raise error


def panic() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer.encode("a" * 40 + "!")


def take_long() -> None:
    """Work in short native calls: a SIGTERM that comes just before a long one is only seen after it."""
    while True:
        ctypes.CDLL(None).usleep(10_000)


ACTS = {
    "panics": panic,
    "exits": lambda: raise_(SystemExit(3)),
    "late": lambda: None,
    "segfault": lambda: ctypes.string_at(0),
    "oom-killer": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "eats-python": eat_in_python,
    "eats-native": eat_in_c,
    "takes-long": take_long,
    "hangs-with-gil": lambda: ctypes.PyDLL(None).sleep(600),
    "hangs-without-gil": lambda: ctypes.CDLL(None).sleep(600),
    "fails": lambda: raise_(InferenceError("m", "torn")),
    "unforeseen": lambda: raise_(RuntimeError("zebra quartz")),
}


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A tokenizer that obeys ``☠act`` at the beginning of a text."""

    inner: object

    def encode(self, texts, prefix=""):
        for text in texts:
            if text.startswith("☠quotes"):
                raise ValueError(text)
            if text.startswith("☠"):
                ACTS[text.split()[0][1:]]()
        return self.inner.encode(texts, prefix)


load = engines.load


def load_poisoned(files, **how):
    engine = load(files, **how)
    return dataclasses.replace(engine, tokenizer=Poisoned(engine.tokenizer))


engines.load = load_poisoned

to_reply = processor.to_reply


def to_reply_or_fail(embeddings, chunk, *rest):
    if any(text.startswith("☠late") for text in chunk.texts):
        raise ValueError(chunk.texts)
    return to_reply(embeddings, chunk, *rest)


processor.to_reply = to_reply_or_fail

from embedmill_worker.app import app  # noqa: E402, F401
