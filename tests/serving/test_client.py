"""The client against a real endpoint on a port, and against servers that are busy or broken."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.client import Client, EndpointError, confidence, label_map, mask
from ovseg_ray.errors import UserError

LABELS = "sky, grass|turf, sand"
SYNONYMS = ["sky", ["grass", "turf"], "sand"]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture
def client(live) -> Iterator[Client]:  # type: ignore[no-untyped-def]
    with Client(live[0]) as client:
        yield client


def test_importing_it_needs_neither_ray_nor_torch_nor_arrays() -> None:
    code = """
import sys
for name in ("ray", "torch", "numpy", "PIL", "fastapi", "starlette", "pycocotools"):
    sys.modules[name] = None  # importing it fails
from ovseg_ray.client import Client
client = Client("http://127.0.0.1:9", retries=0)
assert not client.ready()
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr


def test_a_picture_in_every_form_is_answered_alike(client: Client, image: np.ndarray, live, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a.png"
    file.write_bytes(png(image))
    model = live[1].models.get(None).segmenter
    truth = model.segment(image, LABELS)
    for picture in (file, str(file), png(image), image, Image.fromarray(image)):
        for labels in (LABELS, SYNONYMS):
            found = client.segment(picture, labels, parts=["label_map", "confidence", "segments"])
            assert np.array_equal(label_map(found), truth.label_map)
            assert np.abs(confidence(found) - truth.confidence).max() < 0.6 / 255
    for form in ("rle", "png"):
        found = client.segment(image, LABELS, mask_format=form)
        for segment in found.segments:
            assert np.array_equal(mask(segment), truth.label_map == segment.index)


def test_an_upload_is_encoded_once_and_asked_by_its_model(client: Client, image: np.ndarray) -> None:
    picture = client.upload(image, "second")
    assert picture.model == "second"
    found = client.segment(picture, LABELS, parts=["label_map"])
    assert (found.model, found.cache.image, found.image.id) == ("second", True, picture.id)
    assert np.array_equal(
        label_map(found), label_map(client.segment(image, LABELS, model="second", parts=["label_map"]))
    )
    client.forget(picture)
    with pytest.raises(EndpointError) as caught:
        client.segment(picture, LABELS)
    assert (caught.value.code, caught.value.status) == ("image_not_found", 404)
    assert caught.value.problem.request_id


def test_batches_stream_and_one_bad_picture_harms_no_other(client: Client, image: np.ndarray) -> None:
    lines = {line.index: line for line in client.segment_many([image, b"no picture", image[::-1].copy()], LABELS)}
    assert sorted(lines) == [0, 1, 2]
    assert lines[1].error.code == "invalid_image"
    assert lines[0].result.segments == client.segment(image, LABELS).segments
    assert lines[2].result.segments == client.segment(image[::-1].copy(), LABELS).segments
    stopped = client.segment_many([image] * 3, LABELS)
    next(stopped)
    stopped.close()  # what is left unread does not stand before the next answer
    assert client.ready()


def test_vocabularies_and_models(client: Client, image: np.ndarray) -> None:
    assert [model.name for model in client.models()] == ["first", "second"]
    stored = client.put_vocabulary("mine", LABELS, templates=["{}"])
    assert stored.labels == SYNONYMS
    assert client.vocabulary("mine") == stored
    assert "mine" in [entry.id for entry in client.vocabularies()]
    by_id = client.segment(image, vocabulary="mine")
    assert by_id.segments == client.segment(image, SYNONYMS).segments
    client.delete_vocabulary("mine")
    with pytest.raises(EndpointError, match="mine"):
        client.segment(image, vocabulary="mine")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.segment("nowhere.png", "sky"), "nowhere.png: cannot be read"),
        (lambda c: c.segment(b""), "either labels or the id of a vocabulary"),
        (lambda c: c.segment(b"", "sky", vocabulary="mine"), "either labels or the id of a vocabulary"),
        (lambda c: c.segment(b"", "sky", threshold=2), "threshold"),
        (lambda c: c.segment(b"", "sky,,grass"), "candidate_labels"),
        (lambda c: c.segment(np.zeros((2, 2, 2, 2)), "sky"), "not a picture"),
        (lambda c: Client("localhost:8000"), "give one like http://"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(call: Callable[[Client], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(Client("http://127.0.0.1:9", retries=0))


# ---- servers that are busy or broken

READY = b'{"status": "ok"}'
BUSY = b'{"type": "x", "title": "Too many", "status": 429, "detail": "wait", "code": "overloaded"}'


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes] | None) -> Iterator[tuple[str, list[tuple[float, str]]]]:
    """A server that gives these answers in turn (None: it hangs up), and when it was asked with what token."""
    asked: list[tuple[float, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append((time.monotonic(), self.headers.get("Authorization", "")))
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection |= headers.get("Connection") == "close"

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(status: int) -> None:
    with scripted((status, {"Retry-After": "1"}, BUSY), (200, {}, b'{"models": []}')) as (url, asked):
        assert Client(url, token="secret").models() == []
    assert len(asked) == 2
    assert asked[1][0] - asked[0][0] >= 1.0
    assert asked[1][1] == "Bearer secret"


def test_patience_ends() -> None:
    with (
        scripted((429, {"Retry-After": "0"}, BUSY)) as (url, asked),
        pytest.raises(EndpointError, match="Too many: wait") as caught,
    ):
        Client(url, retries=2).models()
    assert caught.value.code == "overloaded"
    assert len(asked) == 3


FAULT = b'{"type": "x", "title": "A fault", "status": 500, "detail": "see the log", "code": "internal"}'


@pytest.mark.parametrize("status", [500, 502])
def test_what_a_proxy_lost_is_sent_again(status: int) -> None:
    answers = (status, {}, b"Internal Server Error"), (200, {}, b'{"models": []}')
    with scripted(*answers) as (url, asked):
        assert Client(url).models() == []
    assert len(asked) == 2
    with scripted(answers[0]) as (url, asked), pytest.raises(EndpointError, match=f"HTTP status {status}"):
        Client(url, retries=1).models()
    assert len(asked) == 2


@pytest.mark.parametrize(("status", "body"), [(500, FAULT), (504, b"<h1>Gateway timeout</h1>"), (404, b"nothing")])
def test_other_refusals_are_not_repeated(status: int, body: bytes) -> None:
    with scripted((status, {}, body)) as (url, asked), pytest.raises(EndpointError) as caught:
        Client(url).models()
    assert caught.value.status == status
    assert len(asked) == 1


def test_a_broken_connection_is_opened_anew() -> None:
    with scripted(None, (200, {}, b'{"models": []}')) as (url, asked):
        assert Client(url).models() == []
    assert len(asked) == 2


def test_nobody_there_is_said() -> None:
    with pytest.raises(EndpointError, match="no answer") as caught:
        Client("http://127.0.0.1:9", retries=0).models()
    assert caught.value.code == "unreachable"


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    cut = (200, {"Content-Length": "100", "Connection": "close"}, b'{"models"')
    with scripted(cut, (200, {}, b'{"models": []}')) as (url, asked):
        assert Client(url).models() == []
    assert len(asked) == 2
    with scripted(cut) as (url, asked), pytest.raises(EndpointError, match="no answer") as caught:
        Client(url, retries=1).models()
    assert caught.value.code == "unreachable"


def test_an_upload_outlives_the_version_that_took_it(client: Client, image: np.ndarray) -> None:
    uploaded = client.upload(image)
    gone = uploaded.model_copy(update={"version": "0"})
    assert np.array_equal(
        label_map(client.segment(gone, LABELS, parts=["label_map"])),
        label_map(client.segment(uploaded, LABELS, parts=["label_map"])),
    )
    with pytest.raises(EndpointError, match="no model"):
        client.segment(gone, LABELS, model=f"{gone.model}@0")  # asked for by name: not replaced
