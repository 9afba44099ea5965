"""What one picture costs as the list of labels grows: streamed `segment` against dense scores.

    python benchmarks/label_scaling.py [--size 480] [--labels 10 20 100 1000 10000] [--encoder vit_base_patch16_384]

One line a row: labels, seconds of encoding the picture (the same for any labels), then seconds and peak extra memory of
both paths from there, the label vectors not counted. Weights are random, which costs the same. Each measurement runs in
a process of its own, because a process's peak memory never falls. The dense path is skipped where its scores alone pass
--dense-limit-gb.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ovseg_ray.methods.base import Encoding
from ovseg_ray.methods.lseg import LSeg, LSegConfig

TEXT_WIDTH = 512


def measure(
    path: str, labels: int, size: int, width: int, threads: int, repeats: int, encoder: str
) -> tuple[float, float, float]:
    """(seconds to encode, seconds, extra MB) of one path."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = {"name": "small"} if encoder == "small" else {"name": "vit", "vit": {"architecture": encoder}}
    method = LSeg(LSegConfig.model_validate({"encoder": network, "width": width, "joint_width": TEXT_WIDTH})).eval()
    text = F.normalize(torch.randn(labels, TEXT_WIDTH), dim=1)
    with torch.inference_mode():
        image = torch.randn(1, 3, size, size)
        encoding = method.encode(image)
        encoded = min(_timed(method.encode, image) for _ in range(repeats))
        step = _streamed if path == "streamed" else _dense
        step(method, encoding, text[:2], size)  # warm-up
        before = _peak_mb()
        seconds = min(_timed(step, method, encoding, text, size) for _ in range(repeats))
    return encoded, seconds, _peak_mb() - before


def _streamed(method: LSeg, encoding: Encoding, text: torch.Tensor, size: int) -> None:
    method.segment(encoding, text, (size, size))


def _dense(method: LSeg, encoding: Encoding, text: torch.Tensor, size: int) -> None:
    scores = method.scores(encoding, text)
    F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True).softmax(1).max(1)


def _timed(step: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - started


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 100, 1000, 10_000])
    parser.add_argument("--encoder", default="small", help="small, or a vision transformer of timm's")
    parser.add_argument("--size", type=int, default=480, help="side of the picture, a multiple of 32")
    parser.add_argument("--width", type=int, default=256, help="of the decoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense-limit-gb", type=float, default=1.5)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{'labels':>7} {'encode s':>9} {'streamed s':>11} {'MB':>7} {'dense s':>9} {'MB':>7}")
    for labels in given.labels:
        cells, encoded = [], 0.0
        for path in ("streamed", "dense"):
            if path == "dense" and labels * given.size**2 * 4 / 1e9 > given.dense_limit_gb:
                cells += ["-", "-"]
                continue
            with context.Pool(1) as pool:
                arguments = (path, labels, given.size, given.width, given.threads, given.repeats, given.encoder)
                encoded, seconds, memory = pool.apply(measure, arguments)
            cells += [f"{seconds:.3f}", f"{memory:.0f}"]
        print(f"{labels:>7} {encoded:>9.3f} {cells[0]:>11} {cells[1]:>7} {cells[2]:>9} {cells[3]:>7}", flush=True)


if __name__ == "__main__":
    main()
