"""Settings of client and worker: bad values are refused with the way out, secrets never shown."""

import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill import AsyncEmbeddingClient, EmbeddingClient
from embedmill.errors import SettingsError
from embedmill.model_spec import ModelSpec, first_model
from embedmill.settings import ClientSettings
from embedmill.urls import mask_url
from embedmill_worker.settings import DEFAULT_MODEL, WorkerSettings

SECRET = "s3cr3t-zebra"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1"),
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"rediss://me:{SECRET}@host/0?ssl_cert_reqs=none", "rediss://me:***@host/0?ssl_cert_reqs=none"),
        (f"redis://me:{SECRET}@x@host/0", "redis://me:***@host/0"),
        (f"redis://host/0?password={SECRET}", "redis://host/0?password=***"),
        (f"redis://host/0?db=1&ssl_keyfile_Password={SECRET}&a=b", "redis://host/0?db=1&ssl_keyfile_Password=***&a=b"),
        (f"unix://me:{SECRET}@/run/valkey.sock", "unix://me:***@/run/valkey.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url, masked):
    assert mask_url(url) == masked


odd = st.text(st.sampled_from("a/?#@:&=%[] .")).map(lambda s: SECRET + s + SECRET)


@given(odd, st.sampled_from(["redis", "rediss", "unix", "http", "redis+sentinel"]))
def test_no_password_however_odd_is_shown(password, scheme):
    assert SECRET not in mask_url(f"{scheme}://user:{password}@host:6379/0")
    try:
        shown = repr(ClientSettings(redis_url=f"{scheme}://:{password}@host:6379/0"))
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error)) + repr(error.args)
    assert SECRET not in shown


@pytest.mark.parametrize(
    "url",
    ["", "host:6379", "http://host", "redis://host:port", "redis://[::1", "redis://:a#b@host", "redis://:a/b@host/0"],
)
def test_what_is_no_redis_url_is_refused(url):
    with pytest.raises(SettingsError, match=r"^redis_url="):
        ClientSettings(redis_url=url)


@pytest.mark.parametrize("client", [EmbeddingClient, AsyncEmbeddingClient])
@pytest.mark.parametrize("query", ["db=zero", "no_such_option=1", "socket_timeout=soon"])
def test_an_option_that_redis_py_does_not_take_is_refused_at_once(client, query):
    with pytest.raises(SettingsError, match=r"^redis_url=redis://:\*\*\*@host/0"):
        client(f"redis://:{SECRET}@host/0?{query}")


@pytest.mark.parametrize("namespace", ["a b", "-a", "a:b", "a.b", "x" * 65, "ü", 'a"'])
def test_a_namespace_that_needs_quoting_is_refused(namespace):
    with pytest.raises(SettingsError, match=r"^namespace="):
        ClientSettings(namespace=namespace)


@pytest.mark.parametrize("model", ["a b", "", "ü", 'a"'])
def test_a_model_name_that_needs_quoting_is_refused(model):
    with pytest.raises(SettingsError, match="model"):
        ClientSettings(model=model)


def test_arguments_win_over_the_environment_and_that_over_defaults():
    env = {"EMBEDMILL_REDIS_URL": "redis://env/0", "EMBEDMILL_MODEL": "a=folder, b", "EMBEDMILL_NAMESPACE": "env"}
    assert ClientSettings.from_env(environ={"HOME": "/nonexistent"}) == ClientSettings()
    assert ClientSettings.from_env(environ=env) == ClientSettings(redis_url="redis://env/0", model="a", namespace="env")
    given = ClientSettings.from_env("redis://arg/0", "c", "arg", environ=env)
    assert given == ClientSettings(redis_url="redis://arg/0", model="c", namespace="arg")


@pytest.mark.parametrize(
    ("spec", "name"), [("", None), (" ", None), ("a", "a"), ("a=f,b", "a"), ("o/m-1.5, b", "o/m-1.5")]
)
def test_the_first_model_named_is_the_default(spec, name):
    assert first_model(spec) == name


@pytest.mark.parametrize("client", [EmbeddingClient, AsyncEmbeddingClient])
@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        ({"redis_url": "http://host"}, {"REDIS_URL": "redis://host"}, "redis_url"),
        ({"redis_url": b"redis://host"}, {}, "redis_url"),
        ({"redis_url": "redis://host/0?no_such_option=1"}, {}, "redis_url"),
        ({}, {"REDIS_URL": "http://host"}, "EMBEDMILL_REDIS_URL"),
        ({}, {"REDIS_URL": "redis://host/0?no_such_option=1"}, "EMBEDMILL_REDIS_URL"),
        ({}, {"REDIS_URL": "rediss://host/0?ssl_ca_certs=/nowhere"}, "EMBEDMILL_REDIS_URL"),
        ({}, {"REDIS_URL": "redis+sentinel://host"}, "EMBEDMILL_REDIS_URL"),
        ({"namespace": "a b"}, {"NAMESPACE": "ab"}, "namespace"),
        ({"namespace": 7}, {}, "namespace"),
        ({}, {"NAMESPACE": "a b"}, "EMBEDMILL_NAMESPACE"),
        ({"model": "a b"}, {"MODEL": "ab"}, "model"),
        ({"model": 7}, {}, "model"),
        ({}, {"MODEL": "a b"}, "EMBEDMILL_MODEL"),
        ({}, {"MAX_QUEUED_TOKENS": "-1"}, "EMBEDMILL_MAX_QUEUED_TOKENS"),
    ],
)
def test_an_error_names_the_argument_or_the_variable_that_gave_the_value(
    client, arguments, variables, named, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(f"EMBEDMILL_{name}", value)
    with pytest.raises(SettingsError) as caught:
        client(**arguments)
    assert caught.value.name == named


@pytest.mark.parametrize(
    ("name", "values"),
    [("max_queued_tokens", [-1, 1.5, "2", True]), ("timeout_s", [0, -1, float("nan"), float("inf"), "2", True])],
)
def test_a_number_given_as_an_argument_is_named_so(name, values):
    for value in values:
        for make in (EmbeddingClient, AsyncEmbeddingClient, ClientSettings):
            with pytest.raises(SettingsError) as caught:
                make(**{name: value})
            assert caught.value.name == name


@pytest.mark.parametrize("client", [EmbeddingClient, AsyncEmbeddingClient])
def test_an_argument_comes_before_its_variable(client, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_MAX_QUEUED_TOKENS", "no number")
    made = client(max_queued_tokens=0, timeout_s=2.5)
    assert (made.settings.max_queued_tokens, made.settings.timeout_s) == (0, 2.5)


def test_settings_keep_their_secret_when_printed_and_survive_pickling():
    settings = ClientSettings(redis_url=f"redis://:{SECRET}@host/0")
    assert SECRET not in repr(settings) + str(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


def worker(**env):
    return WorkerSettings.from_env({f"EMBEDMILL_{name}": value for name, value in env.items()} | {"HOME": "/home/me"})


def test_a_worker_is_right_without_any_setting():
    settings = worker()
    assert settings.model_names == (DEFAULT_MODEL,)
    assert (settings.precision, settings.concurrency, settings.rollover, settings.exact) == ("", 0, False, False)
    assert settings.data_dir == Path("/home/me/.local/share/embedmill")


def test_a_worker_serves_every_model_named():
    assert worker(MODEL="a=/models/a , b,").models == (
        ModelSpec(name="a", place="/models/a"),
        ModelSpec(name="b", place="b"),
    )
    assert worker(MODEL="a=/models/a,b").model_names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRECISION", "fp8"),
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "-1"),
        ("CONCURRENCY", "two"),
        ("CONCURRENCY", "1.5"),
        ("REDIS_URL", f"http://:{SECRET}@host"),
        ("CACHE_URL", f"http://:{SECRET}@host"),
        ("MODEL", "a b"),
        ("NAMESPACE", "a b"),
    ],
)
def test_a_setting_that_cannot_work_stops_the_worker_and_says_which(name, value):
    with pytest.raises(SettingsError, match=f"EMBEDMILL_{name}") as caught:
        worker(**{name: value})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("environ", [{}, {"EMBEDMILL_DATA_DIR": "~/data"}, {"EMBEDMILL_DATA_DIR": "~nobody-here/data"}])
def test_a_user_without_a_home_is_told_to_name_a_data_folder(monkeypatch, environ):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for such a user
    with pytest.raises(SettingsError, match=r"EMBEDMILL_DATA_DIR=~.*set a folder that you can write to"):
        WorkerSettings.from_env(environ)


def test_a_worker_s_settings_do_not_show_the_password():
    settings = worker(REDIS_URL=f"redis://:{SECRET}@host/0", CONCURRENCY="3", DATA_DIR="~/mill", ROLLOVER="1")
    assert SECRET not in repr(settings)
    assert (settings.concurrency, settings.rollover) == (3, True)
    assert settings.data_dir == Path("~/mill").expanduser()
