"""``client.dead``: what the workers gave up, to be listed, shown, tried again or dropped."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, Final

from embedmill import dead_letter
from embedmill.calls import SubmitOptions
from embedmill.dead_letter import DeadLetter
from embedmill.errors import InvalidRequestError, MessageError, UnknownLetterError
from embedmill.flows import Ask, Flow
from embedmill.harmless import kind
from embedmill.keys import Keyspace
from embedmill.limits import MAX_DEAD_LETTERS

if TYPE_CHECKING:
    from embedmill.aio import AsyncEmbeddingClient, AsyncJob
    from embedmill.calls import Calls
    from embedmill.client import EmbeddingClient, Job

#: Letters read in one round trip: at most 2.5 MB, if all of them hold texts.
PAGE: Final = 100

#: Seconds that the reply of a text tried again lives.
REQUEUED_TTL_S: Final = 86_400.0


class DeadLetters:
    """The dead letters of one client's namespace."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client

    def list(self, *, limit: int = 100) -> builtins.list[DeadLetter]:
        """Give the newest letters, the newest first; one that cannot be read has the reason ``unreadable``.

        Raises:
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(list_newest(self._client._calls.keys, check_limit(limit)))

    def get(self, letter_id: str) -> DeadLetter:
        """Give one letter.

        Raises:
            UnknownLetterError: there is none of this id.
            MessageError: it cannot be read.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client._run(read(self._client._calls.keys, letter_id))

    def requeue(self, letter_id: str, text: str | None = None) -> Job:
        """Submit the text again as a job of its own, with the options it had, and drop the letter.

        Args:
            letter_id: whose.
            text: the text, if it was not kept; it must be the same.

        Raises:
            InvalidRequestError: the text was not kept and not given, or is another one.
            UnknownLetterError: there is no letter of this id.
            MessageError: it cannot be read.
            BrokerUnavailableError: Redis did not answer in time.
        """
        return self._client.job(self._client._run(requeue(self._client._calls, letter_id, text)))

    def drop(self, letter_id: str) -> bool:
        """Forget a letter. Gives whether there was one."""
        return self._client._run(drop(self._client._calls.keys, letter_id))

    def drop_all(self) -> int:
        """Forget all letters; gives their number."""
        return self._client._run(drop_all(self._client._calls.keys))


class AsyncDeadLetters:
    """``DeadLetters``, awaited."""

    def __init__(self, client: AsyncEmbeddingClient) -> None:
        self._client = client

    async def list(self, *, limit: int = 100) -> builtins.list[DeadLetter]:
        """Give the newest letters; see ``DeadLetters.list``."""
        return await self._client._run(list_newest(self._client._calls.keys, check_limit(limit)))

    async def get(self, letter_id: str) -> DeadLetter:
        """Give one letter; see ``DeadLetters.get``."""
        return await self._client._run(read(self._client._calls.keys, letter_id))

    async def requeue(self, letter_id: str, text: str | None = None) -> AsyncJob:
        """Submit the text again; see ``DeadLetters.requeue``."""
        return self._client.job(await self._client._run(requeue(self._client._calls, letter_id, text)))

    async def drop(self, letter_id: str) -> bool:
        """Forget a letter; see ``DeadLetters.drop``."""
        return await self._client._run(drop(self._client._calls.keys, letter_id))

    async def drop_all(self) -> int:
        """Forget all letters; see ``DeadLetters.drop_all``."""
        return await self._client._run(drop_all(self._client._calls.keys))


def check_limit(limit: int) -> int:
    """Give the limit back.

    Raises:
        InvalidRequestError: not a whole number from 1 to what is kept.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_DEAD_LETTERS:
        raise InvalidRequestError("limit", f"{kind(limit)} is not an int from 1 to {MAX_DEAD_LETTERS}")
    return limit


def list_newest(keys: Keyspace, limit: int) -> Flow[list[DeadLetter]]:
    """Read the newest letters, page by page."""
    letters: list[DeadLetter] = []
    end = "+"
    while len(letters) < limit:
        count = min(PAGE, limit - len(letters))
        (entries,) = yield Ask([("XREVRANGE", keys.dead, end, "-", "COUNT", count)])
        letters += [_shown(entry) for entry in entries]
        if len(entries) < count:
            break
        end = f"({entries[-1][0].decode()}"
    return letters


def read(keys: Keyspace, letter_id: str) -> Flow[DeadLetter]:
    """Read a letter.

    Raises:
        UnknownLetterError: there is none of this id.
        MessageError: it cannot be read.
    """
    dead_letter.check_id(letter_id)
    (entries,) = yield Ask([("XRANGE", keys.dead, letter_id, letter_id)])
    if not entries:
        raise UnknownLetterError(letter_id)
    return _unpack(entries[0])


def requeue(calls: Calls, letter_id: str, text: str | None) -> Flow[str]:
    """Submit a letter's text and drop the letter; gives the new job's id.

    The id is made of the letter's: if the answer gets lost and this is done again, there is still one job.
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
    """Forget a letter."""
    (dropped,) = yield Ask([("XDEL", keys.dead, dead_letter.check_id(letter_id))])
    return bool(dropped)


def drop_all(keys: Keyspace) -> Flow[int]:
    """Forget all letters."""
    (dropped,) = yield Ask([("XTRIM", keys.dead, "MAXLEN", 0)])
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
