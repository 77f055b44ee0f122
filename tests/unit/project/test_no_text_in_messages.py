"""A text in a wrong place is quoted by no error and shown by no repr."""

import dataclasses
import importlib
import logging
import pkgutil

import pytest
from redis.client import Pipeline
from redis.exceptions import ResponseError

import embedmill
import embedmill_worker
from embedmill.errors import EmbedError, InvalidRequestError, RequestError
from embedmill.jobs.request import SubmitOptions, check_limit, check_seconds
from embedmill.model_spec import check_model_name
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype
from embedmill.reindexing.sources.registry import open_source
from embedmill_worker.celery_patches import message_guard
from embedmill_worker.jobs import embed_task

CANARY = "canaryzebra"
SERVED = ("one", "two")

#: Fields that hold texts, or what goes with them.
HOLDS_TEXTS = {"text", "texts", "payloads", "metadata"}


def dataclasses_of(package):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.endswith("__main__") or found.name == "embedmill_worker.app":
            continue
        for value in vars(importlib.import_module(found.name)).values():
            if dataclasses.is_dataclass(value) and value.__module__ == found.name:
                yield value


@pytest.mark.parametrize("package", [embedmill, embedmill_worker])
def test_no_value_shows_texts_in_its_repr(package):
    """asyncio logs the reprs of a slow callback's arguments when it is asked to debug."""
    shown = {
        f"{kind.__qualname__}.{field.name}"
        for kind in dataclasses_of(package)
        for field in dataclasses.fields(kind)
        if field.name in HOLDS_TEXTS and field.repr and field.type not in ("int", "bool")
    }
    # The name of a field, names of fields, and the text of a Lua script.
    assert shown <= {"Fields.text", "Fields.metadata", "Script.text"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: EmbedOptions(input_type=CANARY),
        lambda: EmbedOptions(input_type=[CANARY]),
        lambda: EmbedOptions(dimensions=CANARY),
        lambda: EmbedOptions(truncate=CANARY),
        lambda: Dtype.parse(CANARY),
        lambda: Dtype.parse({CANARY: CANARY}),
        lambda: check_seconds("ttl_s", CANARY),
        lambda: check_limit(CANARY, 10),
        lambda: check_model_name(f"{CANARY} with blanks"),
        lambda: SubmitOptions(model=None, lane=CANARY),
        lambda: SubmitOptions(model=None, lane="bulk", job_id=f"{CANARY} "),
        lambda: embedmill.signature([CANARY], dtype=CANARY),
        lambda: embedmill.signature(CANARY),
        lambda: embedmill.signature([CANARY], model=f"{CANARY} {CANARY}"),
    ],
)
def test_an_option_that_cannot_be_served_is_described(call):
    with pytest.raises(EmbedError) as caught:
        call()
    assert CANARY not in f"{caught.value} {caught.value.args}"


SLIPS = [
    (["first", CANARY], {}),
    ([CANARY, CANARY], {}),
    ([CANARY], {}),
    ([CANARY] * 6, {}),
    ([CANARY] * 9, {}),
    ([["a"], CANARY], {}),
    ([["a"], None, CANARY], {}),
    ([["a"], None, None, CANARY], {}),
    ([["a"], None, None, None, CANARY], {}),
    ([["a"], None, None, None, "int8", CANARY], {}),
    ([["a"]], {"texts": [CANARY]}),
    ([["a"]], {CANARY: CANARY}),
    ([["a"]], {f"{CANARY} with blanks": 1, "self": CANARY}),
    ([], {"text": CANARY}),
    ([], {}),
    ([{CANARY: CANARY}], {}),
    ([[CANARY, 3]], {}),
    ([[[CANARY]]], {}),
    ([["a"]], {"model": [CANARY]}),
    ([["a"]], {"model": {CANARY: CANARY}}),
    ([["a"]], {"dtype": [CANARY]}),
    ([["a"]], {"dimensions": CANARY}),
    ([["a"]], {"truncate": CANARY}),
]


@pytest.mark.parametrize(("args", "kwargs"), SLIPS)
def test_no_slip_in_a_task_s_arguments_is_quoted(args, kwargs):
    with pytest.raises((RequestError, TypeError)) as caught:
        embed_task.read_call(args, kwargs, SERVED)
    assert CANARY not in f"{caught.value} {caught.value.args}"


@pytest.mark.parametrize("args", [["first", CANARY], [["a"], CANARY], [CANARY] * 9, [["a"], None, CANARY]])
def test_texts_that_are_passed_one_by_one_are_told_the_way_out(args):
    with pytest.raises(RequestError, match="one list of strings: did you pass them one by one"):
        embed_task.read_call(args, {}, SERVED)


def test_a_model_that_is_not_served_is_described_beside_those_that_are():
    with pytest.raises(RequestError, match="a str of 11 characters is not a model that this worker serves: one, two"):
        embed_task.read_call([["a"]], {"model": CANARY}, SERVED)


def test_arguments_are_read_by_position_and_by_name():
    by_position = embed_task.read_call([["a"], "two", "query", 8, "int8", False], {}, SERVED)
    by_name = embed_task.read_call(
        [],
        {
            "texts": ["a"],
            "model": "two",
            "input_type": "query",
            "dimensions": 8,
            "dtype": "int8",
            "truncate": False,
        },
        SERVED,
    )
    assert by_position == by_name
    assert by_name.options == EmbedOptions(input_type="query", dimensions=8, dtype=Dtype.INT8, truncate=False)
    assert embed_task.read_call([["a"]], {}, SERVED).options == EmbedOptions()
    assert embed_task.read_call([["a"], ""], {}, SERVED).model is None


class Panic(BaseException):
    """As an extension module's panic."""


@pytest.mark.parametrize("error", [ValueError(CANARY), KeyError(CANARY), MemoryError(CANARY), Panic(CANARY)])
def test_whatever_an_engine_throws_is_named_by_its_type(error, monkeypatch):
    class Engine:
        def embed(self, texts, **options):
            raise error

        class card:
            name, dimension, max_tokens, chars_per_token, tokens_per_s = "one", 8, 64, 4.0, 1_000.0

            fingerprint = "f"
            check = staticmethod(lambda options: None)

    result = embed_task.embed(Engine(), embed_task.read_call([[CANARY]], {}, SERVED))
    assert [row[:2] for row in result["rejected"]] == [[0, "failed"]]
    assert type(error).__name__ in result["rejected"][0][2]
    assert CANARY not in str(result)


def test_the_first_row_of_a_csv_without_names_is_not_quoted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{CANARY},{CANARY} two\nmore,texts\n")
    with pytest.raises(InvalidRequestError, match="2 fields in its first row, none named 'text'") as caught:
        list(open_source([str(path)]))
    assert CANARY not in str(caught.value)


def test_a_failed_command_of_a_pipeline_is_named_without_its_arguments():
    original = Pipeline.annotate_exception
    try:
        message_guard.mask_arguments()
        error = ResponseError("OOM command not allowed")
        Pipeline.annotate_exception(None, error, 2, ("HSET", "key", CANARY))
        assert str(error) == "Command # 2 (HSET) of pipeline caused error: OOM command not allowed"
    finally:
        Pipeline.annotate_exception = original


def test_celery_s_pool_logs_no_task_s_arguments(caplog):
    original = Pipeline.annotate_exception
    logger = logging.getLogger("celery.pool")
    try:
        message_guard.mask_arguments()
        message_guard.mask_arguments()
        with caplog.at_level(logging.DEBUG, "celery.pool"):
            logger.debug("TaskPool: Apply %s (args:%s kwargs:%s)", "target", CANARY, CANARY)
            logger.debug("something else")
        assert caplog.messages == ["something else"]
    finally:
        Pipeline.annotate_exception = original
        for one in list(logger.filters):
            logger.removeFilter(one)
