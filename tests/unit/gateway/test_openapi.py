"""The document: OpenAPI 3.1, and every route is in it."""

import json

import pytest
from jsonschema.validators import Draft202012Validator

from embedmill.settings import ClientSettings
from embedmill_worker.gateway.apis import openapi
from embedmill_worker.gateway.apis.tokens import Detokenizer
from embedmill_worker.gateway.metrics import Metrics
from embedmill_worker.gateway.server import make_app
from embedmill_worker.gateway.service import EmbeddingService
from embedmill_worker.gateway.settings import GatewaySettings


@pytest.fixture
def routes(tmp_path):
    settings = GatewaySettings(client=ClientSettings.from_env("redis://localhost:1/0", environ={}))
    service = EmbeddingService(settings, Metrics())
    return make_app(service, Metrics(), Detokenizer(tmp_path, {})).routes


def test_every_route_is_in_the_document_and_nothing_else(routes):
    served = {(route.path.replace(":path", ""), method.lower()) for route in routes for method in route.methods}
    written = {(path, method) for path, item in openapi.document()["paths"].items() for method in item}
    assert written == {each for each in served if each[1] != "head"}


def schemas(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "schema":
                yield value
            yield from schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from schemas(value)


def test_it_is_plain_json_of_valid_schemas_and_every_reference_leads_somewhere():
    document = json.loads(json.dumps(openapi.document()))
    assert document["openapi"].startswith("3.1.")
    assert set(document["info"]) >= {"title", "version"}
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    found = [*schemas(document), *document["components"]["schemas"].values()]
    assert len(found) > 20
    for schema in found:
        Draft202012Validator.check_schema(schema)
    used = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]}
    assert used and used <= known


def test_operations_have_what_openapi_asks_of_them():
    for path, item in openapi.document()["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert {"200", "202"} & set(operation["responses"]), (path, method)
            for status, response in operation["responses"].items():
                assert status.isdecimal() and response["description"]
                assert response["content"]
            names = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert ("requestBody" in operation) == (method == "post" and not path.endswith("/cancel"))
