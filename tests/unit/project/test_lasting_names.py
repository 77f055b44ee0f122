"""Names that other people's scripts, running workers and files on disk depend on: none changes unawares.

Whoever changes one on purpose changes it here as well, and says in the CHANGELOG what it breaks.
"""

import argparse
import ast
import importlib
import inspect
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from celery.utils.imports import symbol_by_name

import embedmill
from embedmill import errors, reply
from embedmill.protocol import version
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.scripts import NAMES, script
from embedmill.status import LaneStatus, WorkerStatus
from embedmill_worker import exit_codes
from embedmill_worker.cli.dispatch import parser
from embedmill_worker.models.export.bert import EXPORTER

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = [*(REPOSITORY / "producer").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")]

#: By these sha1s the scripts are known to a Redis that workers of two versions share.
SCRIPTS = {
    "announce": "c16e168441ea",
    "beat": "ad1cab1a5a89",
    "cancel": "cd93fcfe8b3f",
    "claim": "30ed1aa48f25",
    "commit": "ef1415b71c21",
    "delete": "fba553910bea",
    "give_back": "a2c56a44d922",
    "lock": "b664aa1d78f2",
    "look": "24300aaaaf1f",
    "mend": "c2fc5f90774d",
    "note": "9d43d4ffafc8",
    "retire": "d35f6f05b5f5",
    "settle": "94ed322480e5",
    "submit": "1224418a7f20",
    "survey": "2c1ff832c20d",
    "top_up": "c411dbaef6d2",
}

KEYS = {
    "models": "ns:models",
    "workers": "ns:workers",
    "worker_prefix": "ns:worker:",
    "worker": "ns:worker:worker_id",
    "dead": "ns:dead",
    "rate": "ns:rate:caller:minute",
    "entry": "ns:entry:job_id",
    "entries": "ns:entries:owner",
    "outbox": "ns:outbox",
    "versioned": "ns:v2",
    "lanes": "ns:v2:lanes",
    "held": "ns:v2:held",
    "reconciler_lock": "ns:v2:lock",
    "lane": "ns:v2:lane:model:lane",
    "active": "ns:v2:active:model:lane",
    "turns": "ns:v2:turns:model:lane",
    "ring_prefix": "ns:v2:ring:model:lane:",
    "tenants": "ns:v2:tenants:model:lane",
    "flights": "ns:v2:flights:model:lane",
    "job_prefix": "ns:v2:job:",
    "job": "ns:v2:job:job_id",
    "texts": "ns:v2:job:job_id:texts",
    "crashes": "ns:v2:job:job_id:crashes",
    "replies": "ns:v2:job:job_id:replies",
    "events": "ns:v2:job:job_id:events",
    "staged": "ns:v2:job:job_id:staged:nonce",
    "queue": "ns.v2.model.lane",
    "embed_queue": "ns.embed",
    "unacked": "ns.unacked",
}

QUEUE = "--model --namespace --redis-url"
WORKER = f"{QUEUE} --cache-url --concurrency --data-dir --exact --keep-dead-texts --log-level --precision --rollover"
READ = "--delimiter --dimensions --dtype --encoding --format --input-type --no-truncate --text-field --with-text"

FLAGS = {
    "up": f"{WORKER} --grpc-port --maxmemory-mib --port",
    "demo": "--concurrency --data-dir --model",
    "worker": WORKER,
    "serve": f"{QUEUE} --api-keys-file --cors-origins --files-dir --grpc-port --host --log-level --max-body --max-file"
    " --max-file-age --max-stored --max-wait --port --request-timeout --tls-cert --tls-key --webhook-allow"
    " --webhook-retry",
    "batch": f"{QUEUE} --output",
    "embed": f"{QUEUE} {READ} --field --lane --output --timeout",
    "reindex": f"{QUEUE} {READ} --delete-missing --delete-missing=all --dry-run --id-field --json --metadata --overlap"
    " --rebuild --rejects --retry-rejected --split --to --tokenizer",
    "jobs": "",
    "jobs list": f"{QUEUE} --json --limit --state",
    "jobs show": f"{QUEUE} --json",
    "jobs cancel": f"{QUEUE} --json",
    "jobs delete": f"{QUEUE} --json",
    "dead": "",
    "dead list": f"{QUEUE} --json --limit",
    "dead show": f"{QUEUE} --json --text",
    "dead requeue": f"{QUEUE} --json --text-file",
    "dead drop": f"{QUEUE} --json --all",
    "status": f"{QUEUE} --json --wait",
    "health": "--file --json --live --ready",
    "models": "",
    "models list": "--json",
    "models show": "--data-dir --json --precision",
    "models pull": "--data-dir --json --precision",
    "models quantize": "--data-dir --json",
    "bench": f"{QUEUE} --concurrency --data-dir --json --precision --requests --rounds --texts",
}

CODES = {
    **{"OK": 0, "FAILURE": 1, "USAGE": 2, "SETTINGS": 3, "BROKER": 4, "MODEL": 5, "FINGERPRINT": 6, "REJECTED": 7},
    **{"TIMEOUT": 8, "UNHEALTHY": 9, "STALLED": 10, "GRACE": 11, "UNREADABLE": 12, "INTERRUPTED": 130},
}

ACTIONS = {
    "batch_ended",
    "batch_failed",
    "batch_waits",
    "beat",
    "cache",
    "claim_gone",
    "claimed",
    "committed",
    "dead_letter",
    "dropped",
    "exit",
    "export_model",
    "failed",
    "fetch_model",
    "files_expired",
    "files_off",
    "gateway_failed",
    "gateway_queue",
    "gateway_ready",
    "gateway_request",
    "gateway_webhook",
    "health",
    "index_words",
    "keep",
    "leave",
    "load_model",
    "measure_price",
    "model_ready",
    "no_lane",
    "no_work",
    "one_by_one",
    "quantize_model",
    "reconcile",
    "recount",
    "release",
    "resolve_model",
    "retire",
    "stalled",
    "sweep",
    "unreadable",
    "valkey_started",
    "wait_for_redis",
}

#: Below the data folder; what is there is used by the next version as well.
FOLDERS = {"probes", "exports", "quantized", "graphs", "hub", "models", "fasttext", "reindex"}


def test_errors_and_replies_are_where_pickles_and_celery_look_for_them():
    for name in embedmill.__all__:
        value = getattr(embedmill, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert value.__module__ == "embedmill.errors", name
    assert {reply.EmbeddingReply.__module__, reply.Rejected.__module__, reply.Reason.__module__} == {"embedmill.reply"}
    assert type(pickle.loads(pickle.dumps(errors.UnknownModelError("a", ("b",))))) is errors.UnknownModelError


def test_what_is_started_by_name_is_there():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert scripts == {"embedmill": "embedmill_worker.cli:main"}
    assert callable(importlib.import_module("embedmill_worker.cli").main)
    for module in ("embedmill_worker.app", "embedmill_worker.main", "embedmill_worker.cli.__main__"):
        assert importlib.util.find_spec(module), module


def named_by_strings():
    return sorted(
        {name for path in SOURCES for name in re.findall(r'"(embedmill[\w.]*:\w+)"', path.read_text("utf-8"))}
    )


def test_celery_is_given_two_classes_by_name():
    assert len(named_by_strings()) == 2


@pytest.mark.parametrize("name", named_by_strings())
def test_every_class_that_a_string_names_is_there(name):
    assert inspect.isclass(symbol_by_name(name))


def test_scripts_are_those_that_running_workers_have_loaded():
    assert version.PROTOCOL_VERSION == 2
    assert {name: script(name).sha[:12] for name in NAMES} == SCRIPTS


def test_keys_are_those_that_redis_holds():
    keys = Keyspace("ns")
    found = {}
    for name, kind in inspect.getmembers(Keyspace):
        if name.startswith("_") or name in ("namespace", "of_job", "cache_entry"):
            continue
        if isinstance(kind, property):
            found[name] = getattr(keys, name)
        else:
            found[name] = kind(keys, *list(inspect.signature(kind).parameters)[1:])
    assert found == KEYS


def flags_of(found, name=""):
    given = {name: {flag for action in found._actions for flag in action.option_strings}} if name else {}
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                given |= flags_of(command, f"{name} {word}".strip())
    return given


def test_commands_and_flags_are_those_that_scripts_use():
    """A new command is nobody's yet, and need not stand here."""
    flags = flags_of(parser())
    found = {name: {flag for flag in flags.get(name, ()) if flag.startswith("--")} for name in FLAGS}
    assert found == {name: {*promised.split(), "--help"} for name, promised in FLAGS.items()}


def test_exit_codes_are_those_that_scripts_ask_for():
    assert {name: int(getattr(exit_codes, name)) for name in CODES} == CODES


def test_status_as_json_has_the_promised_fields():
    worker, lane = (set(kind.__dataclass_fields__) for kind in (WorkerStatus, LaneStatus))
    assert worker == {"name", "model", "fingerprint", "state", "pid", "children"}
    assert lane == {
        *("model", "lane", "queue", "chunks", "texts", "tokens", "oldest_age_s"),
        *("tokens_done", "tokens_per_s", "tenants"),
    }


def strings(pick):
    return {
        found.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for found in pick(node)
        if isinstance(found, ast.Constant) and isinstance(found.value, str)
    }


def test_actions_of_log_lines_are_those_that_people_filter_by():
    def pick(node):
        if isinstance(node, ast.Dict):
            yield from (v for k, v in zip(node.keys, node.values, strict=True) if getattr(k, "value", "") == "action")
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_quietly":
            yield node.args[-1]

    assert strings(pick) == ACTIONS


def test_operators_find_each_action_in_their_page():
    page = (
        (REPOSITORY / "docs" / "operations.md").read_text("utf-8").partition("### Log actions")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows == sorted(ACTIONS)


def test_folders_below_the_data_folder_are_those_that_lie_there():
    def pick(node):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield node.right

    assert strings(pick) >= FOLDERS


def test_exported_graphs_are_named_by_the_exporter_that_made_them():
    assert EXPORTER == "embedmill-bert/3"


def test_the_wheel_holds_both_packages_whole():
    built = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"]["packages"] == ["producer/embedmill", "worker/embedmill_worker"]
    assert "exclude" not in built["targets"]["wheel"]
