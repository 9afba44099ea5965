"""The Open Inference Protocol, spoken by Triton's own client."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from serving_tools import encoded, picture
from starlette.testclient import TestClient

from ovseg_ray.serving.engine import Engine

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
LABELS = ["sky", "grass|turf", "sand"]
URL = "/v2/models/lseg/infer"


@pytest.fixture
def client(live: tuple[str, Engine]) -> Any:
    client = triton.InferenceServerClient(live[0].removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture
def plain(engine: Engine) -> TestClient:
    from ovseg_ray.serving.app import create_app

    return TestClient(create_app(engine), raise_server_exceptions=False)


def tensors(*, binary: bool, labels: list[str] | None = None) -> list[Any]:
    data = encoded(picture())
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([data if binary else base64.b64encode(data)], object), binary_data=binary)
    names = np.array([label.encode() for label in labels or LABELS], object)
    words = triton.InferInput("labels", [len(names)], "BYTES")
    words.set_data_from_numpy(names, binary_data=binary)
    return [image, words]


def truth(engine: Engine, model: str = "first") -> Any:
    return engine.models.get(model).segmenter.segment(picture(), "sky, grass|turf, sand")


def test_health_and_metadata(client: Any, live: tuple[str, Engine]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("second")
    assert not client.is_model_ready("third")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    version = live[1].models.get("second").version
    found = client.get_model_metadata("second", version)
    assert (found["name"], found["versions"]) == ("second", [version])
    assert [tensor["name"] for tensor in found["inputs"]] == ["image", "labels"]
    assert [(tensor["name"], tensor["datatype"]) for tensor in found["outputs"]] == [
        ("label_map", "UINT16"), ("confidence", "FP32"), ("labels", "BYTES"),
    ]  # fmt: skip


@pytest.mark.parametrize("sent", [True, False], ids=["sent as bytes", "sent as JSON"])
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted as bytes", "wanted as JSON"])
def test_infer(client: Any, live: tuple[str, Engine], sent: bool, wanted: bool) -> None:
    names = ("label_map", "confidence", "labels")
    outputs = [triton.InferRequestedOutput(name, binary_data=wanted) for name in names]
    found = client.infer("second", tensors(binary=sent), outputs=outputs, request_id="seven")
    expected = truth(live[1], "second")
    assert found.as_numpy("label_map").dtype == np.uint16
    assert np.array_equal(found.as_numpy("label_map"), expected.label_map)
    assert np.array_equal(found.as_numpy("confidence"), expected.confidence)
    labels = [label.decode() if isinstance(label, bytes) else label for label in found.as_numpy("labels")]
    assert labels == ["sky", "grass", "sand"]
    said = found.get_response()
    assert (said["model_name"], said["id"]) == ("second", "seven")
    assert said["model_version"] == live[1].models.get("second").version


def test_without_a_list_of_outputs_all_come(client: Any) -> None:
    assert len(client.infer("first", tensors(binary=True)).get_response()["outputs"]) == 3
    only = client.infer("first", tensors(binary=True), outputs=[triton.InferRequestedOutput("labels")])
    assert [output["name"] for output in only.get_response()["outputs"]] == ["labels"]


def test_parameters_mean_what_they_mean_elsewhere(client: Any, live: tuple[str, Engine]) -> None:
    expected = truth(live[1])
    least = float(np.median(expected.confidence))
    found = client.infer("first", tensors(binary=True), parameters={"threshold": least}).as_numpy("label_map")
    assert np.array_equal(found == 65535, expected.confidence < least)
    whole = client.infer("first", tensors(binary=True), parameters={"threshold": least, "background": "sky"})
    assert np.array_equal(whole.as_numpy("label_map"), np.where(expected.confidence < least, 0, expected.label_map))


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        ({"labels": ["sky", "nobody knows"]}, {}, "nobody knows"),
        ({}, {"treshold": 0.5}, "treshold: there are vocabulary, threshold"),
        ({}, {"threshold": 5}, "threshold"),
    ],
)
def test_errors_reach_the_client_in_words(client: Any, inputs: Any, parameters: Any, words: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.infer("first", tensors(binary=True, **inputs), parameters=parameters)
    assert caught.value.status() == "422"


def test_an_unknown_model_is_said(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match='no model "third"'):
        client.infer("third", tensors(binary=True))


def body(**changes: Any) -> dict[str, Any]:
    image = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "data": [base64.b64encode(encoded(picture())).decode()],
    }
    labels = {"name": "labels", "shape": [2], "datatype": "BYTES", "data": ["sky", "grass"]}
    return {"inputs": [image | changes.get("image", {}), labels | changes.get("labels", {})]}


def test_a_body_by_hand_is_answered(plain: TestClient) -> None:
    answer = plain.post(URL, json=body(labels={"data": [["sky"], ["grass"]], "shape": [2, 1]}))
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["shape"] == [37, 65]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"shape": [3]}},
        {"labels": {"data": [1, 2]}},
        {"labels": {"data": None}},
        {"labels": {"datatype": "FP32"}},
        {"labels": {"name": "words"}},
        {"image": {"shape": [2], "data": ["", ""]}},
        {"image": {"data": ["no base64!"]}},
        {"image": {"data": None, "parameters": {"binary_data_size": 99}}},
        {"image": {"data": None, "parameters": {"binary_data_size": -1}}},
    ],
)
def test_bodies_that_do_not_follow_the_protocol(plain: TestClient, changes: dict[str, Any]) -> None:
    answer = plain.post(URL, json=body(**changes))
    assert answer.status_code in (400, 422)
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "9999999"])
def test_a_wrong_length_of_the_json_is_refused(plain: TestClient, length: str) -> None:
    answer = plain.post(URL, content=json.dumps(body()), headers={"inference-header-content-length": length})
    assert answer.status_code == 400


@pytest.mark.parametrize("tail", [b"\x01", struct.pack("<I", 9) + b"short", struct.pack("<I", 2**32 - 1)])
def test_elements_that_do_not_add_up_are_refused(plain: TestClient, tail: bytes) -> None:
    head = body(labels={"data": None, "parameters": {"binary_data_size": len(tail)}})
    text = json.dumps(head).encode()
    answer = plain.post(URL, content=text + tail, headers={"inference-header-content-length": str(len(text))})
    assert answer.status_code == 400
    assert "do not add up" in answer.json()["error"]


def test_large_tensors_do_not_go_as_json(plain: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ray.serving.kserve.MOST_JSON_PIXELS", 100)
    image = base64.b64encode(encoded(picture())).decode()
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]},
        {"name": "labels", "datatype": "BYTES", "shape": [2], "data": ["sky", "grass"]},
    ]
    answer = plain.post("/v2/models/lseg/infer", json={"inputs": inputs})
    assert answer.status_code == 413
    assert "ask for binary_data" in answer.json()["error"]
    asked = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    assert plain.post("/v2/models/lseg/infer", json=asked).status_code == 200


def test_half_a_character_is_a_mistake_not_a_fault(plain: TestClient) -> None:
    answer = plain.post("/v2/models/lseg/infer", content=b'{"inputs": [], "parameters": {"\\ud800": 1}}')
    assert answer.status_code == 422
    assert "parameter ?" in answer.json()["error"]
