"""The imports among the project's own modules: no circle, whatever is imported for types only included."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {"embedmill": REPOSITORY / "producer", "embedmill_worker": REPOSITORY / "worker"}


def modules() -> dict[str, Path]:
    """Every module of both packages, by its name."""
    found = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The project's modules that one names, wherever in the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).strip(".")
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return (found & known) - {name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(name, path, set(found)) for name, path in found.items()}


def test_no_modules_import_each_other_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_producer_imports_nothing_of_the_worker(graph):
    assert {name for name, used in graph.items() if name.split(".")[0] == "embedmill"
            for each in used if each.startswith("embedmill_worker")} == set()  # fmt: skip


def test_models_are_below_the_engine_and_nobody_is_above_the_command_line(graph):
    for name, used in graph.items():
        if name.startswith("embedmill_worker.models"):
            assert not [each for each in used if each.startswith("embedmill_worker.engine")], name
        if not name.startswith("embedmill_worker.cli"):
            assert not [each for each in used if each.startswith("embedmill_worker.cli")], name
