"""A run: whatever the queue does and wherever it is ended, each line is in one of the files, once, in input order."""

import asyncio
import json
import random

import numpy as np
import pytest

from embedmill.errors import BrokerUnavailableError, JobTooLargeError, QueueFullError, ResultExpiredError
from embedmill.protocol.cards import ModelCard
from embedmill.reply import EmbeddingReply, Reason, Rejected
from embedmill_worker.batches import runner, windows
from embedmill_worker.batches.objects import Progress
from embedmill_worker.batches.result_files import ResultFiles
from embedmill_worker.batches.runner import CANCELLED, BatchRun, Source
from embedmill_worker.batches.windows import RequestReader, WindowReader
from embedmill_worker.gateway.refusals import Kind, RefusedError

CARD = ModelCard(
    name="m", fingerprint="f", dimension=4, max_tokens=8, chars_per_token=4.0, tokens_per_s=1_000.0, precision="fp32"
)
N_LINES = 60


class Nothing:
    """No tokenizer and no limits."""

    def read(self, card, arrays, param):
        raise RefusedError(Kind.INVALID, "no tokenizer", param=param)

    def estimate(self, request, card):
        return len(request.texts)


def body_of(number):
    if number % 10 == 3:
        return {"input": ""}
    if number % 10 == 4:
        return {"input": [f"{number} a", f"{number} b"], "dimensions": 2, "encoding_format": "base64"}
    if number % 10 == 5:
        return {"input": [1, 2]}
    return {"input": f"text {number}", "dimensions": 9 if number % 10 == 6 else None}


def embed(text):
    return np.frombuffer(text.encode().ljust(16, b"\0")[:16], "<u4").astype(np.float32)


class Jobs:
    """A queue in memory, which fails as it is asked to."""

    def __init__(self, trouble=None):
        self.jobs = {}
        self.submitted = []
        self.trouble = trouble or (lambda _what, _window: None)

    async def submit(self, window):
        self.trouble("submit", window)
        self.submitted.append(window.name)
        self.jobs.setdefault(window.name, 0)

    async def poll(self, window):
        answer = self.trouble("poll", window)
        if window.name not in self.jobs:
            raise ResultExpiredError(window.name)
        if answer is not None:
            return answer
        self.jobs[window.name] += 1
        if self.jobs[window.name] < 2:
            return None
        return reply(window)

    async def discard(self, window):
        self.jobs.pop(window.name, None)


def reply(window, rejected=()):
    texts = window.texts
    columns = window.options.dimensions or CARD.dimension
    return EmbeddingReply(
        vectors=np.array([embed(text)[:columns] for text in texts]),
        token_counts=np.array([len(text) for text in texts], dtype=np.uint32),
        truncated=np.zeros(len(texts), dtype=bool),
        rejected=tuple(rejected),
        model="m",
        fingerprint="f",
    )


class Journal:
    """Progress in memory; ends the run when it is asked to."""

    def __init__(self, end_after=None):
        self.progress = Progress()
        self.saved = []
        self._end_after = end_after

    def save(self, progress):
        self.progress = progress
        self.saved.append(progress)

    def ending(self):
        return CANCELLED if self._end_after is not None and len(self.saved) >= self._end_after else None


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runner, "RETRY_S", 0.001)
    monkeypatch.setattr(runner, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(runner, "PIECE_LINES", 7)
    monkeypatch.setattr(windows, "MAX_TEXTS", 5)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    with path.open("w") as file:
        for i in range(N_LINES):
            line = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": body_of(i)}
            file.write(json.dumps(line) + "\n" * (1 + i % 2))
    nothing = Nothing()
    requests = RequestReader(card=CARD, tokens=nothing, limits=nothing)
    return Source(batch_id="b", path=path, requests=requests, max_line_bytes=1_000)


def run(source, folder, jobs, journal, charge=None):
    results = ResultFiles(folder / "out", folder / "err", journal.progress)
    try:
        batch = BatchRun(source, jobs, results, journal, progress=journal.progress, charge=charge)
        return asyncio.run(asyncio.wait_for(batch.run(), 60))
    finally:
        results.close()


def read(folder, name):
    return [json.loads(row) for row in (folder / name).read_text().splitlines()]


def check_complete(folder, journal):
    results, errors = read(folder, "out"), read(folder, "err")
    bad = [i for i in range(N_LINES) if i % 10 in (3, 5, 6)]
    assert [row["custom_id"] for row in errors] == [f"r{i}" for i in bad]
    assert [row["custom_id"] for row in results] == [f"r{i}" for i in range(N_LINES) if i not in bad]
    assert all(row["response"]["status_code"] == 400 for row in errors)
    for row in results:
        number = int(row["custom_id"][1:])
        if number % 10 != 4:
            found = np.array(row["response"]["body"]["data"][0]["embedding"], dtype=np.float32)
            assert (found == embed(f"text {number}")).all()
    progress = journal.progress
    assert (progress.completed, progress.failed, progress.line) == (len(results), len(errors), N_LINES // 2 * 3 - 1)
    assert progress.output_bytes == (folder / "out").stat().st_size
    assert progress.tokens > 0


def test_all_lines(source, tmp_path):
    jobs, journal = Jobs(), Journal()
    assert run(source, tmp_path, jobs, journal) is None
    check_complete(tmp_path, journal)
    assert jobs.jobs == {}  # nothing stays in the queue
    assert len(jobs.submitted) == len(set(jobs.submitted))


def test_windows_are_the_same_from_any_line_that_was_committed(source, tmp_path):
    jobs, journal = Jobs(), Journal()
    run(source, tmp_path, jobs, journal)
    for progress in random.Random(1).sample(journal.saved, 5):
        reader = WindowReader(source.path, progress, source.requests, max_line_bytes=1_000)
        names = []
        while (window := reader.next()) is not None:
            names += [window.name] if window.texts else []
        reader.close()
        assert names == [name for name in jobs.submitted if int(name.split("-")[0]) > progress.line]


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_a_run_that_ends_early_says_so_for_the_rest(source, tmp_path, after):
    jobs, journal = Jobs(), Journal(end_after=after)
    assert run(source, tmp_path, jobs, journal) is CANCELLED
    rows = read(tmp_path, "out") + read(tmp_path, "err")
    assert sorted(row["custom_id"] for row in rows) == sorted(f"r{i}" for i in range(N_LINES))
    late = [row for row in rows if row["response"] is None]
    assert late and all(row["error"]["code"] == "batch_cancelled" for row in late)
    assert journal.progress.completed + journal.progress.failed == N_LINES
    assert jobs.jobs == {}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_queue_does(source, tmp_path, seed):
    chance = random.Random(seed)
    jobs = Jobs()

    def trouble(what, window):
        number = chance.random()
        if what == "submit" and number < 0.2:
            raise chance.choice([QueueFullError("q", 1, 1, "tokens", 1.0), BrokerUnavailableError("redis://", "away")])
        if what == "submit" and number < 0.4 and len(window.entries) > 1:
            raise JobTooLargeError(2, 1, "cut it")
        if what == "poll" and number < 0.2:
            raise BrokerUnavailableError("redis://", "away")
        if what == "poll" and number < 0.3:
            jobs.jobs.clear()  # Redis has lost all it had
        return None

    jobs.trouble = trouble
    journal = Journal()
    assert run(source, tmp_path, jobs, journal) is None
    check_complete(tmp_path, journal)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_killed_goes_on_from_what_was_committed(source, tmp_path, seed):
    """Kills come before, between and after the writes and the commit."""
    chance = random.Random(seed)

    class Killed(BaseException):
        pass

    class Mortal(Journal):
        def save(self, progress):
            if chance.random() < 0.15:
                raise Killed
            super().save(progress)
            if chance.random() < 0.15:
                raise Killed

    journal, kills = Mortal(), 0
    while True:
        try:
            assert run(source, tmp_path, Jobs(), journal) is None
            break
        except Killed:
            kills += 1
            with (tmp_path / "out").open("ab") as file:  # half a line, as a kill leaves it
                file.write(b'{"id": "half')
    assert kills
    check_complete(tmp_path, journal)


def test_texts_that_were_rejected_for_a_reason_that_passes_are_tried_again_and_not_for_ever(source, tmp_path):
    def trouble(what, window):
        if what == "poll" and window.name.startswith("1-"):
            return reply(window, [Rejected(index=0, reason=Reason.MODEL_CHANGED, detail="")])
        return None

    jobs, journal = Jobs(trouble), Journal()
    run(source, tmp_path, jobs, journal)
    assert sum(name.startswith("1-") for name in jobs.submitted) == runner.MAX_ATTEMPTS
    (row,) = [row for row in read(tmp_path, "err") if row["custom_id"] == "r0"]
    assert row["response"]["status_code"] == 503 and row["response"]["body"]["error"]["code"] == "service_unavailable"
    assert "r1" in {row["custom_id"] for row in read(tmp_path, "out")}


def test_a_request_that_the_queue_does_not_take_is_refused_alone(source, tmp_path):
    def trouble(what, window):
        if what == "submit" and any(entry.custom_id == "r0" for entry in window.entries):
            raise JobTooLargeError(2, 1, "submit smaller jobs")

    journal = Journal()
    run(source, tmp_path, Jobs(trouble), journal)
    assert "r0" in {row["custom_id"] for row in read(tmp_path, "err")}
    assert "r1" in {row["custom_id"] for row in read(tmp_path, "out")}


def test_tokens_are_charged_once_for_each_window_and_a_limit_makes_it_wait(source, tmp_path):
    charged, refusals = [], iter(range(3))

    async def charge(tokens):
        if next(refusals, None) is not None:
            raise RefusedError(Kind.RATE_LIMITED, "later")
        charged.append(tokens)

    jobs, journal = Jobs(), Journal()
    assert run(source, tmp_path, jobs, journal, charge) is None
    check_complete(tmp_path, journal)
    assert len(charged) == len(jobs.submitted)


def test_files_that_hold_less_than_was_committed_are_not_written(tmp_path):
    with pytest.raises(OSError, match="holds less than was written"):
        ResultFiles(tmp_path / "out", None, Progress(output_bytes=1))
