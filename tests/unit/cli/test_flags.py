"""The command line's flags, help and exit codes, without running anything."""

import argparse
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest

import embedmill
from embedmill import model_spec
from embedmill.protocol.keys import LANES
from embedmill.protocol.options import INPUT_TYPES
from embedmill.protocol.vectors import Dtype
from embedmill_worker import exit_codes
from embedmill_worker.cli import dispatch, flags, main
from embedmill_worker.cli.commands import up
from embedmill_worker.cli.local import worker_process

#: Runs a command as far as it goes without Redis, and says which parts of the worker that took.
LIGHT = """
import sys
from embedmill_worker.cli import main
code = main(sys.argv[1:])
heavy = {"onnxruntime", "fastembed", "onnx", "tokenizers", "celery", "rich"} & set(sys.modules)
print(code, sorted(heavy))
"""


def commands(parser, name="embedmill"):
    """Every command with its parser."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub, subparser in action.choices.items():
                yield from commands(subparser, f"{name} {sub}")


def options(parser):
    """Every flag of a command but --help and --version."""
    return [action for action in parser._actions if action.option_strings and action.dest not in ("help", "version")]


EACH_COMMAND = pytest.mark.parametrize(
    ("name", "parser"), [pytest.param(name, parser, id=name) for name, parser in commands(dispatch.parser())]
)


@EACH_COMMAND
def test_every_flag_names_its_variable_and_its_default_in_its_help(name, parser):
    for action in options(parser):
        assert re.search(r" \[EMBEDMILL_[A-Z_]+\]$", action.help), f"{name} {action.option_strings}"
        if action.nargs != 0:
            assert re.search(r" \((default: .+|required)\) \[", action.help), f"{name} {action.option_strings}"


@EACH_COMMAND
def test_every_flag_is_in_a_group_that_has_a_title(name, parser):
    grouped = {id(action) for group in parser._action_groups[2:] for action in group._group_actions}
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert len(titles) == len(set(titles))
    assert all(titles)
    assert [action.option_strings for action in options(parser) if id(action) not in grouped] == []


@EACH_COMMAND
def test_every_command_is_described_in_one_line(name, parser):
    assert re.fullmatch(r"[A-Z].{10,110}\.", parser.description)
    assert "\n" not in parser.description


@EACH_COMMAND
def test_every_command_shows_real_commands_that_parse(name, parser):
    head, _, shown = parser.epilog.partition("examples:\n")
    assert head == ""
    examples = [line.strip() for line in shown.partition("\n\n")[0].splitlines() if not line.strip().startswith("#")]
    examples = [line for line in examples if line]
    assert examples, f"{name} has no example"
    for example in examples:
        words = shlex.split(re.sub(r"^.*\| | > .*$", "", example))
        words = words[next(i for i, word in enumerate(words) if "=" not in word) :]
        assert words[0] == "embedmill"
        assert " ".join(words).startswith(name)
        if words[1:] != ["--version"]:
            dispatch.parser().parse_args(words[1:])


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == exit_codes.OK
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (dispatch.parser().format_help(), "")
    assert "commands:" in shown.out


def test_a_word_that_is_no_command_is_still_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["sttus"])
    assert end.value.code == exit_codes.USAGE
    assert "sttus" in capsys.readouterr().err


def test_the_version_is_that_of_the_distribution(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"embedmill {version('embedmill')}\n"
    assert embedmill.__version__ == version("embedmill")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        embedmill.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("words", "variable", "wanted"),
    [
        (["docs"], "", False),
        (["--delete-missing", "docs"], "", True),
        (["--delete-missing=all", "docs"], "", "all"),
        (["docs"], "1", True),
        (["docs"], "0", False),
        (["docs"], "all", "all"),
        (["--delete-missing", "docs"], "all", True),
    ],
)
def test_what_is_missing_is_deleted_when_asked_and_all_of_it_when_asked_for_all(monkeypatch, words, variable, wanted):
    monkeypatch.setenv("EMBEDMILL_REINDEX_DELETE_MISSING", variable)
    args = dispatch.parser().parse_args(["reindex", *words])
    assert (args.sources, args.delete_missing) == (["docs"], wanted)
    with pytest.raises(SystemExit):
        dispatch.parser().parse_args(["reindex", "--delete-missing=most", "docs"])


def test_only_a_variable_with_the_commands_name_can_ask_for_what_deletes(monkeypatch):
    deleting = {("dead", "drop"): ["all"], ("reindex", "docs"): ["delete_missing", "rebuild"]}
    for (command, word), names in deleting.items():
        for name in names:
            for stray in (name, f"{word}_{name}"):
                monkeypatch.setenv(f"EMBEDMILL_{stray.upper()}", "1")
            assert not getattr(dispatch.parser().parse_args([command, word]), name)
            full = f"dead_drop_{name}" if command == "dead" else f"reindex_{name}"
            monkeypatch.setenv(f"EMBEDMILL_{full.upper()}", "1")
            assert getattr(dispatch.parser().parse_args([command, word]), name)


@pytest.mark.parametrize(
    ("words", "variables", "named"),
    [
        (["status", "--redis-url", "http://h"], {}, "--redis-url=http://h: "),
        (["status", "--redis-url=http://h"], {"REDIS_URL": "redis://h"}, "--redis-url=http://h: "),
        (["status"], {"REDIS_URL": "http://h"}, "EMBEDMILL_REDIS_URL=http://h: "),
        (["dead", "list"], {"REDIS_URL": "redis://h/0?nothing=1"}, "EMBEDMILL_REDIS_URL=redis://h/0?nothing=1: "),
        (["dead", "list", "--redis-url", "redis://h/0?nothing=1"], {}, "--redis-url=redis://h/0?nothing=1: "),
        (["status", "--namespace", "a b"], {}, "--namespace='a b': "),
        (["status"], {"NAMESPACE": "a b"}, "EMBEDMILL_NAMESPACE='a b': "),
        (["worker", "--redis-url", "http://h"], {}, "--redis-url=http://h: "),
        (["worker", "--cache-url", "http://h"], {}, "--cache-url=http://h: "),
        (["worker"], {"CACHE_URL": "http://h"}, "EMBEDMILL_CACHE_URL=http://h: "),
        (["worker", "--concurrency", "0"], {}, "--concurrency=0: "),
        (["up"], {"PRECISION": "fp8"}, "EMBEDMILL_PRECISION=fp8: "),
        (["status"], {"MAX_QUEUED_TOKENS": "two"}, "EMBEDMILL_MAX_QUEUED_TOKENS=two: "),
    ],
    ids=str,
)
def test_an_error_names_the_flag_or_the_variable_that_gave_the_value(monkeypatch, capsys, words, variables, named):
    for name, value in variables.items():
        monkeypatch.setenv(f"EMBEDMILL_{name}", value)
    assert main(words) == exit_codes.SETTINGS
    assert capsys.readouterr().err.startswith(f"embedmill: {named}")


@pytest.mark.parametrize("name", [name for name, _ in commands(dispatch.parser())])
def test_help_is_shown_for_every_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split()[1:], "--help"])
    assert end.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_variable_gives_a_flag_s_value_and_the_flag_wins(monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DIMENSIONS", "64")
    monkeypatch.setenv("EMBEDMILL_DTYPE", "int8")
    monkeypatch.setenv("EMBEDMILL_NO_TRUNCATE", "1")
    monkeypatch.setenv("EMBEDMILL_JSON", "0")
    args = dispatch.parser().parse_args(["embed", "--dtype", "float16"])
    assert (args.dimensions, args.dtype, args.no_truncate) == (64, "float16", True)
    assert dispatch.parser().parse_args(["status"]).json is False


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("EMBEDMILL_DTYPE", "")
    monkeypatch.setenv("EMBEDMILL_MODEL", "")
    args = dispatch.parser().parse_args(["embed"])
    assert (args.dtype, args.model) == ("float32", None)


@pytest.mark.parametrize(
    "argv",
    [
        ["embed", "--dtype", "float8"],
        ["embed", "--dimensions", "0"],
        ["embed", "--timeout", "soon"],
        ["embed", "--timeout", "-1"],
        ["status", "--wait", "inf"],
        ["worker", "--log-level", "LOUD"],
        ["embed", "--no-such-flag"],
        ["nonsense"],
    ],
)
def test_what_cannot_work_is_a_usage_error(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == exit_codes.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_variable_is_refused_like_a_wrong_flag(monkeypatch, capsys):
    monkeypatch.setenv("EMBEDMILL_LANE", "fast")
    with pytest.raises(SystemExit) as end:
        main(["embed"])
    assert end.value.code == exit_codes.USAGE
    assert "'fast' is not one of interactive, bulk" in capsys.readouterr().err


def test_the_choices_are_those_of_the_client():
    assert tuple(Dtype) == flags.DTYPES
    assert LANES == flags.LANES
    assert INPUT_TYPES == flags.INPUT_TYPES


@pytest.mark.parametrize("spec", ["a", "a=/x,b", " a , b", "org/a=/x", "/models/e5,b", "org/a@v1"])
def test_the_model_of_a_client_is_the_first_that_workers_serve(spec):
    assert flags.model_name(spec) == model_spec.first_model(spec)
    assert flags.model_spec(spec).name == model_spec.ModelSpec.parse_all(spec)[0].name


def test_a_worker_s_flags_become_its_environment(monkeypatch):
    monkeypatch.setenv("EMBEDMILL_NAMESPACE", "mine")
    args = dispatch.parser().parse_args(["worker", "--model", "m=/x", "--concurrency", "3", "--rollover"])
    environment = flags.worker_environment(args)
    assert environment["EMBEDMILL_MODEL"] == "m=/x"
    assert environment["EMBEDMILL_CONCURRENCY"] == "3"
    assert environment["EMBEDMILL_NAMESPACE"] == "mine"
    assert environment["EMBEDMILL_ROLLOVER"] == "1"
    assert "EMBEDMILL_PRECISION" not in environment


def test_the_url_that_up_printed_is_known_as_its_own(tmp_path):
    folder = tmp_path / "a b" / "valkey"
    folder.mkdir(parents=True)
    assert up.is_own(f"unix://{tmp_path}/a%20b/valkey/valkey.sock?db=0", folder)
    assert not up.is_own("redis://127.0.0.1:6379/0", folder)
    assert not up.is_own("unix:///run/redis.sock", folder)


def test_an_error_of_ours_is_one_line_and_a_named_code(monkeypatch, capsys):
    monkeypatch.setenv("EMBEDMILL_NAMESPACE", "no spaces please")
    assert main(["status"]) == exit_codes.SETTINGS
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("embedmill: EMBEDMILL_NAMESPACE=")
    assert err.count("\n") == 1


def test_a_password_is_not_shown_when_redis_is_away(capsys):
    assert main(["status", "--redis-url", "redis://user:secret@127.0.0.1:1/0"]) == exit_codes.BROKER
    assert "secret" not in capsys.readouterr().err


def test_waiting_for_a_worker_ends_when_it_was_to_and_redis_need_not_be_up(capsys, tmp_path):
    url = f"unix://{tmp_path}/nobody.sock"
    assert main(["status", "--wait", "0.3", "--redis-url", url, "--model", "m"]) == exit_codes.TIMEOUT
    assert capsys.readouterr().err == f"embedmill: no worker serves m at {url} after 0.3 s\n"


def test_a_missing_part_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(worker_process, "ENGINE_MODULE", "no_such_engine")
    assert main(["worker"]) == exit_codes.FAILURE
    assert "needs no_such_engine" in (err := capsys.readouterr().err)
    assert "pip install 'embedmill[all]'" in err


@pytest.mark.parametrize("argv", [["status", "--json"], ["embed", "/dev/null"]])
def test_light_commands_load_no_part_of_the_worker(argv, tmp_path):
    command = [sys.executable, "-c", LIGHT, *argv, "--redis-url", f"unix://{tmp_path}/nobody.sock"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1].endswith("[]")
