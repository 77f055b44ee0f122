"""One list of kinds: every error and every reason has one, and every API has a status for each."""

import inspect
import json

import pytest
from grpc import StatusCode

from embedmill import errors
from embedmill.errors import EmbedError
from embedmill.reply import Reason, Rejected
from embedmill_worker.gateway.apis import grpc_server, ollama, openai, tei
from embedmill_worker.gateway.http import refused
from embedmill_worker.gateway.refusals import RETRYABLE, STATUS, Kind, RefusedError, refusal_of, refusal_of_texts

#: Where Redis is, as errors have it: no client is told.
PLACE = "redis://:***@zebra:6379"

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, EmbedError) and kind.__module__ == "embedmill.errors"
]


def made(kind):
    """An error of a kind, with a value for each argument."""
    values = {"index": 1, "count": 2, "limit": 3, "n_bytes": 4, "depth": 5, "waited_s": 6.0, "retry_after_s": 1.5}
    values |= {"known": ("a", "b"), "theirs": (2,), "url_masked": PLACE, "reply": "none"}
    names = [] if kind.__init__ is Exception.__init__ else list(inspect.signature(kind.__init__).parameters)[1:]
    return kind(*(values.get(name, name) for name in names if name not in ("args", "kwargs")))


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_kind_and_tells_no_address(kind):
    found = refusal_of(made(kind))
    assert found.kind in Kind
    assert found.message or not made(kind).args
    assert "zebra" not in found.message
    if issubclass(kind, errors.RequestError):
        assert 400 <= found.status < 500 and found.retry_after_s is None
    if issubclass(kind, (errors.QueueError, errors.ResultError)):
        assert found.status in (429, 503) and found.retry_after_s > 0


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_kind(reason):
    found = refusal_of_texts([Rejected(index=3, reason=reason, detail="why")])
    assert found.kind in Kind
    assert found.message == f"input[3]: {reason}, why"
    assert found.status < 500 or found.retry_after_s > 0


def test_of_several_texts_the_gravest_is_told():
    rejected = [Rejected(index=i, reason=r, detail="") for i, r in enumerate((Reason.TOO_LONG, Reason.DEADLINE))]
    found = refusal_of_texts([*rejected, Rejected(index=2, reason=Reason.DEADLINE, detail="")])
    assert found.kind is Kind.UNAVAILABLE
    assert found.message.startswith("input[1]") and "2 more" in found.message


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("api", [openai.API, tei.API, ollama.API], ids=lambda api: api.name)
def test_every_kind_has_a_status_in_every_api(api, kind):
    response = refused(api, RefusedError(kind, "why", param="input"))
    assert 400 <= response.status_code < 600
    assert json.loads(response.body)["error"]
    assert ("retry-after" in response.headers) == (kind in RETRYABLE)
    assert response.headers["x-should-retry"] == ("true" if kind in RETRYABLE else "false")
    if api is not tei.API:
        assert response.status_code == STATUS[kind]


def test_grpc_tells_apart_what_clients_may_send_again():
    for kind in RETRYABLE - {Kind.SLOW_BODY}:
        assert grpc_server._CODES[kind].name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
    for kind in (Kind.INVALID, Kind.TOO_LONG, Kind.FORBIDDEN, Kind.UNEMBEDDABLE):
        assert grpc_server._CODES.get(kind, StatusCode.INVALID_ARGUMENT).name not in (
            "RESOURCE_EXHAUSTED",
            "UNAVAILABLE",
        )


@pytest.mark.parametrize(("wait_s", "shown"), [(0.001, "1"), (0.9, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60")])
def test_retry_after_is_whole_seconds_and_never_too_few(wait_s, shown):
    headers = refused(openai.API, RefusedError(Kind.OVERLOADED, "", retry_after_s=wait_s)).headers
    assert headers["retry-after"] == shown
    assert int(headers["retry-after-ms"]) >= 1
