"""Lines of a batch's files: the requests of its input, checked, and the lines that it writes. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

import msgspec
import orjson

from embedmill_worker.batches.objects import ENDPOINT, LineFault

#: Most requests of one file, and most texts in all of them, as OpenAI has them.
MAX_LINES: Final = 50_000
MAX_INPUTS: Final = 50_000

#: Most characters of a custom_id.
MAX_ID_CHARS: Final = 512

#: Faults after which the rest of a file is not read.
MAX_FAULTS: Final = 100

_BOM: Final = b"\xef\xbb\xbf"


class InvalidLineError(Exception):
    """A line that is not a request. Argument: the fault."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault)
        self.fault = fault


class _Request(msgspec.Struct, kw_only=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Outline(msgspec.Struct, kw_only=True):
    model: Any = None
    input: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLine:
    """A line of a file that is not blank, as bytes."""

    #: Number of the line, from 1.
    number: int
    #: Bytes of the file up to its end.
    end: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """A request of an input file."""

    number: int
    custom_id: str = field(repr=False)
    #: Body of the request, JSON.
    body: bytes = field(repr=False)
    model: str | None
    n_inputs: int


def read_lines(file: IO[bytes], *, number: int, max_bytes: int) -> Iterator[RawLine]:
    """Yield the lines from the file's position on, without blank ones.

    Args:
        file: the file, at the beginning of a line.
        number: lines before that position.
        max_bytes: of one line.

    Raises:
        InvalidLineError: a line is longer.
    """
    at = file.tell()
    while data := file.readline(max_bytes + 1):
        number += 1
        if len(data) > max_bytes and not data.endswith(b"\n"):
            message = f"This line has more than {max_bytes} bytes."
            raise InvalidLineError(LineFault(code="line_too_long", message=message, line=number))
        at += len(data)
        if number == 1:
            data = data.removeprefix(_BOM)
        if data.strip():
            yield RawLine(number=number, end=at, data=data)


def parse_line(line: RawLine) -> RequestLine:
    """Return the request of a line. Its body is an object; whether it can be embedded is not checked.

    Raises:
        InvalidLineError: it is not a request for ``ENDPOINT``.
    """
    try:
        found = msgspec.json.decode(line.data, type=_Request)
        outline = msgspec.json.decode(found.body, type=_Outline)
    except msgspec.ValidationError as error:
        raise InvalidLineError(_of_shape(str(error), line.number)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _invalid(line, "invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not 1 <= len(found.custom_id) <= MAX_ID_CHARS:
        raise _invalid(line, "invalid_value", f"'custom_id' must have 1 to {MAX_ID_CHARS} characters.", "custom_id")
    if found.method != "POST":
        raise _invalid(line, "invalid_method", "'method' must be POST.", "method")
    if found.url != ENDPOINT:
        raise _invalid(line, "invalid_url", f"'url' must be the batch's endpoint, {ENDPOINT}.", "url")
    if not isinstance(outline.model, str | None):
        raise _invalid(line, "invalid_type", "'body.model' must be a string.", "body.model")
    return RequestLine(
        number=line.number,
        custom_id=found.custom_id,
        body=bytes(found.body),
        model=outline.model or None,
        n_inputs=_count(outline.input),
    )


def _invalid(line: RawLine, code: str, message: str, param: str | None = None) -> InvalidLineError:
    return InvalidLineError(LineFault(code=code, message=message, param=param, line=line.number))


def _of_shape(reason: str, number: int) -> LineFault:
    """Return the fault for what msgspec says of a value of another shape: names of fields and types alone."""
    for name in ("custom_id", "method", "url", "body"):
        if reason == f"Object missing required field `{name}`":
            message = f"Missing required parameter: '{name}'."
            return LineFault(code="missing_required_parameter", message=message, param=name, line=number)
        if f"$.{name}" in reason:
            return LineFault(code="invalid_type", message=f"'{name}' must be a string.", param=name, line=number)
    return LineFault(code="invalid_type", message="The line and its 'body' must be JSON objects.", line=number)


def _count(value: Any) -> int:
    """Return the number of texts of an ``input``."""
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


class FileCheck:
    """The check of a whole input file: each line alone, and what all of them must agree on."""

    def __init__(self) -> None:
        self.faults: list[LineFault] = []
        self.n_lines = 0
        #: The model of the first line that can be read.
        self.model: str | None = None
        self._is_first = True
        self._n_inputs = 0
        # Digests, because 50,000 long ids would take memory.
        self._ids: set[bytes] = set()

    @property
    def is_over(self) -> bool:
        """Whether the rest of the file need not be read."""
        return len(self.faults) >= MAX_FAULTS or self.n_lines > MAX_LINES or self._n_inputs > MAX_INPUTS

    def add(self, raw: RawLine) -> None:
        """Check one more line."""
        self.n_lines += 1
        try:
            line = parse_line(raw)
        except InvalidLineError as error:
            self.faults.append(error.fault)
            return
        if self._is_first:
            self.model, self._is_first = line.model, False
        elif line.model != self.model:
            message = "All requests of a batch must name the same model."
            self.faults.append(
                LineFault(code="mismatched_model", message=message, param="body.model", line=line.number)
            )
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
        if digest in self._ids:
            message = "The 'custom_id' of this line is that of an earlier line. It must be unique in a batch."
            self.faults.append(
                LineFault(code="duplicate_custom_id", message=message, param="custom_id", line=line.number)
            )
        self._ids.add(digest)
        self._n_inputs += line.n_inputs

    def fail(self, fault: LineFault) -> None:
        """Add a fault that keeps the file from being read on."""
        self.faults.append(fault)

    def finish(self) -> None:
        """Check the file as a whole, once its last line was added."""
        if self.n_lines > MAX_LINES:
            message = f"The input file has more than {MAX_LINES} requests."
            self.faults.append(LineFault(code="too_many_requests", message=message))
        if self._n_inputs > MAX_INPUTS:
            message = f"The requests of the input file have more than {MAX_INPUTS} inputs in all."
            self.faults.append(LineFault(code="too_many_inputs", message=message))
        if not self.n_lines and not self.faults:
            self.faults.append(LineFault(code="empty_file", message="The input file holds no request."))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLine:
    """A line to write, into the output or into the error file."""

    data: bytes = field(repr=False)
    is_error: bool
    tokens: int = 0


def request_id(batch_id: str, number: int) -> str:
    """Return the id of a request, which is the same however often it is run."""
    return hashlib.blake2b(f"{batch_id}/{number}".encode(), digest_size=16).hexdigest()


def answered(batch_id: str, number: int, custom_id: str, status: int, body: Any, *, tokens: int = 0) -> ResultLine:
    """Return the line of a request that has an answer, vectors or an error, as the route would have given it."""
    name = request_id(batch_id, number)
    response = {"status_code": status, "request_id": name, "body": body}
    line = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": None}
    return ResultLine(data=_pack(line), is_error=status != 200, tokens=tokens)


def unanswered(batch_id: str, number: int, custom_id: str, code: str, message: str) -> ResultLine:
    """Return the line of a request that was not run."""
    name = f"batch_req_{request_id(batch_id, number)}"
    error = {"code": code, "message": message}
    line = {"id": name, "custom_id": custom_id, "response": None, "error": error}
    return ResultLine(data=_pack(line), is_error=True)


def _pack(line: Any) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
