"""`docker-compose.yml` is valid, and holds what the README promises of it."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from embedmill.errors import SettingsError
from embedmill_worker.cli.dispatch import parser
from embedmill_worker.gateway.settings import GatewaySettings

REPOSITORY = Path(__file__).resolve().parents[3]

#: Longest time limit of one chunk in seconds; a stopped worker may need as long.
LONGEST_CHUNK_S = 60

#: What the smallest host has, less what its own system needs, in MiB.
SMALLEST_HOST_MIB = 2048 - 256


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def redis(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["redis"]


@pytest.fixture(scope="module")
def worker(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["worker"]


@pytest.fixture(params=["redis", "worker", "gateway"])
def service(request: pytest.FixtureRequest, compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"][request.param]


def mebibytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])b?", size).groups()
    return int(number) * {"m": 1, "g": 1024}[unit]


def options(command: list[str]) -> dict[str, str]:
    return dict(zip(command[1::2], command[2::2], strict=True))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((REPOSITORY / "tests/data/compose-spec.json").read_text())


def test_the_file_follows_the_compose_specification(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(schema).validate(compose)


def test_the_schema_would_notice_a_misspelt_key(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    misspelt = json.loads(json.dumps(compose))
    misspelt["services"]["worker"]["stop_grace_periode"] = "90s"
    with pytest.raises(jsonschema.ValidationError, match="stop_grace_periode"):
        jsonschema.Draft7Validator(schema).validate(misspelt)


def test_the_server_keeps_what_it_accepted_and_evicts_nothing(redis: dict[str, Any]) -> None:
    given = options(redis["command"])
    assert (given["--appendonly"], given["--appendfsync"]) == ("yes", "everysec")
    assert given["--maxmemory-policy"] == "noeviction"
    assert "redis:/data" in redis["volumes"]


def test_the_server_has_room_to_rewrite_its_file(redis: dict[str, Any]) -> None:
    assert mebibytes(options(redis["command"])["--maxmemory"]) * 1.5 <= mebibytes(redis["mem_limit"])


def test_the_server_is_not_published(redis: dict[str, Any]) -> None:
    assert "ports" not in redis


def test_workers_wait_for_a_server_that_answers(redis: dict[str, Any], worker: dict[str, Any]) -> None:
    assert redis["healthcheck"]["test"][-1] == "ping"
    assert worker["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert worker["environment"]["EMBEDMILL_REDIS_URL"] == "redis://redis:6379/0"


def test_the_model_can_be_chosen_from_outside(worker: dict[str, Any]) -> None:
    assert worker["environment"]["EMBEDMILL_MODEL"].startswith("${EMBEDMILL_MODEL:-")


def test_nothing_keeps_the_worker_from_being_scaled(worker: dict[str, Any]) -> None:
    assert not {"container_name", "ports", "hostname"} & worker.keys()


def test_a_stopped_worker_has_time_to_finish_its_chunk(worker: dict[str, Any]) -> None:
    assert int(worker["stop_grace_period"].removesuffix("s")) > LONGEST_CHUNK_S


def test_the_limits_fit_the_smallest_host(compose: dict[str, Any]) -> None:
    usual = [service for service in compose["services"].values() if "profiles" not in service]
    limits = [mebibytes(service["mem_limit"]) for service in usual]
    assert sum(limits) <= SMALLEST_HOST_MIB


def test_every_service_runs_without_rights_it_does_not_need(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    assert "privileged" not in service


def test_every_service_says_whether_it_is_well(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] == "CMD"


def test_every_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert used == compose["volumes"].keys()


def test_the_gateway_runs_on_request_only_with_keys_and_on_loopback(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    assert gateway["profiles"] == ["gateway"]
    assert gateway["environment"]["EMBEDMILL_API_KEYS"] == "${EMBEDMILL_API_KEYS:-}"
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])


def test_the_gateway_refuses_to_serve_other_machines_without_a_key(compose: dict[str, Any]) -> None:
    arguments = compose["services"]["gateway"]["command"]
    assert parser().parse_args(arguments).host == "0.0.0.0"
    with pytest.raises(SettingsError, match="EMBEDMILL_API_KEYS"):
        GatewaySettings.from_env({"EMBEDMILL_HOST": "0.0.0.0", "EMBEDMILL_API_KEYS": "", "HOME": "/"})
