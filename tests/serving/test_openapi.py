"""What the API says of itself, and requests made up from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from starlette.testclient import TestClient

from ovseg_ray.serving.app import ROUTERS, create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.problems import CODES


@pytest.fixture(scope="session")
def made_up(run: Path) -> Any:
    engine = Engine()
    engine.load(ServingConfig.model_validate({"models": [{"run": str(run), "device": "cpu"}]}))
    with all_described():
        return schemathesis.openapi.from_asgi("/openapi.json", create_app(engine))


@contextmanager
def all_described() -> Iterator[None]:
    """Routes of the page, and second addresses of other protocols, are left out of the description; not here."""
    hidden: list[Any] = [part for router in ROUTERS for part in (router, *router.routes) if not part.include_in_schema]
    for part in hidden:
        part.include_in_schema = True
    yield
    for part in hidden:
        part.include_in_schema = False


with all_described():
    PATHS = create_app(Engine()).openapi()["paths"]
OPERATIONS = [(path, method.upper()) for path, methods in PATHS.items() for method in methods]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_ends_in_a_fault(made_up: Any, path: str, method: str) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=made_up[path][method].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        response = case.call()
        assert response.status_code < 500 or response.json()["code"] == "deadline_exceeded", response.text
        if response.status_code >= 400:
            problem = response.json()
            assert response.headers["content-type"] == ["application/problem+json"]
            assert CODES[problem["code"]] == (response.status_code, problem["title"])

    ask()


def test_every_operation_is_tried() -> None:
    paths = {path for path, _ in OPERATIONS}
    assert {"/v1/segment", "/v2/models/{name}/versions/{version}/infer", "/hf/{model}", "/samples", "/readyz"} <= paths


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(part) for part in value.values()))
    return set().union(*(references(part) for part in value)) if isinstance(value, list) else set()


def test_every_reference_leads_somewhere(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for reference in references(document):
        place: Any = document
        for key in reference.removeprefix("#/").split("/"):
            place = place[key]


def test_docs_ask_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 2
    for source in sources:
        assert source.startswith("/"), source
        assert client.get(source).status_code == 200


def test_examples_work(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                body = content["example"]
                if "parameters" in body:
                    body["parameters"]["candidate_labels"] = ["sky", ["car", "automobile"]]
                assert client.request(method, path, json=body).status_code in (200, 201), path
