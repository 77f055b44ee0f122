"""Errors cross pickle and Celery's JSON as themselves, say what to do, and hold no text."""

import inspect
import json
import pickle

import numpy as np
import pytest
from celery import Celery

import embedmill
from embedmill import errors
from embedmill.errors import EmbedError
from embedmill.limits import MAX_TEXT_CHARS
from embedmill.reply import EmbeddingReply, Reason, Rejected
from embedmill.testing import FakeEmbeddingClient

REPLY = EmbeddingReply(
    vectors=np.full((3, 4), np.nan, dtype=np.float32),
    token_counts=np.zeros(3, dtype=np.uint32),
    truncated=np.zeros(3, dtype=np.bool_),
    rejected=(Rejected(index=1, reason=Reason.TOO_LONG, detail="9 tokens, limit 8"),),
    model="m",
    fingerprint="f",
)

#: By parameter name: a value that an error may carry.
VALUES = {
    "index": 3,
    "n_bytes": 300_000_000,
    "type_name": "bytes",
    "option": "dimensions",
    "reason": "it is 9, at most 8; ask for less",
    "count": 70_000,
    "limit": 65_536,
    "way_out": "submit several jobs",
    "model": "m",
    "known": ("a", "b"),
    "job_id": "j1",
    "url_masked": "redis://:***@host/0",
    "queue": "Redis",
    "depth": 9,
    "unit": "tokens",
    "retry_after_s": 1.5,
    "waited_s": 2.5,
    "hint": "Start a worker.",
    "reply": REPLY,
    "name": "EMBEDMILL_MODEL",
    "value": "x",
    "letter_id": "1-0",
    "ours": "f1",
    "theirs": "f2",
    "sink": "vectors/",
    "source": "corpus.jsonl",
    "differences": "dimension 384 and 128",
}


def subclasses(cls):
    return {cls}.union(*map(subclasses, cls.__subclasses__()))


def every_error():
    return sorted((c for c in subclasses(EmbedError) if c.__module__ == errors.__name__), key=lambda c: c.__name__)


def parameters(cls):
    """Of its own constructor; none for the branches of the tree."""
    return list(inspect.signature(cls).parameters.values()) if "__init__" in vars(cls) else []


def example(cls):
    return cls(*(VALUES[p.name] for p in parameters(cls)))


each_error = pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)


@each_error
def test_an_error_survives_pickling(cls):
    error = example(cls)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert str(back) == str(error)
    assert vars(back).keys() == vars(error).keys()


@each_error
def test_an_error_survives_celery_s_json(cls):
    app = Celery("errors", backend="cache+memory://", set_as_current=False)
    app.conf.result_serializer = "json"
    backend = app.backend
    error = example(cls)
    back = backend.exception_to_python(json.loads(backend.encode(backend.prepare_exception(error, "json"))))
    assert type(back) is cls
    if cls is not errors.TextsRejectedError:  # JSON holds no arrays
        assert str(back) == str(error)
        assert vars(back) == vars(error)


@each_error
def test_an_error_takes_positional_arguments_and_keeps_them(cls):
    assert len(example(cls).args) == len(parameters(cls))
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters(cls))


@each_error
def test_an_error_explains_itself(cls):
    assert cls.__doc__
    assert len(str(example(cls))) > 10 or not parameters(cls)


@each_error
def test_an_error_is_drawn_in_the_tree_and_public(cls):
    assert cls.__name__ in errors.__doc__
    assert getattr(embedmill, cls.__name__) is cls


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidTextError, TypeError),
        (errors.InvalidRequestError, ValueError),
        (errors.TooManyTextsError, ValueError),
        (errors.UnknownModelError, LookupError),
        (errors.BrokerUnavailableError, ConnectionError),
        (errors.ResultTimeoutError, TimeoutError),
        (errors.ResultExpiredError, LookupError),
        (errors.SettingsError, ValueError),
    ],
)
def test_an_error_is_caught_as_the_builtin_that_users_expect(cls, builtin):
    assert issubclass(cls, builtin)


def test_rejected_texts_are_named_by_place_and_reason():
    many = tuple(Rejected(index=i, reason=Reason.CRASHED, detail="") for i in range(5))
    shown = str(errors.TextsRejectedError(EmbeddingReply(**{**fields(REPLY), "rejected": many})))
    assert "5 of 3 texts" in shown
    assert "texts[0]: crashed; texts[1]: crashed; texts[2]: crashed and 2 more" in shown


def test_a_text_that_is_too_large_is_told_its_size_and_the_limit():
    with FakeEmbeddingClient() as client, pytest.raises(errors.TextsRejectedError) as caught:
        client.embed(["a" * (MAX_TEXT_CHARS + 1), "b"])
    told = "too_large, 1000001 characters, limit 1000000; split it"
    assert str(caught.value).startswith(f"1 of 2 texts were rejected (texts[0]: {told}). ")


def fields(reply):
    return {name: getattr(reply, name) for name in EmbeddingReply.__dataclass_fields__}


def test_a_full_queue_says_when_to_try_again():
    assert "9 of 65536 tokens are taken" in str(example(errors.QueueFullError))
    assert "Try again in 1.5 s," in str(example(errors.QueueFullError))
    assert "Try again once workers drain it," in str(errors.QueueFullError("Redis", 1, 2, "tokens"))


def test_a_redis_that_gives_no_numbers_is_not_quoted_with_zeros():
    said = str(errors.QueueFullError("Redis", 0, 0, "it has reached its maxmemory"))
    assert said.startswith("Redis is full: it has reached its maxmemory; nothing was submitted.")
