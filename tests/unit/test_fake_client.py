"""FakeEmbeddingClient: the real client's methods and checks, without anything behind them."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import (
    ClientClosedError,
    DeadLetters,
    EmbeddingClient,
    InvalidRequestError,
    InvalidTextError,
    Job,
    JobConflictError,
    Jobs,
    JobState,
    ResultExpiredError,
    TextsRejectedError,
    TooManyTextsError,
    UnknownLetterError,
)
from embedmill.protocol.dead_letter import of_text
from embedmill.testing import MAX_TOKENS, FakeDeadLetters, FakeEmbeddingClient, FakeJob, FakeJobs

TEXTS = ["Selamat pagi", "good morning", "", "Selamat pagi"]


def public_methods(kind):
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("real", "fake"),
    [(EmbeddingClient, FakeEmbeddingClient), (Job, FakeJob), (DeadLetters, FakeDeadLetters), (Jobs, FakeJobs)],
)
def test_the_fake_has_the_methods_and_signatures_of_the_real_one(real, fake):
    ours, theirs = public_methods(fake), public_methods(real)
    assert set(ours) == set(theirs)
    for name, method in theirs.items():
        wanted = [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
        given = [(p.name, p.kind, p.default) for p in inspect.signature(ours[name]).parameters.values()]
        assert given == wanted, name


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_a_vector_depends_on_its_text_alone_and_has_length_1(texts):
    client = FakeEmbeddingClient(dimension=16)
    together = client.embed(texts)
    assert (together.shape, together.dtype) == ((len(texts), 16), np.float32)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(client.embed([text])[0], vector)
        assert np.isclose(np.linalg.norm(vector), 1.0, atol=1e-6)


def test_the_vectors_are_the_same_on_every_machine():
    (vector,) = FakeEmbeddingClient(dimension=4).embed(["Selamat pagi"])
    assert vector.tolist() == pytest.approx([0.43755123, 0.00986981, 0.05270634, -0.89759320], abs=1e-6)


def test_model_and_input_type_change_vectors():
    client = FakeEmbeddingClient()
    plain = client.embed(["a"])
    assert not np.array_equal(client.embed(["a"], model="other"), plain)
    assert not np.array_equal(client.embed(["a"], input_type="query"), plain)


@pytest.mark.parametrize(
    ("options", "shape", "dtype"),
    [
        ({"dimensions": 8}, (1, 8), np.float32),
        ({"dtype": "float16"}, (1, 16), np.float16),
        ({"dtype": "int8"}, (1, 16), np.int8),
        ({"dtype": "binary"}, (1, 2), np.uint8),
    ],
)
def test_dimensions_and_dtypes_are_those_of_the_real_client(options, shape, dtype):
    vectors = FakeEmbeddingClient(dimension=16).embed(["a"], **options)
    assert (vectors.shape, vectors.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.embed(["a", 5]), InvalidTextError),
        (lambda client: client.embed("a"), InvalidRequestError),
        (lambda client: client.embed(["a"], dtype="float8"), InvalidRequestError),
        (lambda client: client.embed(["a"], dimensions=385), InvalidRequestError),
        (lambda client: client.embed(["a"], input_type="title"), InvalidRequestError),
        (lambda client: client.embed(["a"], lane="fast"), InvalidRequestError),
        (lambda client: client.embed(["a"], timeout_s=0), InvalidRequestError),
        (lambda client: client.submit(["a"] * 65_537), TooManyTextsError),
        (lambda client: client.submit(["a"], job_id="no spaces"), InvalidRequestError),
        (lambda client: client.job("no spaces"), InvalidRequestError),
    ],
)
def test_what_the_real_client_refuses_is_refused(call, error):
    with pytest.raises(error):
        call(FakeEmbeddingClient())


def test_bad_texts_are_rejected_and_their_neighbours_embedded():
    texts = ["a", "\ud800", "x" * 4 * MAX_TOKENS]
    with pytest.raises(TextsRejectedError) as caught:
        FakeEmbeddingClient().embed(texts, truncate=False)
    reply = caught.value.reply
    assert [(r.index, r.reason) for r in reply.rejected] == [(1, "invalid_unicode"), (2, "too_long")]
    assert np.isnan(reply.vectors).any(axis=1).tolist() == [False, True, True]


def test_a_long_text_is_truncated_and_reported():
    reply = FakeEmbeddingClient().submit(["a", "x" * 4 * MAX_TOKENS]).result(1)
    assert reply.truncated.tolist() == [False, True]
    assert reply.token_counts.tolist() == [3, MAX_TOKENS + 2]


def test_more_texts_than_a_job_holds_are_windowed():
    texts = [str(i) for i in range(65_540)]
    client = FakeEmbeddingClient(dimension=2)
    vectors = client.embed(texts)
    assert vectors.shape == (65_540, 2)
    assert np.array_equal(vectors[-1], client.embed(texts[-1:])[0])


def test_a_job_is_done_at_once_and_lives_until_it_is_deleted():
    client = FakeEmbeddingClient()
    job = client.submit(TEXTS, job_id="mine")
    assert (job.status().state, job.wait(1).texts_done) == (JobState.DONE, 4)
    reply = client.job("mine").result(1)
    assert np.array_equal(reply.vectors, client.embed(TEXTS))
    parts = list(job.iter_results())
    indices = np.concatenate([part.indices for part in parts])
    assert np.array_equal(np.concatenate([part.vectors for part in parts])[np.argsort(indices)], reply.vectors)
    assert job.cancel() is False
    assert (job.delete(), job.delete()) == (True, False)
    for call in (job.status, job.cancel, lambda: job.result(1), lambda: list(job.iter_results())):
        with pytest.raises(ResultExpiredError):
            call()


def test_the_same_id_takes_the_same_content_only():
    client = FakeEmbeddingClient()
    assert client.submit(["a"], job_id="mine").id == client.submit(["a"], job_id="mine").id
    with pytest.raises(JobConflictError):
        client.submit(["b"], job_id="mine")


def test_dead_letters_are_what_the_test_puts_in():
    known = {"job_id": "j", "chunk": 0, "model": "m", "lane": "bulk", "reason": "crashed", "detail": "", "attempts": 3}
    letters = [of_text("a", keep=n == 1, id=f"{n}-0", index=n, worker="w", **known) for n in (1, 2)]
    client = FakeEmbeddingClient(dead_letters=letters)
    assert [letter.id for letter in client.dead.list()] == ["2-0", "1-0"]
    assert client.dead.list(limit=1)[0] is client.dead.get("2-0")
    assert np.array_equal(client.dead.requeue("1-0").result(1).vectors, client.embed(["a"], model="m"))
    with pytest.raises(InvalidRequestError, match="was not kept"):
        client.dead.requeue("2-0")
    with pytest.raises(UnknownLetterError):
        client.dead.get("1-0")
    assert client.dead.drop("2-0") is True
    assert (client.dead.drop("2-0"), client.dead.drop_all(), client.dead.list()) == (False, 0, [])


def test_a_closed_fake_refuses_as_the_real_one_does():
    client = FakeEmbeddingClient(dead_letters=[])
    job = client.submit(["a"])
    assert repr(client) == "FakeEmbeddingClient(dimension=384, model='fake')"
    with client, client:
        pass
    client.close()
    for call in (
        lambda: client.embed(["a"]),
        lambda: client.submit(["a"]),
        lambda: client.job("a"),
        job.status,
        lambda: job.result(1),
        lambda: list(job.iter_results()),
        job.cancel,
        job.delete,
        client.dead.list,
        client.jobs.list,
        client.dead.drop_all,
        lambda: client.dead.get("1-0"),
        lambda: client.dead.drop("1-0"),
    ):
        with pytest.raises(ClientClosedError):
            call()
    assert repr(client) == "FakeEmbeddingClient(dimension=384, model='fake', closed)"


def test_the_fake_lists_its_jobs_the_newest_first():
    with FakeEmbeddingClient() as client:
        ids = [client.submit(["a", "b"]).id for _ in range(3)]
        listed = client.jobs.list(limit=2)
        assert [status.job_id for status in listed] == ids[:0:-1]
        assert (len(listed), listed.n_found, listed.is_cut, listed[0].n_texts) == (2, 3, True, 2)
        assert not client.jobs.list(state="queued")
        for wrong in ({"limit": 0}, {"limit": "1"}, {"state": "lost"}, {"state": 1}):
            with pytest.raises(InvalidRequestError):
                client.jobs.list(**wrong)
