"""What serving costs: requests a second under load and milliseconds alone, against the same model in a bare loop.

    python benchmarks/serving_throughput.py RUN --picture FILE [--labels "sky, grass"]
    python benchmarks/serving_throughput.py --encoder vit_base_patch16_384 --side 480

Servers: the endpoint with HAProxy, the same with a replica for every processor, behind Ray Serve's own proxy, and
without batching; FastAPI with uvicorn alone; and LitServe (`pip install litserve`), which is left out where it is not
installed. The bare loop decodes nothing and makes no masks: it runs the network and the labels on a batch of the same
picture, in this process, while the server idles.
`whole` is the same picture without a server, from JPEG to masks. Server and loop take turns, so that both see the same
machine; what is told is the median of the turns. Alone, they take turns every half second: a machine changes its speed
between turns of minutes. The client runs on the same processors and is part of the cost. An idle server takes some of
them, too, which slows the loop beside it: `quiet` is the loop before a server starts and after it ended, for as long as
its turns were, and the second share that of it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from serving_load import WORDS, Question, free_port, load, make_model, picture, server, write

from ovseg_ray.cluster import KEEP_MEMORY
from ovseg_ray.data.images import decode_image
from ovseg_ray.evaluation.prediction_files import to_coco
from ovseg_ray.segmenter import Segmenter

LABELS = 20
BATCHES = (1, 2, 4, 8, 16)
ALONE_AT_LEAST = 20
BURST_S = 0.5
SERVERS = ("haproxy", "replicas", "proxy", "unbatched", "fastapi", "litserve")
FASTAPI = """
import asyncio, sys, uvicorn
from fastapi import FastAPI, Request
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.data.images import decode_image
from ovseg_ray.evaluation.prediction_files import to_coco
model, lock, app = Segmenter.load(sys.argv[1], "cpu"), asyncio.Lock(), FastAPI()

@app.get("/healthz")
def healthz(): return {}

@app.post("/v1/segment")
async def segment(request: Request, candidate_labels: str):
    image = decode_image(await request.body(), "picture")
    async with lock:
        result = await asyncio.to_thread(model.segment, image, candidate_labels)
    return to_coco(result)

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
LITSERVE = """
import base64, sys
import litserve, torch
from ovseg_ray.data.images import decode_image
from ovseg_ray.evaluation.prediction_files import to_coco
from ovseg_ray.segmenter import Result, Segmenter

class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = Segmenter.load(sys.argv[1], "cpu")

    def decode_request(self, request):
        image = decode_image(base64.b64decode(request["image"]), "picture")
        return image, self.model.vocabulary(request["candidate_labels"])

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        method, vocabulary = self.model.method, inputs[0][1]  # all ask for the same
        text = self.model.embeddings.embed(vocabulary)
        with torch.inference_mode():
            encoding = method.encode(torch.stack([method.preprocess(image) for image, _ in inputs]))
            found = method.segment(encoding, text, inputs[0][0].shape[:2])
        maps = found.label_map.numpy().astype("uint8"), found.confidence.numpy()
        return [Result(*parts, vocabulary) for parts in zip(*maps)]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return to_coco(output)

if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[3]), batch_timeout=0.005, api_path="/v1/segment")
    litserve.LitServer(api, accelerator="cpu", healthcheck_path="/healthz", timeout=600).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error", num_api_servers=1)
"""


class Bare:
    """The model without a server.

    Args:
        model: to load.
        data: a JPEG.
        labels: as a text.
    """

    def __init__(self, model: Path, data: bytes, labels: str) -> None:
        self.segmenter, self._data = Segmenter.load(model, "cpu"), data
        self._vocabulary = self.segmenter.vocabulary(labels)
        self._image = self.segmenter.method.preprocess(decode_image(data, "picture"))
        self._text = self.segmenter.embeddings.embed(self._vocabulary)

    def forward(self, batch: int) -> Callable[[], None]:
        """Network and labels of a batch."""
        method, size = self.segmenter.method, (self._image.shape[1], self._image.shape[2])
        images = self._image.expand(batch, -1, -1, -1).contiguous()

        def run() -> None:
            with torch.inference_mode():
                method.segment(method.encode(images), self._text, size)

        return run

    def whole(self) -> None:
        """One picture from its file to masks as text."""
        result = self.segmenter.segment(decode_image(self._data, "picture"), self._vocabulary)
        json.dumps(to_coco(result))


def timed(run: Callable[[], None], seconds: float) -> tuple[float, float]:
    """(median in milliseconds, times a second)."""
    run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times), len(times) / (time.perf_counter() - started)


def alone(bare: Bare, url: str, question: Question, seconds: float) -> dict[str, float]:
    """Median milliseconds of a request, a forward pass, and a picture without a server; `failed` requests."""
    split = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=600)
    path = f"{split.path}?{urllib.parse.urlencode(question.params)}"
    failed = 0

    def request() -> None:
        nonlocal failed
        connection.request("POST", path, question.body, {"content-type": question.kind})
        answer = connection.getresponse()
        answer.read()
        failed += answer.status != 200

    what = {"request_ms": request, "forward_ms": bare.forward(1), "whole_ms": bare.whole}
    times: dict[str, list[float]] = {name: [] for name in what}
    started = time.perf_counter()
    while len(times["whole_ms"]) < ALONE_AT_LEAST or time.perf_counter() - started < seconds:
        for name, run in what.items():
            run()  # not counted: its processors were idle, or had another process's memory in their caches
            burst = time.perf_counter()
            while (begun := time.perf_counter()) - burst < BURST_S:
                run()
                times[name].append(1000 * (time.perf_counter() - begun))
    connection.close()
    return {name: statistics.median(found) for name, found in times.items()} | {"failed": failed}


def turn(bare: Bare, best: int, url: str, question: Question, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bare loop and server: alone, and under load."""
    half = arguments.seconds / 2
    single = alone(bare, url, question, 2 * arguments.seconds)
    rate = best * timed(bare.forward(best), half)[1]
    busy = load(url, question, clients=arguments.clients, seconds=arguments.seconds, warm=arguments.warm)
    rate = statistics.mean([rate, best * timed(bare.forward(best), half)[1]])
    return {
        "alone": single, "bare_rate": rate, "busy": asdict(busy), "share": busy.rate / rate,
        "over_forward_ms": single["request_ms"] - single["forward_ms"],
        "over_whole_ms": single["request_ms"] - single["whole_ms"],
    }  # fmt: skip


def commands(directory: Path, model: Path) -> dict[str, Callable[[str], list[str]]]:
    """What starts each server on a port."""
    (directory / "run_fastapi.py").write_text(FASTAPI)
    (directory / "run_litserve.py").write_text(LITSERVE)
    (directory / "one.yaml").write_text("batching: {max_images: 1}\n")
    serve = ["-m", "ovseg_ray.cli", "serve", str(model), "--port"]
    return {
        "haproxy": lambda port: [*serve, port, "--haproxy"],
        "replicas": lambda port: [*serve, port, "--haproxy", "--min-replicas", str(os.cpu_count())],
        "proxy": lambda port: [*serve, port],
        "unbatched": lambda port: [*serve, port, "--haproxy", "--config", str(directory / "one.yaml")],
        "fastapi": lambda port: [str(directory / "run_fastapi.py"), str(model), port],
        "litserve": lambda port: [str(directory / "run_litserve.py"), str(model), port, "8"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a finished run; without one, --encoder with random weights")
    parser.add_argument("--picture", type=Path, help="a JPEG; without one, areas of colour of --side")
    parser.add_argument("--labels", help="default: those that the run was trained on; of random weights, 20")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--warm", type=float, default=2, help="seconds of load before it counts")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="that the bare loop tries")
    parser.add_argument("--servers", nargs="*", default=SERVERS, choices=SERVERS)
    parser.add_argument("--out", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        # the bare loop and all servers get what the endpoint's replicas get; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), arguments)


def measure(directory: Path, arguments: argparse.Namespace) -> None:
    model = arguments.run or make_model(directory / "lseg", arguments.encoder)
    data = arguments.picture.read_bytes() if arguments.picture else picture(arguments.side)
    trained = Segmenter.load(model, "cpu").method.label_sets[0].names
    labels = arguments.labels or ", ".join(trained if arguments.run else WORDS[:LABELS])
    bare = Bare(model, data, labels)
    rates = {batch: batch * timed(bare.forward(batch), arguments.seconds / 2)[1] for batch in arguments.batches}
    best = max(rates, key=lambda batch: rates[batch])
    print("bare loop alone, pictures a second by batch:", {batch: round(rate, 2) for batch, rate in rates.items()})
    print(f"{'server':10} {'p50 ms':>8} {'forward':>8} {'over it':>8} {'whole':>8} {'over it':>8}"
          f" {'loaded/s':>9} {'bare/s':>8} {'share':>6}"
          f" {'quiet/s':>8} {'share':>6} {'p99 ms':>8} {'failed':>6}")  # fmt: skip
    rows: dict[str, Any] = {}
    for name in arguments.servers:
        if name == "litserve" and importlib.util.find_spec("litserve") is None:
            print(f"{name:10} left out: not installed; pip install litserve")
            continue
        rows[name] = serve(name, directory, model, bare, best, question(name, data, labels), arguments)
    write(arguments.out, {"bare_rates": rates, "clients": arguments.clients, "servers": rows})


def question(name: str, data: bytes, labels: str) -> Question:
    """The same picture and words in the form that a server takes."""
    if name != "litserve":
        return Question(data, {"candidate_labels": labels})
    body = json.dumps({"image": base64.b64encode(data).decode(), "candidate_labels": labels})
    return Question(body.encode(), {}, "application/json")


def serve(
    name: str, directory: Path, model: Path, bare: Bare, best: int, asked: Question, arguments: argparse.Namespace
) -> dict[str, Any]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/segment"
    seconds = arguments.seconds * arguments.turns / 2
    quiet = best * timed(bare.forward(best), seconds)[1]
    with server(commands(directory, model)[name](str(port)), port, Path(f"{directory}/{name}.log")):
        load(url, asked, clients=2, seconds=1, warm=1)
        turns = [turn(bare, best, url, asked, arguments) for _ in range(arguments.turns)]
    quiet = statistics.mean([quiet, best * timed(bare.forward(best), seconds)[1]])

    def median(*keys: str) -> float:
        values: list[Any] = turns
        for key in keys:
            values = [value[key] for value in values]
        return float(statistics.median(values))

    failed = sum(turn["alone"]["failed"] + turn["busy"]["failed"] for turn in turns)
    print(
        f"{name:10} {median('alone', 'request_ms'):8.1f} {median('alone', 'forward_ms'):8.1f}"
        f" {median('over_forward_ms'):8.1f}"
        f" {median('alone', 'whole_ms'):8.1f} {median('over_whole_ms'):8.1f} {median('busy', 'rate'):9.2f}"
        f" {median('bare_rate'):8.2f} {median('share'):6.2f} {quiet:8.2f} {median('busy', 'rate') / quiet:6.2f}"
        f" {median('busy', 'p99'):8.0f} {failed:6}",
        flush=True,
    )
    return {"turns": turns, "over_forward_ms": median("over_forward_ms"), "share": median("share"),
            "quiet_rate": quiet, "quiet_share": median("busy", "rate") / quiet, "failed": failed}  # fmt: skip


if __name__ == "__main__":
    main()
