"""Index of a fastText file's dictionary: sorted hashes, and the position of each word in the file."""

import json
import logging
import mmap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from embedmill_worker.models.disk import atomic_file, locked_folder, read_json, sha256_of, write_atomically
from embedmill_worker.models.formats.fnv import hashes

#: Maximum bytes of a word. fastText has no limit, and web crawls hold words of some thousands of bytes.
MAX_WORD_BYTES: Final = 65_535
#: Bytes of an entry after its word: a zero, an int64 count and an int8 type.
ENTRY_BYTES: Final = 10
#: Minimum words for an index to be kept in the data folder; a smaller one is built in 0.2 s.
KEPT_FROM_WORDS: Final = 500_000
#: Part of the name of the index's folder; raise it when the layout changes.
_VERSION = 1
#: Number of words that are hashed at once.
_BLOCK = 65_536

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordIndex:
    """Index of the words in a mapped file; 12 bytes per word, shared by all processes."""

    #: uint32 (3, words): sorted FNV-1a hashes of all words; the word of each hash; the start of each word, by its id.
    table: NDArray[np.uint32]
    #: Offset of the first byte after the dictionary.
    end: int
    #: sha256 of everything before `end`.
    sha256: str

    def find(self, data: mmap.mmap, words: Sequence[bytes], fnv: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return the ids of words, (n,), -1 for unknown ones; for a duplicate word its last id, as in fastText."""
        ids = np.full(len(words), -1, dtype=np.int64)
        sorted_hashes, owners, starts = self.table
        last = np.searchsorted(sorted_hashes, fnv, side="right") - 1
        for i in np.flatnonzero(sorted_hashes[last] == fnv).tolist():
            word, place = words[i], int(last[i])
            if b"\0" in word:
                continue
            while place >= 0 and sorted_hashes[place] == fnv[i]:
                start = int(starts[owners[place]])
                if data[start : start + len(word) + 1] == word + b"\0":
                    ids[i] = owners[place]
                    break
                place -= 1
        return ids

    @classmethod
    def build(cls, data: mmap.mmap, start: int, words: int, labels: int) -> Self:
        """Build the index of a dictionary; 2 million words take 0.8 s.

        Raises:
            ValueError: the dictionary is damaged.
        """
        total = words + labels
        if start + total * (ENTRY_BYTES + 1) > len(data):
            raise ValueError(f"its dictionary of {total} entries does not fit into {len(data)} bytes; restore it")
        ends = np.frombuffer(_ends(data, start, total), dtype=np.uint32).astype(np.int64)
        end = int(ends[-1]) + ENTRY_BYTES
        flat = np.frombuffer(data, dtype=np.int8)
        if not np.array_equal(flat[ends + ENTRY_BYTES - 1], np.repeat(np.array([0, 1], np.int8), [words, labels])):
            raise ValueError(f"its dictionary does not hold {words} words and then {labels} labels; restore it")
        starts = np.concatenate(([start], ends[:-1] + ENTRY_BYTES))
        fnv = np.concatenate(
            [hashes(flat, starts[i : i + _BLOCK], (ends - starts)[i : i + _BLOCK]) for i in range(0, total, _BLOCK)]
        )
        order = np.argsort(fnv, kind="stable")
        table = np.stack([fnv[order], order.astype(np.uint32), starts.astype(np.uint32)])
        return cls(table=table, end=end, sha256=digest(data, end))

    @classmethod
    def cached(cls, data: mmap.mmap, start: int, words: int, labels: int, folder: Path) -> Self:
        """Return the index of a dictionary; a large one is built once, under a lock, and mapped from `folder`.

        A stored index is used only if the dictionary and the index have the digests stored with it.

        Raises:
            ValueError: the dictionary is damaged.
        """
        if words + labels < KEPT_FROM_WORDS:
            return cls.build(data, start, words, labels)
        head = sha256(f"{_VERSION} {len(data)} ".encode() + data[: 1 << 16]).hexdigest()[:32]
        place = folder / head
        if index := cls._load(place, data, words + labels):
            return index
        try:
            with locked_folder(place):
                if index := cls._load(place, data, words + labels):
                    return index
                log.info(
                    "building the index of %d words; this happens once per file",
                    words + labels,
                    extra={"action": "index_words"},
                )
                built = cls.build(data, start, words, labels)
                built._store(place)
                return cls._load(place, data, words + labels) or built
        except OSError as error:
            log.warning(
                "the index of words cannot be kept, so the next start builds it again: %s",
                error,
                extra={"action": "index_words"},
            )
            return cls.build(data, start, words, labels)

    @classmethod
    def _load(cls, place: Path, data: mmap.mmap, total: int) -> Self | None:
        try:
            note = read_json(place / "manifest.json")
            end = int(note["end"])
            if note["sha256"] != sha256_of(place / "index.npy") or end > len(data):
                return None
            if note["dictionary_sha256"] != digest(data, end):
                return None
            table = np.load(place / "index.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if table.shape != (3, total) or table.dtype != np.uint32:
            return None
        return cls(table=np.asarray(table), end=end, sha256=str(note["dictionary_sha256"]))

    def _store(self, place: Path) -> None:
        with atomic_file(place / "index.npy") as file:
            np.save(file, self.table, allow_pickle=False)
        note = {"end": self.end, "dictionary_sha256": self.sha256, "sha256": sha256_of(place / "index.npy")}
        write_atomically(place / "manifest.json", json.dumps(note).encode())


def digest(data: mmap.mmap, end: int) -> str:
    """Return the sha256 of everything before `end`."""
    with memoryview(data) as view:
        return sha256(view[:end]).hexdigest()


def _ends(data: mmap.mmap, start: int, total: int) -> "array[int]":
    """Return the end of each entry's word. Entries do not state their length, so they are read one by one."""
    ends = array("I")
    find, append = data.find, ends.append
    limit = min(len(data), 1 << 32) - ENTRY_BYTES
    for entry in range(total):
        end = find(b"\0", start, start + MAX_WORD_BYTES + 1)
        if end <= start or end > limit:
            raise ValueError(
                f"entry {entry} of {total} of its dictionary is empty, longer than {MAX_WORD_BYTES} bytes, cut off or "
                "beyond 4 GiB; restore the file"
            )
        append(end)
        start = end + ENTRY_BYTES
    return ends
