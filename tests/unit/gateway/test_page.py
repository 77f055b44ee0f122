"""The page's route without a browser: who gets it, with which policy, and what `/v1/status` says."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import msgspec
import pytest
from jsonschema.validators import Draft202012Validator
from starlette.testclient import TestClient

from embedmill.protocol.cards import ModelCard
from embedmill.settings import ClientSettings
from embedmill.status import LaneStatus, QueueStatus, WorkerStatus
from embedmill_worker.gateway.access import ANYBODY, Caller
from embedmill_worker.gateway.apis import openapi, page
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.server import make_app
from embedmill_worker.gateway.service import EmbeddingService
from embedmill_worker.gateway.settings import GatewaySettings

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture
def client(tmp_path):
    settings = GatewaySettings(client=ClientSettings.from_env("redis://localhost:1/0", environ={}))
    app = make_app(EmbeddingService(settings, Metrics()), Metrics(), Detokenizer(tmp_path, {}))
    return TestClient(app, base_url="http://localhost")


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "application/json, text/html;q=0.5"])
def test_a_browser_gets_the_page(client, accept):
    found = client.get("/", headers={"accept": accept})
    assert found.status_code == 200
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert found.headers["vary"] == "accept"
    assert client.head("/", headers={"accept": accept}).status_code == 200


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", ""])
def test_others_get_the_line_that_tools_of_ollama_look_for(client, accept):
    client.headers.pop("accept")
    found = client.get("/", headers={} if accept is None else {"accept": accept})
    assert (found.text, found.headers["vary"]) == ("Ollama is running", "accept")
    assert "content-security-policy" not in found.headers


def test_the_policy_allows_the_scripts_and_styles_of_the_page_and_nothing_else(client):
    found = client.get("/", headers={"accept": BROWSER})
    rules = dict(rule.split(" ", 1) for rule in found.headers["content-security-policy"].split("; "))
    assert (rules["default-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    for tag in ("script", "style"):
        (source,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", found.text, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
    assert "unsafe" not in found.headers["content-security-policy"]
    assert "\r" not in found.text  # browsers hash lines as they read them


class Tags(HTMLParser):
    """Attributes that load, or that hold code, and ids."""

    def __init__(self):
        super().__init__()
        self.loads, self.code, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset"):
                self.loads.append(value)
            if name.startswith("on") or name == "style":
                self.code.append((tag, name))
            if name == "id":
                self.ids.append(value)


def test_the_page_is_one_file_and_names_no_other_address():
    html, _ = page.page()
    tags = Tags()
    tags.feed(html)
    assert [each for each in tags.loads if not each.startswith(("#", "data:image/svg+xml,", "openapi.json"))] == []
    assert tags.code == []
    assert len(tags.ids) == len(set(tags.ids))
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<]*", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nothing asks for


def test_data_never_becomes_markup():
    html, _ = page.page()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", ".srcdoc"):
        assert word not in html


def test_every_id_that_the_script_asks_for_is_in_the_page():
    html, _ = page.page()
    tags = Tags()
    tags.feed(html)
    assert set(re.findall(r'\bat\("([\w-]+)"\)', html)) <= set(tags.ids)
    described = re.findall(r'(?:aria-\w+by|for)="([\w -]+)"', html)
    assert {each for ids in described for each in ids.split()} <= set(tags.ids)


def worker(**changes):
    values = {"name": "w", "model": "m", "fingerprint": "f", "state": "ready", "pid": 1, "children": 2}
    return WorkerStatus(**values | changes)


def card(name):
    return ModelCard(name=name, fingerprint="f", dimension=8, max_tokens=64, chars_per_token=4.0, tokens_per_s=9.0)


def test_the_status_has_each_worker_once_and_no_names_of_the_queues_inside():
    lane = LaneStatus(
        model="m", lane="bulk", queue="secret.m.bulk", chunks=1, texts=2, tokens=3, oldest_age_s=4.5, tokens_done=60
    )
    entries = (worker(), worker(model="n", state="unannounced"), worker(model="o"), worker(pid=2, children=1))
    found = page.status_of(QueueStatus(workers=entries, lanes=(lane,)), [card("m"), card("gone")], ANYBODY)
    assert [(each.name, each.state, each.children, each.models) for each in found.workers] == [
        ("w", "ready", 2, ["m", "o"]),
        ("w", "unannounced", 2, ["n"]),
        ("w", "ready", 1, ["m"]),
    ]
    assert [(each.name, each.served) for each in found.models] == [("m", True), ("gone", False)]
    (shown,) = found.lanes
    assert (shown.texts, shown.tokens, shown.oldest_age_s, shown.tokens_done, shown.tokens_per_s) == (2, 3, 4.5, 60, 0)
    assert b"secret" not in msgspec.json.encode(found)
    assert b"pid" not in msgspec.json.encode(found)


@pytest.mark.parametrize(
    ("caller", "lanes", "limit"),
    [
        (ANYBODY, ["interactive", "bulk"], None),
        (Caller(name="nightly", digest=b"d", lane="bulk", tokens_per_minute=60), ["bulk"], 60),
    ],
)
def test_the_status_says_what_the_caller_may_do_and_is_as_documented(caller, lanes, limit):
    found = page.status_of(QueueStatus(workers=(worker(),), lanes=()), [card("m")], caller)
    assert (found.caller.name, found.caller.lanes, found.caller.tokens_per_minute) == (caller.name, lanes, limit)
    document = openapi.document()
    schema = {"$ref": "#/components/schemas/Status", "components": document["components"]}
    Draft202012Validator(schema).validate(msgspec.to_builtins(found))


def test_without_redis_the_status_is_unavailable(client):
    found = client.get("/v1/status")
    assert found.status_code == 503
    assert found.json()["error"]["code"] == "service_unavailable"
