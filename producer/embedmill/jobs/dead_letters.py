"""The flows behind ``client.dead_letters``: list, read, re-queue and drop letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from embedmill.errors import MessageError, UnknownLetterError
from embedmill.jobs.request import SubmitOptions, check_limit
from embedmill.limits import MAX_DEAD_LETTERS
from embedmill.protocol import dead_letter
from embedmill.protocol.dead_letter import DeadLetter
from embedmill.protocol.keys import Keyspace
from embedmill.transport.flow import Flow, RoundTrip

if TYPE_CHECKING:
    from embedmill.jobs.operations import JobOperations

#: Type of a list of letters, for classes whose method ``list`` hides the built-in.
Letters = list[DeadLetter]

#: Letters read in one round trip, which is at most 2.5 MB.
PAGE: Final = 100

#: Seconds that Redis keeps the vector of a text that was submitted again.
REQUEUED_TTL_S: Final = 86_400.0


def list_newest(keys: Keyspace, limit: int) -> Flow[Letters]:
    """Read the newest letters, page by page.

    Raises:
        InvalidRequestError: ``limit`` is out of range.
    """
    check_limit(limit, MAX_DEAD_LETTERS)
    letters: Letters = []
    end = "+"
    while len(letters) < limit:
        count = min(PAGE, limit - len(letters))
        (entries,) = yield RoundTrip([("XREVRANGE", keys.dead, end, "-", "COUNT", count)])
        letters += [_shown(entry) for entry in entries]
        if len(entries) < count:
            break
        end = f"({entries[-1][0].decode()}"
    return letters


def read(keys: Keyspace, letter_id: str) -> Flow[DeadLetter]:
    """Read a letter.

    Raises:
        UnknownLetterError: no letter has this id.
        MessageError: the letter cannot be read.
    """
    dead_letter.check_id(letter_id)
    (entries,) = yield RoundTrip([("XRANGE", keys.dead, letter_id, letter_id)])
    if not entries:
        raise UnknownLetterError(letter_id)
    return _unpack(entries[0])


def requeue(calls: JobOperations, letter_id: str, text: str | None) -> Flow[str]:
    """Submit a letter's text, drop the letter and return the new job's id.

    The job's id is made from the letter's, so a repetition after a lost answer submits no second job.
    """
    letter = yield from read(calls.keys, letter_id)
    found = dead_letter.text_to_requeue(letter, text)
    how = SubmitOptions(
        model=letter.model, lane=letter.lane, job_id=f"requeued-{letter_id}", ttl_s=REQUEUED_TTL_S, deadline_s=None
    )
    job_id: str = yield from calls.submit([found], letter.options, how)
    yield from drop(calls.keys, letter_id)
    return job_id


def drop(keys: Keyspace, letter_id: str) -> Flow[bool]:
    """Delete a letter and return whether it was there."""
    (dropped,) = yield RoundTrip([("XDEL", keys.dead, dead_letter.check_id(letter_id))])
    return bool(dropped)


def drop_all(keys: Keyspace) -> Flow[int]:
    """Delete all letters and return their number."""
    (dropped,) = yield RoundTrip([("XTRIM", keys.dead, "MAXLEN", 0)])
    return int(dropped)


def _shown(entry: Any) -> DeadLetter:
    try:
        return _unpack(entry)
    except MessageError as error:
        return dead_letter.unreadable(entry[0].decode(), str(error))


def _unpack(entry: Any) -> DeadLetter:
    letter_id, values = entry
    if len(values) != 2:
        raise MessageError("a dead letter is not one packed value")
    return dead_letter.unpack(letter_id.decode(), values[1])
