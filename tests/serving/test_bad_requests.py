"""The table of docs/serving-bad-input.md, row by row."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving_tools import encoded, picture
from starlette.testclient import TestClient

from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine

PAGE = Path(__file__).parents[2] / "docs" / "serving-bad-input.md"
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<status>\d+) \| `(?P<code>\w+)` \| (?P<detail>[^|]+) \| (?P<limit>[^|]*)\|$"
)
GOOD = encoded(picture())
TEXT = base64.b64encode(GOOD).decode()
LIMITS = {"body_bytes": 2**20, "pixels": 1_000_000, "batch_images": 8, "labels": 100, "prompts": 100}

Ask = Callable[[TestClient], Any]


def rows() -> list[tuple[str, int, str, str]]:
    found = [ROW.match(line) for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return [(m["what"].strip(), int(m["status"]), m["code"], m["detail"].strip()) for m in found if m]


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[TestClient]:
    values = {"models": [{"run": str(run), "device": "cpu", "version": "1"}], "limits": LIMITS}
    engine = Engine()
    engine.load(ServingConfig.model_validate(values))
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client


def segment(body: Any = None, **values: Any) -> Ask:
    return lambda client: client.post("/v1/segment", json=body, **values)


def asks(inputs: Any = TEXT, labels: Any = ("sky", "grass"), **parameters: Any) -> Ask:
    if labels is not None:
        parameters["candidate_labels"] = list(labels)
    return segment({"inputs": inputs, "parameters": parameters})


def raw(content: bytes, kind: str = "image/png", **query: str) -> Ask:
    params = {"candidate_labels": "sky, grass", **query}
    return lambda client: client.post("/v1/segment", params=params, content=content, headers={"content-type": kind})


def saved(form: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, form)
    return buffer.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG whose pixels would fill memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**5)))
        + chunk(b"IEND", b"")
    )


def growing() -> Iterator[bytes]:
    for _ in range(40):
        yield bytes(2**16)


def put(key: str, body: Any) -> Ask:
    return lambda client: client.put(f"/v1/vocabularies/{key}", json=body)


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data"}
CASES: dict[str, Ask] = {
    "nothing at all": lambda client: client.post("/v1/segment"),
    "a body that is no JSON": lambda client: client.post("/v1/segment", content=b"{", headers=JSON),
    "JSON nested ten thousand deep": lambda client: client.post("/v1/segment", content=b"[" * 10_000, headers=JSON),
    "JSON that is a list": segment([1]),
    "an unknown parameter": asks(treshold=0.5),
    "an unknown query parameter": raw(GOOD, treshold="0.5"),
    "a threshold of 2": asks(threshold=2),
    "a background that is no label": asks(background="sea"),
    "a deadline of 0": asks(deadline_ms=0),
    "no labels": asks(labels=None),
    "labels and a vocabulary": asks(vocabulary="coco-80"),
    "an empty label": asks(labels=["sky", " "]),
    "a label twice": asks(labels=["sky", "sky"]),
    "a label that the text tower does not know": asks(labels=["skyy"]),
    "a million labels": asks(labels=map(str, range(10**6))),
    "101 labels": asks(labels=[f"word {i}" for i in range(101)]),
    "an unknown vocabulary": asks(labels=None, vocabulary="mine"),
    "a misspelt vocabulary": asks(labels=None, vocabulary="cityscapes19"),
    "an unknown model": asks(model="lsge"),
    "an unknown version": asks(model="lseg@2"),
    "an upload that is a number": raw(b"", parameters='{"image_id": 5}'),
    "a parameter of half a character": lambda client: client.post(
        "/v1/segment",
        content=b'{"inputs": "x", "parameters": {"background": "\\ud800", "candidate_labels": ["sky"]}}',
        headers=JSON,
    ),
    "an unknown upload": segment({"image_id": "img_x", "parameters": {"candidate_labels": ["sky"]}}),
    "a picture and an upload": segment({"inputs": TEXT, "image_id": "img_x"}),
    "text that is no base64": asks("näh!"),
    "a data URI without base64": asks("data:image/png,abc"),
    "bytes that are no picture": raw(b"hello"),
    "a picture cut off": raw(GOOD[: len(GOOD) * 2 // 3]),
    "a GIF": raw(saved("GIF")),
    "an SVG": raw(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "a PDF": raw(b"%PDF-1.4\n1 0 obj"),
    "a pickle": raw(pickle.dumps({"a": 1}), "application/octet-stream"),
    "a PNG of 30000 x 30000 in 1 kB": raw(bomb()),
    "a PNG of 9000 x 9000 in 1 kB": raw(bomb(9000)),
    "a picture over the limit": raw(saved("PNG", (1001, 1000))),
    "a body over the limit": raw(bytes(2**20 + 1)),
    "a body that grows over the limit unannounced": lambda client: client.post(
        "/v1/segment", content=growing(), headers={"content-type": "image/png"}
    ),
    "nine pictures in one request": asks([TEXT] * 9),
    "text as the content type": raw(b"hello", "text/plain"),
    "curl --data-binary without a content type": raw(GOOD, "application/x-www-form-urlencoded"),
    "a form without a boundary": lambda client: client.post("/v1/segment", content=b"x", headers=FORM),
    "a form whose image is text": lambda client: client.post("/v1/segment", files={"image": (None, "x")}),
    "a URL": asks("https://example.org/cat.jpg"),
    "a URL into the server's network": asks("http://169.254.169.254/latest/meta-data"),
    "a vocabulary that comes with the program": put("coco-80", {"labels": ["sky"]}),
    "a vocabulary id with a slash": put("a/b", {"labels": ["sky"]}),
    "a vocabulary of 101 labels": put("mine", {"labels": [f"word {i}" for i in range(101)]}),
    "51 templates of two labels": put(
        "mine", {"labels": ["sky", "grass"], "templates": [f"{i} {{}}" for i in range(51)]}
    ),
    "a template without {}": put("mine", {"labels": ["sky"], "templates": ["a photo"]}),
    "an address that is none": lambda client: client.get("/v1/nothing"),
    "GET where POST is meant": lambda client: client.get("/v1/segment"),
    "an upload that is no picture": lambda client: client.post("/v1/images", content=b"x"),
    "an upload as a JSON list": lambda client: client.post("/v1/images", json=[TEXT]),
    "no answer in time": asks(deadline_ms=1),
}


@pytest.mark.parametrize(("what", "status", "code", "detail"), rows(), ids=[row[0] for row in rows()])
def test_each_row_gets_what_the_page_says(server: TestClient, what: str, status: int, code: str, detail: str) -> None:
    answer = CASES[what](server)
    body = answer.json()
    assert (answer.status_code, body["code"], body["detail"]) == (status, code, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["type"] == f"urn:ovseg-ray:problem:{code}"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert not re.search(r"/(root|home|tmp|work)/|Traceback|File \"", json.dumps(body))


def test_the_page_has_every_case() -> None:
    assert [row[0] for row in rows()] == list(CASES)


def test_the_server_still_answers(server: TestClient) -> None:
    answer = server.post("/v1/segment", json={"inputs": TEXT, "parameters": {"candidate_labels": ["sky", "grass"]}})
    assert answer.status_code == 200
