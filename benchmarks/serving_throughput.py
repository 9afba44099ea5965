"""What serving costs: requests a second under load and milliseconds alone, against the same model in a bare loop.

    python benchmarks/serving_throughput.py [--encoder small|vit_base_patch16_384] [--side 480] [--seconds 10]

Rows: the bare loop (best batch), the endpoint with HAProxy, the endpoint behind Ray Serve's own proxy, the endpoint
without batching, and FastAPI with uvicorn alone, unbatched. The bare loop decodes nothing and makes no masks: it runs
the network and the labels. The client runs on the same machine.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from serving_load import TEXT_WIDTH, WORDS, free_port, load, make_model, picture, server

from ovseg_ray.methods.base import Method
from ovseg_ray.segmenter import Segmenter

LABELS = 20
PLAIN = """
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


def bare(method: Method, image: torch.Tensor, text: torch.Tensor, batch: int, seconds: float) -> float:
    """Pictures a second."""
    size = (image.shape[1], image.shape[2])
    images = image.expand(batch, -1, -1, -1).contiguous()
    done, started = 0, None
    with torch.inference_mode():
        while started is None or time.perf_counter() - started < seconds:
            method.segment(method.encode(images), text, size)
            if started is None:
                started = time.perf_counter()  # the first warms up
                continue
            done += batch
    return done / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=["haproxy", "proxy", "unbatched", "plain"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), arguments)


def run(directory: Path, arguments: argparse.Namespace) -> None:
    model = make_model(directory / "lseg", arguments.encoder)
    body = picture(arguments.side)
    method = Segmenter.load(model, "cpu").method
    image = method.preprocess(np.asarray(Image.open(io.BytesIO(body))))
    text = torch.nn.functional.normalize(torch.randn(LABELS, TEXT_WIDTH), dim=1)
    rates = {batch: bare(method, image, text, batch, arguments.seconds / 2) for batch in (1, 4, 8, 16)}
    best = max(rates.values())
    alone = 1000 / rates[1]
    print("bare loop, pictures a second by batch:", {batch: round(rate, 2) for batch, rate in rates.items()})
    (directory / "plain.py").write_text(PLAIN)
    (directory / "one.yaml").write_text("batching: {max_images: 1}\n")
    serve = ["-m", "ovseg_ray.cli", "serve", str(model), "--port"]
    kinds = {
        "haproxy": lambda port: [*serve, port, "--haproxy"],
        "proxy": lambda port: [*serve, port],
        "unbatched": lambda port: [*serve, port, "--config", str(directory / "one.yaml")],
        "plain": lambda port: [str(directory / "plain.py"), str(model), port],
    }
    params = {"candidate_labels": ",".join(WORDS[:LABELS])}
    print(f"{'server':10} {'1 client: p50 ms':>16} {'over bare':>10} {'loaded: rate':>13} {'of bare':>8} {'failed':>7}")
    print(f"{'bare':10} {alone:16.1f} {0:10.1f} {best:13.2f} {1:8.2f} {0:7}")
    for name in arguments.only:
        port = free_port()
        url = f"http://127.0.0.1:{port}/v1/segment"
        with server(kinds[name](str(port)), port, directory / f"{name}.log"):
            single = load(url, body, params, clients=1, seconds=arguments.seconds)
            busy = load(url, body, params, clients=arguments.clients, seconds=arguments.seconds)
        print(
            f"{name:10} {single.p50:16.1f} {single.p50 - alone:10.1f} {busy.rate:13.2f} {busy.rate / best:8.2f} "
            f"{single.failed + busy.failed:7}",
            flush=True,
        )


if __name__ == "__main__":
    main()
