"""Which rows a whole run has not met. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from embedmill.reindexing.seen import Seen


def vanished(rows: Iterable[tuple[int, str, str]], seen: Seen, *, all_missing: bool) -> Iterator[str]:
    """Give the ids of parts that their documents no longer have and, if ``all_missing``, of all that was not met.

    Args:
        rows: (number, id, parent or "") of every row, the parts of a document together.
        seen: numbers that were met.
        all_missing: a record that was not met is gone, and so are all parts of a document of which none was met.
    """
    document, is_present, unseen = "", False, list[str]()
    for number, id, parent in rows:
        if not parent:
            if all_missing and number not in seen:
                yield id
            continue
        if parent != document:
            yield from unseen if is_present or all_missing else ()
            document, is_present, unseen = parent, False, []
        if number in seen:
            is_present = True
        else:
            unseen.append(id)
    yield from unseen if is_present or all_missing else ()
