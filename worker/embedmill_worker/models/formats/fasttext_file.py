"""fastText's files (`*.bin`): their header, the position of their input matrix, and whether they can be served.

The layout is that of `FastText::saveModel` in fastText 0.9.3: magic, version, arguments, dictionary, a flag for
quantised matrices, the input matrix, a flag, the output matrix; all little-endian and packed.
"""

import mmap
import os
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from embedmill.errors import ModelLoadError
from embedmill.limits import MAX_DIMENSION
from embedmill.safe.regular_file import open_regular
from embedmill_worker.models.disk import is_file, is_folder, told
from embedmill_worker.models.formats.fasttext_words import WordIndex

#: Maximum words of a text that are used. fastText has no limit; this one, 16 pages, bounds the cost of a text.
MAX_TOKENS: Final = 8_192

_MAGIC = 793_712_314
_VERSIONS = (11, 12)
_SUPERVISED = 3
_MODELS = (1, 2, _SUPERVISED)
#: Maximum characters of a subword, and words of a word n-gram; far beyond real use, it bounds the cost of a file.
_MAX_NGRAM = 32
_HEAD = struct.Struct("<2i12id")
_COUNTS = struct.Struct("<3i2q")
_SHAPE = struct.Struct("<?2q")
#: Number of evenly spread pages of the matrix that the fingerprint covers, and their size.
_SAMPLED_PAGES = 256
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Arguments that determine the vectors; an instance exists only if it can be served.

    Raises:
        ValueError: a value is invalid.
    """

    dimension: int
    is_supervised: bool
    #: Maximum words of an n-gram with rows; 1: no n-grams.
    word_ngrams: int
    #: Number of rows that all n-grams share.
    bucket: int
    #: Minimum and maximum characters of a subword; `maxn` 0: no subwords.
    minn: int
    maxn: int

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"its dimension is {self.dimension}, which is not from 1 to {MAX_DIMENSION}")
        for what, value in (("maxn", self.maxn), ("wordNgrams", self.word_ngrams)):
            if value > _MAX_NGRAM:
                raise ValueError(f"its {what} is {value}, limit {_MAX_NGRAM}")
        if self.bucket < 0 or (self.bucket == 0 and (self.maxn > 0 or (self.is_supervised and self.word_ngrams > 1))):
            raise ValueError(f"it has n-grams and {self.bucket} buckets for them; restore it")


@dataclass(frozen=True, slots=True, kw_only=True)
class FastTextFile:
    """A fastText model on this machine's disk, with consistent sizes."""

    #: Name that users give it.
    name: str
    path: Path
    header: Header
    #: Number of words, without labels.
    words: int
    #: Number of rows of the input matrix: words, then buckets.
    rows: int
    #: Offset of the input matrix.
    matrix_start: int
    #: sha256 of header, dictionary, sizes and 256 pages of the matrix.
    sha256: str
    index: WordIndex = field(repr=False, compare=False)

    @property
    def revision(self) -> str:
        """Empty, because these files have no recorded origin."""
        return ""

    @property
    def paths(self) -> dict[str, Path]:
        """Files in use, by role."""
        return {"model": self.path}

    @property
    def precision(self) -> str:
        """Precision of the stored matrix."""
        return "fp32"


def fasttext_in(path: Path) -> Path | None:
    """Return the fastText file at a path: the path itself, by its suffix, or the only one in a folder without others.

    Raises:
        OSError: this process may not check it.
    """
    is_in_folder = is_folder(path)
    if path.suffix in (".bin", ".ftz") and not is_in_folder:
        return path
    if not is_in_folder or is_file(path / "tokenizer.json") or is_file(path / "config.json"):
        return None
    found = sorted(file for file in path.iterdir() if file.suffix in (".bin", ".ftz") and _has_magic(file))
    return found[0] if len(found) == 1 else None


def read_fasttext(name: str, path: Path, *, data_dir: Path) -> FastTextFile:
    """Describe a fastText file; its index of words is kept in `data_dir` if it is large.

    Raises:
        ModelLoadError: the file is damaged or not supported; the message gives a hint.
    """
    path = path.expanduser().absolute()
    with told(name, instead="name another file"):
        try:
            return _read(name, path, mapped(path), data_dir / "fasttext")
        except ValueError as error:
            raise ModelLoadError(name, f"{path}: {error}") from None


def mapped(path: Path) -> mmap.mmap:
    """Map a file read-only and shared; the mapping lives as long as it or an array over it is used.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is empty.
    """
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("is empty; restore it")
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def _read(name: str, path: Path, data: mmap.mmap, folder: Path) -> FastTextFile:
    header = _header(data)
    total, words, labels, _tokens, pruned = _unpack(_COUNTS, data, _HEAD.size, "dictionary")
    if words < 1 or labels < 0 or words + labels != total:
        raise ValueError(f"its dictionary counts {total} entries, {words} words and {labels} labels; restore it")
    if pruned >= 0:
        raise ValueError("it is pruned, as quantised models are; name the .bin that it was made from")
    index = WordIndex.cached(data, _HEAD.size + _COUNTS.size, words, labels, folder)
    quantised, rows, columns = _unpack(_SHAPE, data, index.end, "input matrix")
    if quantised:
        raise ValueError("it is quantised (.ftz); name the .bin that it was made from")
    if rows != words + header.bucket or columns != header.dimension:
        expected = f"{words + header.bucket} × {header.dimension}"
        raise ValueError(f"its input matrix is {rows} × {columns}, {expected} was expected; restore it")
    start = index.end + _SHAPE.size
    matrix_end = start + rows * columns * 4
    if matrix_end > len(data):
        raise ValueError(f"its input matrix ends at byte {matrix_end}, the file at {len(data)}; restore it")
    _, out_rows, out_columns = _unpack(_SHAPE, data, matrix_end, "output matrix")
    end = matrix_end + _SHAPE.size + out_rows * out_columns * 4
    if min(out_rows, out_columns) < 0 or end > len(data):
        raise ValueError(f"its output matrix, {out_rows} × {out_columns}, ends beyond byte {len(data)}; restore it")
    return FastTextFile(
        name=name,
        path=path,
        header=header,
        words=words,
        rows=rows,
        matrix_start=start,
        sha256=_digest(data, index, start, matrix_end),
        index=index,
    )


def _header(data: mmap.mmap) -> Header:
    if len(data) < 4 or data[:4] != struct.pack("<i", _MAGIC):
        raise ValueError(
            "is not a fastText model: its first bytes differ from those of all models since 2017; name another file"
        )
    _, version, *arguments = _unpack(_HEAD, data, 0, "header")
    if version not in _VERSIONS:
        raise ValueError(f"its format is version {version}, not 11 or 12; save it with fastText 0.9")
    dimension, _, _, _, _, word_ngrams, _, model, bucket, minn, maxn, _, _ = arguments
    if model not in _MODELS:
        raise ValueError(f"its model is number {model}, not one of {', '.join(map(str, _MODELS))}; restore it")
    is_supervised = model == _SUPERVISED
    return Header(
        dimension=dimension,
        is_supervised=is_supervised,
        word_ngrams=word_ngrams,
        bucket=bucket,
        minn=minn,
        # As in fastText, supervised models of version 11 have no subwords.
        maxn=0 if is_supervised and version == _VERSIONS[0] else max(0, maxn),
    )


def _unpack(layout: struct.Struct, data: mmap.mmap, start: int, what: str) -> tuple[int, ...]:
    if start + layout.size > len(data):
        raise ValueError(f"it ends at byte {len(data)}, within its {what}; restore it")
    return layout.unpack_from(data, start)


def _digest(data: mmap.mmap, index: WordIndex, start: int, end: int) -> str:
    """Return the sha256 of header, dictionary and a sample of the matrix; see docs/decisions/0007."""
    taken = sha256(f"{index.sha256} {len(data)} {start} {end} ".encode())
    last = max(start, end - _PAGE_BYTES)
    data.madvise(mmap.MADV_RANDOM)  # otherwise each page loads its neighbours, up to megabytes on some disks
    step = max(_PAGE_BYTES, (last - start) // (_SAMPLED_PAGES - 1))
    for place in (*range(start, last, step), last):
        taken.update(data[place : min(place + _PAGE_BYTES, end)])
    return taken.hexdigest()


def _has_magic(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(4) == struct.pack("<i", _MAGIC)
    except PermissionError:
        raise
    except OSError:
        return False
