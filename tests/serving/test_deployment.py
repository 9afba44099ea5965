"""The endpoint on Ray Serve: replicas share what they know, are killed and replaced, take new models in place."""

from __future__ import annotations

import base64
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from serving_tools import encoded, free_port, make_run, picture

from ovseg_ray.commands.serve import serve as serve_command
from ovseg_ray.serving.config import ImageStoreConfig, ScalingConfig, ServingConfig
from ovseg_ray.serving.local import serve_here

pytestmark = pytest.mark.ray
ASK = {"candidate_labels": "sky, grass, a red car"}
DATA = encoded(picture())


def serving(*runs: Path) -> ServingConfig:
    return ServingConfig.model_validate({"models": [{"run": str(run), "device": "cpu"} for run in runs]})


@pytest.fixture(scope="module")
def start(ray_cluster: None) -> Iterator[Callable[[ServingConfig], None]]:
    """Deploys two replicas of a configuration, or reconfigures those that are there."""
    from ray import serve

    from ovseg_ray.serving.deployment import endpoint
    from ovseg_ray.serving.hub_actor import stop_hub

    scaling = ScalingConfig(min_replicas=2, max_replicas=2, num_cpus=0.5, drain_s=10)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})

    def deploy(config: ServingConfig) -> None:
        serve.run(endpoint(scaling, config), name="test", route_prefix="/")

    deploy.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield deploy
    serve.shutdown()
    stop_hub("test")


@pytest.fixture(scope="module")
def http(start: Any, run: Path) -> Iterator[httpx.Client]:
    start(serving(run))
    with httpx.Client(base_url=start.url, timeout=60) as client:
        yield client


def segment(client: httpx.Client, **params: str) -> Any:
    content = None if "image_id" in params else DATA
    return client.post("/v1/segment", params={**ASK, **params}, content=content)


def replicas(client: httpx.Client) -> set[str]:
    """Replicas that answered, of those that told their metrics."""
    return {
        line.split('replica="')[1].split('"')[0]
        for line in client.get("/metrics").text.splitlines()
        if "replica=" in line
    }


def pids() -> list[int]:
    import ray
    from ray.util.state import list_actors

    own = ray.get_runtime_context().gcs_address  # others may run on this machine
    found = [a for a in list_actors(own, limit=1000) if a.state == "ALIVE" and "ServeReplica:test" in a.class_name]
    return [actor.pid for actor in found]


def test_replicas_share_uploads_vocabularies_and_prompts(http: httpx.Client) -> None:
    upload = http.post("/v1/images", content=DATA).json()
    assert http.put("/v1/vocabularies/mine", json={"labels": ["sky", ["car", "automobile"]]}).status_code == 200
    fresh = segment(http).json()
    encoded_prompts = 0
    # as many as make both replicas answer
    for _ in range(40):
        answer = segment(http, image_id=upload["id"])
        assert answer.status_code == 200, answer.text
        assert answer.json()["cache"]["image"]
        assert answer.json()["segments"] == fresh["segments"]
        encoded_prompts += answer.json()["cache"]["prompts_encoded"]
        named = http.post("/v1/segment", params={"vocabulary": "mine"}, content=DATA)
        assert named.json()["vocabulary"]["id"] == "mine"
        if len(replicas(http)) == 2:
            break
    assert len(replicas(http)) == 2
    assert encoded_prompts == 0, "the fresh request encoded them, for both replicas"
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert http.delete(f"/v1/images/{upload['id']}").status_code == 204
    assert http.delete("/v1/vocabularies/mine").status_code == 204


def test_streams_and_other_protocols_pass_through_the_proxy(http: httpx.Client) -> None:
    text = base64.b64encode(DATA).decode()
    wanted = segment(http).json()["segments"]
    labels = ["sky", "grass", "a red car"]
    body = {"inputs": [text, "no picture", text], "parameters": {"candidate_labels": labels}}
    with http.stream("POST", "/v1/segment", json=body) as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        lines = {line["index"]: line for line in map(json.loads, stream.iter_lines())}
    assert lines[0]["result"]["segments"] == lines[2]["result"]["segments"] == wanted
    assert lines[1]["error"]["code"] == "invalid_image"
    found = http.post("/hf", params=ASK, content=DATA, headers={"content-type": "image/png"}).json()
    assert [(mask["label"], mask["score"]) for mask in found] == [(part["label"], part["score"]) for part in wanted]
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]},
        {"name": "labels", "datatype": "BYTES", "shape": [3], "data": labels},
    ]
    name = http.get("/v1/models").json()["models"][0]["name"]
    answer = http.post(f"/v2/models/{name}/infer", json={"inputs": inputs, "parameters": {"binary_data_output": True}})
    head = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    rest = answer.content[-sum(sizes) :]
    label_map = np.frombuffer(rest[: sizes[0]], "<u2").reshape(head["outputs"][0]["shape"])
    assert {part["index"]: part["area"] for part in wanted} == dict(
        zip(*(found.tolist() for found in np.unique(label_map, return_counts=True)), strict=True)
    )


def test_only_this_machine_can_ask_unless_a_host_is_given(http: httpx.Client, start: Any) -> None:
    assert inspect.signature(serve_here).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(serve_command).parameters["host"].default == "127.0.0.1"
    port = f":{int(start.url.rpartition(':')[2]):04X}"
    listening = [
        row.split()[1].removesuffix(port)
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[1].endswith(port) and row.split()[3] == "0A"
    ]
    assert listening == ["0100007F"], "127.0.0.1, as Linux writes it"


@pytest.mark.chaos
def test_a_killed_replica_and_a_swap_under_load_cost_no_request(
    http: httpx.Client, start: Any, run: Path, tmp_path: Path
) -> None:
    new = make_run(tmp_path / "lseg", seed=7)
    stop = threading.Event()
    versions: list[str] = []
    lost: list[str] = []
    retried = 0

    def ask() -> None:
        nonlocal retried
        with httpx.Client(base_url=start.url, timeout=60) as client:
            while not stop.is_set():
                for _ in range(20):  # what clients do: all requests may be repeated
                    try:
                        answer = segment(client)
                    except httpx.TransportError:
                        answer = None
                    if answer is not None and answer.status_code == 200:
                        versions.append(answer.json()["version"])
                        break
                    retried += 1
                    time.sleep(0.2)
                else:
                    lost.append(answer.text if answer is not None else "no answer")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        before = pids()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        time.sleep(1)
        start(serving(new, run))
        deadline = time.monotonic() + 60
        while set(pids()) & set(before) == set(before) or len(pids()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not lost
    assert before[1] in pids(), "a swap starts no new process"
    assert len(set(versions)) == 2
    assert len(set(versions[-3:])) == 1
    both = http.get("/v1/models").json()["models"]
    assert [model["version"] for model in both] == list(dict.fromkeys(reversed(versions)))
    assert retried < 60, "retries were few"
    last = segment(http).json()
    assert last["version"] == both[0]["version"]


def test_a_mistake_in_a_swap_changes_nothing(http: httpx.Client, start: Any, run: Path) -> None:
    known = http.get("/v1/models").json()
    start(ServingConfig.model_validate({"models": [{"run": "/nowhere"}]}))
    assert http.get("/v1/models").json() == known
    assert np.isfinite(segment(http).json()["timings"]["total"])


@pytest.mark.chaos
def test_a_replica_that_starts_after_a_mistake_serves_what_was_accepted_last(
    http: httpx.Client, start: Any, run: Path
) -> None:
    start(serving(run))
    known = http.get("/v1/models").json()
    start(ServingConfig.model_validate({"models": [{"run": "/nowhere"}]}))
    before = set(pids())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 200
    while set(pids()) & before or len(pids()) < 2:
        assert time.monotonic() < deadline, "no replica came back"
        time.sleep(0.5)
    answers = []
    while len(answers) < 8:  # both of them
        assert time.monotonic() < deadline, answers
        try:
            answer = http.get("/v1/models")
        except httpx.TransportError:
            continue
        if answer.status_code == 200:
            answers.append(answer.json())
        time.sleep(0.2)
    assert answers == [known] * 8


def test_an_upload_that_expired_leaves_the_hub_though_nobody_asks(http: httpx.Client, start: Any, run: Path) -> None:
    import ray

    from ovseg_ray.serving.hub_actor import NAMESPACE

    def kept() -> int:
        hub: Any = ray.get_actor("test", namespace=NAMESPACE)
        return len(ray.get(hub.call.remote("__getattribute__", "_uploads")))

    start(serving(run).model_copy(update={"images": ImageStoreConfig(ttl_s=2)}))
    assert http.post("/v1/images", content=DATA).status_code == 201
    assert kept() == 1
    deadline = time.monotonic() + 30
    while kept() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert kept() == 0
