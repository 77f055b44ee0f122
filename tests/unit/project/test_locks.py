"""The lock files are complete, hashed, and name no place of anybody's own."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-dev.lock"]


def entries(lock: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Every pinned version by name, each with its hashes."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for block in re.split(r"\n(?=\S)", (REPOSITORY / lock).read_text().strip()):
        pinned, *hashes = [part.strip() for part in block.split("\\\n")]
        requirement = Requirement(pinned)
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


def wanted(*groups: str) -> list[Requirement]:
    """What pyproject.toml asks for: dependencies, every extra, and these dependency groups."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    grouped = [line for group in groups for line in PROJECT["dependency-groups"][group] if isinstance(line, str)]
    asked = [Requirement(line) for line in [*project["dependencies"], *extras, *grouped]]
    return [requirement for requirement in asked if requirement.name != project["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_nothing_else(lock: str) -> None:
    for pins in entries(lock).values():
        for requirement, hashes in pins:
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier))
            assert hashes
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes)


@pytest.mark.parametrize("lock", LOCKS)
def test_no_pin_names_a_host_or_a_path(lock: str) -> None:
    assert not re.search(r"://|--index|--find-links|file:| /", (REPOSITORY / lock).read_text())


@pytest.mark.parametrize(
    ("lock", "groups"), [("requirements.lock", ["build"]), ("requirements-dev.lock", ["build", "dev"])]
)
def test_the_lock_satisfies_what_the_project_asks_for(lock: str, groups: list[str]) -> None:
    pins = entries(lock)
    for requirement in wanted(*groups):
        versions = [str(pin.specifier).removeprefix("==") for pin, _ in pins[canonicalize_name(requirement.name)]]
        assert all(requirement.specifier.contains(version) for version in versions), str(requirement)


def test_developers_run_what_users_run() -> None:
    users, developers = entries("requirements.lock"), entries("requirements-dev.lock")
    for name, pins in users.items():
        # A tool may need on every platform what users need on one.
        assert {str(pin.specifier) for pin, _ in pins} == {str(pin.specifier) for pin, _ in developers[name]}


def test_the_build_needs_nothing_beyond_the_lock() -> None:
    locked = entries("requirements.lock")
    for line in PROJECT["build-system"]["requires"]:
        assert canonicalize_name(Requirement(line).name) in locked
