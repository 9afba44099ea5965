"""`/v1/segment` in every form that a request can have, against the same model asked directly."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from serving_tools import encoded, picture
from starlette.testclient import TestClient

from ovseg_ray.evaluation.overlay import overlay
from ovseg_ray.serving.engine import Engine

LABELS = ["sky", "grass", "a red car"]
TEXT = "sky, grass, a red car"
FIELDS = {"candidate_labels": TEXT, "return": "label_map,segments"}


def expected(engine: Engine) -> np.ndarray:
    return engine.models.get(None).segmenter.segment(picture(), LABELS).label_map


def decode(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_json_multipart_and_raw_bytes_say_the_same(client: TestClient, engine: Engine) -> None:
    data = encoded(picture())
    text = base64.b64encode(data).decode()
    parameters = {"candidate_labels": LABELS, "return": ["label_map", "segments"]}
    answers = [
        client.post("/v1/segment", json={"inputs": text, "parameters": parameters}),
        client.post("/v1/segment", json={"inputs": f"data:image/png;base64,{text}", "parameters": parameters}),
        client.post("/v1/segment", files={"image": data}, data={"parameters": json.dumps(parameters)}),
        client.post("/v1/segment", files={"image": data}, data=FIELDS),
        client.post(
            "/v1/segment",
            params=FIELDS,
            content=data,
            headers={"content-type": "image/png"},
        ),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert np.array_equal(decode(body["label_map"]["png"]), expected(engine))
        assert body["segments"] == answers[0].json()["segments"]
        assert body["image"] == {"width": 65, "height": 37}
        assert body["request_id"] == answer.headers["x-request-id"]


def test_segments_cover_the_label_map(client: TestClient, engine: Engine) -> None:
    label_map = expected(engine)
    body = client.post(
        "/v1/segment", params={"candidate_labels": TEXT}, content=encoded(picture())
    ).json()  # fmt: skip
    assert [s["area"] for s in body["segments"]] == sorted((s["area"] for s in body["segments"]), reverse=True)
    assert {s["index"] for s in body["segments"]} == set(np.unique(label_map).tolist())
    for segment in body["segments"]:
        mask = coco_mask.decode({**segment["segmentation"], "counts": segment["segmentation"]["counts"].encode()})
        assert np.array_equal(mask.astype(bool), label_map == segment["index"])
        assert segment["label"] == LABELS[segment["index"]]
        assert segment["area"] == mask.sum()


def test_accept_png_gives_the_bare_map(client: TestClient, engine: Engine) -> None:
    answer = client.post(
        "/v1/segment",
        params={"candidate_labels": TEXT},
        content=encoded(picture()),
        headers={"accept": "image/png"},
    )
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected(engine))


@pytest.mark.parametrize(
    ("accept", "bare"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", False),
        ("image/png", True),
        ("IMAGE/PNG", True),
        ("image/*", True),
        ("image/png, */*", True),
        ("image/png, application/json", False),
        ("image/png;q=0.1, application/json", False),
        ("image/png; q=0.1, application/json;q=0.2", False),
        ("application/json;q=0.1, image/png", True),
        ("image/png;q=0", False),
        ("image/png;q=0, */*", False),
        ("image/avif,image/webp,image/png,*/*;q=0.8", True),
        ("image/png;q=, ,;;", True),
    ],
)
def test_what_a_client_would_rather_have(client: TestClient, accept: str, bare: bool) -> None:
    answer = client.post("/v1/segment", params=FIELDS, content=encoded(picture()), headers={"accept": accept})
    assert answer.headers["content-type"] == ("image/png" if bare else "application/json")


def test_an_overlay_lays_the_colours_of_the_labels_over_the_picture(client: TestClient, engine: Engine) -> None:
    image = picture(200, 300)
    params = {"candidate_labels": TEXT, "return": "overlay,label_map"}
    data = encoded(image)
    image_id = client.post("/v1/images", content=data).json()["id"]
    truth = engine.models.get(None).segmenter.segment(image, LABELS).label_map
    wanted = overlay(image, truth, tuple(LABELS))
    for values in ({"params": params, "content": data}, {"params": {**params, "image_id": image_id}}):
        body = client.post("/v1/segment", **values).json()
        shown = decode(body["overlay"]["png"])
        assert np.array_equal(shown, wanted)
        assert shown.shape[0] == 200
        assert shown.shape[1] > 300, "the legend stands beside it"
        assert not np.array_equal(shown[:, :300], image)


def test_timings_add_up(client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"candidate_labels": TEXT, "return": "segments,label_map,confidence"}
    method = engine.models.get(None).method
    real = method.encode
    client.post("/v1/segment", params=params, content=encoded(picture()))

    def slow(images: object) -> object:
        time.sleep(0.3)
        return real(images)

    monkeypatch.setattr(method, "encode", slow)
    begun = time.perf_counter()
    found = client.post("/v1/segment", params=params, content=encoded(picture(300, 400))).json()["timings"]
    seen = 1000 * (time.perf_counter() - begun)
    assert found["image"] >= 300
    assert found["total"] <= seen
    # what is in none of them: the vocabulary, reading the header, waiting for the event loop
    parts = sum(found[part] for part in ("queue", "image", "text", "post"))
    assert 0.7 * found["total"] <= parts <= found["total"] + 0.01


def test_a_stream_is_admitted_until_its_last_line(client: TestClient, engine: Engine) -> None:
    text = base64.b64encode(encoded(picture())).decode()
    body = {"inputs": [text] * 3, "parameters": {"candidate_labels": LABELS}}
    held = [engine.admitted() for _ in range(engine.config.limits.requests - 1)]
    for admission in held:
        admission.__enter__()
    try:
        answer = client.post("/v1/segment", json=body)
        assert (answer.status_code, len(answer.text.splitlines())) == (200, 3), "one place does"
        with engine.admitted():
            refused = client.post("/v1/segment", json=body)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    finally:
        for admission in held:
            admission.__exit__(None, None, None)
    assert engine._inside == 0


def test_an_uploaded_picture_answers_alike(client: TestClient) -> None:
    data = encoded(picture())
    upload = client.post("/v1/images", content=data, headers={"content-type": "image/png"})
    assert upload.status_code == 201
    params = {"candidate_labels": TEXT, "image_id": upload.json()["id"]}
    again = client.post("/v1/segment", params=params).json()
    fresh = client.post("/v1/segment", params={"candidate_labels": TEXT}, content=data).json()
    assert again["segments"] == fresh["segments"]
    assert again["cache"]["image"]
    assert not fresh["cache"]["image"]
    assert client.delete(f"/v1/images/{upload.json()['id']}").status_code == 204
    assert client.post("/v1/segment", params=params).json()["code"] == "image_not_found"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/vocabularies", "/", "/openapi.json"])
def test_the_other_addresses_answer(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_request_goes_through_no_other_thread_on_its_way_to_the_engine(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI would take a plain function there, at the price of two wake-ups for every request."""

    async def refused(*_: object, **__: object) -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refused)
    monkeypatch.setattr("fastapi.routing.run_in_threadpool", refused)
    answer = client.post(
        "/v1/segment", params=FIELDS, content=encoded(picture()), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200
