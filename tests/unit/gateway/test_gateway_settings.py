"""Settings of the gateway: who may reach it without keys, ports, files."""

import pytest

from embedmill.errors import SettingsError
from embedmill.settings import ClientSettings
from embedmill_worker.gateway.settings import MAX_KEYS_BYTES, GatewaySettings

SECRET = "zebra-0123456789abcdef"
URL = {"EMBEDMILL_REDIS_URL": "redis://localhost:6379/0"}


def settings(**env):
    return GatewaySettings.from_env(URL | {f"EMBEDMILL_{name}": str(value) for name, value in env.items()})


def test_by_default_it_listens_on_loopback_without_keys():
    found = settings()
    assert (found.host, found.port, found.grpc_port) == ("127.0.0.1", 8080, 6010)
    assert found.is_local and not found.keys.callers and not found.cors_origins
    assert found.load_tls() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(host):
    assert settings(HOST=host).is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example", "8", "zebra"])
def test_all_other_addresses_need_keys(host):
    with pytest.raises(SettingsError, match="EMBEDMILL_API_KEYS"):
        settings(HOST=host)
    assert not settings(HOST=host, API_KEYS=SECRET).is_local


@pytest.mark.parametrize("name", ["HTTP_PORT", "GRPC_PORT"])
@pytest.mark.parametrize("value", ["65536", "-1", "zebra", "80.5", "²", "9" * 30])
def test_ports_that_are_none_are_refused(name, value):
    with pytest.raises(SettingsError):
        settings(**{name: value})


def test_a_gateway_serves_something():
    assert settings(HTTP_PORT=0).grpc_port and settings(GRPC_PORT=0).port
    with pytest.raises(SettingsError, match="nothing"):
        settings(HTTP_PORT=0, GRPC_PORT=0)


@pytest.mark.parametrize("name", ["TLS_CERT", "TLS_KEY"])
def test_certificate_and_key_come_together(name):
    with pytest.raises(SettingsError, match="--tls-key"):
        settings(**{name: "/none"})


@pytest.mark.parametrize(
    "name",
    ["MAX_BODY_MIB", "REQUEST_TIMEOUT_S", "HEADERS_TIMEOUT_S", "BODY_TIMEOUT_S", "ANSWER_TIMEOUT_S", "IDLE_TIMEOUT_S"],
)
@pytest.mark.parametrize("value", ["0", "-1", "zebra"])
def test_limits_of_nothing_are_refused(name, value):
    with pytest.raises(SettingsError):
        settings(**{name: value})


def test_limits_are_read():
    found = settings(MAX_BODY_MIB=2, MAX_WAIT_S=0, HEADERS_TIMEOUT_S=3, IDLE_TIMEOUT_S=4)
    assert (found.max_body_bytes, found.max_wait_s) == (2 << 20, 0.0)
    assert (found.patience.headers_s, found.patience.body_s, found.patience.idle_s) == (3.0, 30.0, 4)


def test_keys_come_from_the_environment_or_from_a_file_and_not_from_both(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{SECRET} name=a\n\n{SECRET}x name=b lane=bulk\n")
    assert [caller.name for caller in settings(API_KEYS_FILE=path).keys.callers] == ["a", "b"]
    assert [caller.name for caller in settings(API_KEYS=f"{SECRET} name=c, {SECRET}y name=d").keys.callers] == [
        "c",
        "d",
    ]
    with pytest.raises(SettingsError, match="one of them"):
        settings(API_KEYS_FILE=path, API_KEYS=SECRET)


@pytest.mark.parametrize("data", [b"", b"# none\n", b"\xff\xfe", b"a" * (MAX_KEYS_BYTES + 1), b"zebra\n"])
def test_files_without_keys_are_refused(tmp_path, data):
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        settings(API_KEYS_FILE=path)
    assert str(path) in str(caught.value)
    assert "zebra" not in str(caught.value) and "aaa" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            settings(API_KEYS_FILE=path)
        with pytest.raises(SettingsError, match="--tls-key"):
            settings(TLS_CERT=path, TLS_KEY=path).load_tls()


def test_nothing_shows_the_keys():
    found = settings(API_KEYS=f"{SECRET} name=first")
    assert "zebra" not in repr(found) and "first" not in repr(found)


def test_origins_come_by_comma():
    assert settings(CORS_ORIGINS=" https://a.example, ,http://b.example ").cors_origins == (
        "https://a.example",
        "http://b.example",
    )


def test_it_can_be_made_of_values():
    client = ClientSettings.from_env(environ=URL)
    assert GatewaySettings(client=client, port=1).port == 1
