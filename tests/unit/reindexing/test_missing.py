"""Which rows are gone: parts of documents that are there, and all else only when asked."""

import pytest

from embedmill.reindexing.planning.missing import SeenRows, vanished

#: As the ledger gives them: those without a document first, then documents together.
ROWS = [
    (1, "alone", ""),
    (2, "another", ""),
    (3, "a.md#0", "a.md"),
    (4, "a.md#1", "a.md"),
    (5, "a.md#2", "a.md"),
    (6, "b.md#0", "b.md"),
    (7, "b.md#1", "b.md"),
]


@pytest.mark.parametrize(
    ("met", "of_documents", "of_all"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [], []),
        ([2, 3, 4, 5, 6, 7], [], ["alone"]),
        ([1, 2, 3, 6, 7], ["a.md#1", "a.md#2"], ["a.md#1", "a.md#2"]),
        ([1, 2, 5, 6, 7], ["a.md#0", "a.md#1"], ["a.md#0", "a.md#1"]),
        ([1, 2, 3, 4, 5], [], ["b.md#0", "b.md#1"]),
        ([1, 2, 3, 4, 5, 7], ["b.md#0"], ["b.md#0"]),
        ([], [], [id for _, id, _ in ROWS]),
    ],
)
def test_what_is_gone(met, of_documents, of_all):
    seen = SeenRows()
    for number in met:
        seen.add(number)
    assert list(vanished(ROWS, seen, all_missing=False)) == of_documents
    assert sorted(vanished(ROWS, seen, all_missing=True)) == sorted(of_all)
