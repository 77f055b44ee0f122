"""Which modules may import which: each folder stands on a floor, and imports only from the floors below it."""

from graphlib import CycleError

import pytest

from support import structure

#: Folder, or module, of the package → what it must not import. ``embedmill`` is the ground of ``embedmill_worker``.
FORBIDDEN = {
    "embedmill.safe": ["embedmill.protocol", "embedmill.transport", "embedmill.jobs", "embedmill.client"],
    "embedmill.protocol": ["embedmill.transport", "embedmill.jobs", "embedmill.client", "embedmill.reindexing"],
    "embedmill.transport": ["embedmill.jobs", "embedmill.client", "embedmill.async_client", "embedmill.reindexing"],
    "embedmill.jobs": ["embedmill.client", "embedmill.async_client", "embedmill.reindexing"],
    "embedmill.reindexing.sources": [f"embedmill.reindexing.{each}" for each in ("planning", "sinks")],
    "embedmill.reindexing.sinks": [f"embedmill.reindexing.{each}" for each in ("planning", "sources")],
    "embedmill": ["embedmill_worker"],
    "embedmill_worker.models": [f"embedmill_worker.{each}" for each in ("engine", "cache", "jobs", "service")],
    "embedmill_worker.engine": [f"embedmill_worker.{each}" for each in ("cache", "jobs", "service")],
    "embedmill_worker.cache": [f"embedmill_worker.{each}" for each in ("jobs", "service")],
    "embedmill_worker.jobs": ["embedmill_worker.service"],
    "embedmill_worker.gateway": [f"embedmill_worker.{each}" for each in ("engine", "cache", "jobs", "service")],
    "embedmill_worker.batches": [f"embedmill_worker.{each}" for each in ("engine", "cache", "jobs", "service")],
    "embedmill_worker.gateway.apis": [f"embedmill_worker.gateway.{each}" for each in ("main", "server")],
}


@pytest.fixture(scope="module")
def found():
    return structure.read()


def is_in(name, folder):
    return name == folder or name.startswith(f"{folder}.")


def test_no_modules_import_each_other_in_a_circle_even_for_types_only(found):
    try:
        found.check_circles()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_nothing_imports_from_a_floor_above_its_own(found, folder):
    above = [
        f"{name} imports {each}"
        for name, used in found.imports.items()
        for each in used
        if is_in(name, folder) and any(is_in(each, other) for other in FORBIDDEN[folder])
    ]
    assert above == []


def test_nobody_but_the_command_line_imports_the_command_line(found):
    for name, used in found.imports.items():
        if not is_in(name, "embedmill_worker.cli"):
            assert [each for each in used if is_in(each, "embedmill_worker.cli")] == [], name


def test_a_folder_is_one_subject_of_at_most_fifteen_modules(found):
    folder, count = found.fullest_folder()
    assert count <= 15, folder


@pytest.mark.parametrize(("package", "limit"), [("embedmill", 12), ("embedmill_worker", 12)])
def test_chains_of_imports_are_short(found, package, limit):
    chain = max((found.longest_chain(name) for name in found.modules if is_in(name, package)), key=len)
    assert len(chain) <= limit, " → ".join(chain)
