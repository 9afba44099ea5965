"""Who may ask, what a request may weigh, and what is said about each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_tools import encoded, picture
from starlette.testclient import TestClient

from ovseg_ray.errors import UserError
from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.auth import Tokens, digest, new_token
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.problems import ProblemError

ASK = {"candidate_labels": "sky, grass"}


@pytest.fixture
def locked(engine: Engine) -> Iterator[tuple[TestClient, str]]:
    """A server that knows one token."""
    token, line = new_token("alice")
    before = engine.config
    engine.config = before.model_copy(update={"tokens": [line]})
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client, token
    engine.config = before


def test_a_token_opens_and_nothing_else_does(locked: tuple[TestClient, str]) -> None:
    client, token = locked
    data = encoded(picture())
    assert client.post("/v1/segment", params=ASK, content=data).status_code == 401
    for header in ("", "Bearer", "Bearer ", f"Bearer {token}x", f"Basic {token}", token, f"bearer {digest(token)}"):
        answer = client.post("/v1/segment", params=ASK, content=data, headers={"authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), header
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for scheme in ("Bearer", "bearer"):
        answer = client.post("/v1/segment", params=ASK, content=data, headers={"authorization": f"{scheme} {token}"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/vocabularies", "/v1/vocabularies/x", "/v1/images/x", "/metrics", "/v1/nothing"]
)
def test_everything_that_tells_something_is_locked(locked: tuple[TestClient, str], path: str) -> None:
    assert locked[0].get(path).status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/v1/vocabularies/x", "/metrics", "/v2", "/hf/lseg", "/nothing"])
def test_a_prefix_opens_nothing(engine: Engine, locked: tuple[TestClient, str], path: str) -> None:
    below = TestClient(create_app(engine), root_path="/street", raise_server_exceptions=False)
    assert below.get(f"/street{path}").status_code == 401
    assert below.post("/street/v1/segment", params=ASK, content=encoded(picture())).status_code == 401
    for public in ("/", "/healthz", "/docs", "/main.js", "/style.css"):
        assert below.get(f"/street{public}").status_code == 200, public
    token = {"authorization": f"Bearer {locked[1]}"}
    assert below.get("/street/v1/models", headers=token).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/openapi.json"])
def test_health_and_the_page_are_open(locked: tuple[TestClient, str], path: str) -> None:
    assert locked[0].get(path).status_code == 200


def test_tokens_are_long_and_only_hashes_are_kept() -> None:
    token, line = new_token("alice")
    assert len(token) > 40
    assert token not in line
    assert re.fullmatch(r"alice:[0-9a-f]{64}", line)
    assert Tokens([new_token("bob")[1], line]).check(f"Bearer {token}") == "alice"
    with pytest.raises(ProblemError):
        Tokens([line]).check("Bearer \udcff")
    with pytest.raises(ValueError, match="tokens"):
        ServingConfig.model_validate({"models": [{"run": "x"}], "tokens": [token]})


def test_a_request_keeps_its_id_and_is_logged_without_its_content(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ovseg_ray.serving.access"):
        answer = client.post("/v1/segment", params=ASK, content=encoded(picture()), headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"
        other = client.get("/v1/models", headers={"x-request-id": "a b\tc"})
        assert re.fullmatch(r"[0-9a-f]{32}", other.headers["x-request-id"])
        client.get("/healthz")
    lines = [json.loads(record.message) for record in caplog.records if record.name.endswith("access")]
    assert [(line["request_id"], line["route"], line["status"]) for line in lines] == [
        ("mine-1", "/v1/segment", 200),
        (other.headers["x-request-id"], "/v1/models", 200),
    ]
    assert "sky" not in caplog.text


def test_a_fault_shows_nothing_of_itself(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret path /etc/x")

    monkeypatch.setattr(engine.models.get(None), "prepare", fail)
    answer = client.post("/v1/segment", params=ASK, content=encoded(picture()))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "secret path" in caplog.text, "the log has it"
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_server_that_is_not_ready_says_so(run: Path) -> None:
    with TestClient(create_app(Engine()), raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == 200
        for answer in (client.get("/readyz"), client.post("/v1/segment", params=ASK, content=b"x")):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "retry-after" in answer.headers


def test_metrics_count_requests_by_route_and_replica(client: TestClient, engine: Engine) -> None:
    client.post("/v1/segment", params=ASK, content=encoded(picture()))
    client.delete("/v1/images/nothing")
    text = client.get("/metrics").text
    assert f'ovseg_requests_total{{method="POST",replica="{engine.replica}",route="/v1/segment",status="200"}}' in text
    assert 'route="/v1/images/{id}",status="404"' in text
    assert "ovseg_batch_images_bucket" in text
    assert "nothing" not in text, "ids would make metrics grow without end"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": []}, "models"),
        ({"models": [{"run": "a"}, {"run": "a"}]}, "a stands twice"),
        ({"models": [{"run": "a", "nam": "b"}]}, "did you mean 'models.0.name'"),
        ({"models": [{"run": "a", "name": "b c"}]}, "name"),
        ({"models": [{"run": "a"}], "limits": {"pixel": 3}}, "did you mean 'limits.pixels'"),
        ({"models": [{"run": "a"}], "limits": {"formats": ["GIF"]}}, "formats"),
    ],
)
def test_configurations_that_cannot_be_meant(values: dict[str, object], message: str) -> None:
    from ovseg_ray.config import build

    with pytest.raises(UserError, match=message):
        build(ServingConfig, values)
