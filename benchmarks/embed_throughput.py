"""Images a second of `ovseg-ray embed`, against the same backbone in a bare loop over tensors that are decoded already.

    python benchmarks/embed_throughput.py --images 2000 --size 224 --encoder mobilenet_v2 --out /tmp/embed-benchmark

Makes JPEG photographs of noise over smooth colours, decodes them into memory and runs the backbone over them in
batches; then embeds the same files by the command's own function, with as many actors as the loop has processes. The
command's clock runs from its first finished part to its last: starting Ray and the actors is told apart. Both are
measured twice, in turn, and the better of each counts. One thread each. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovseg_ray.cluster import KEEP_MEMORY, connect
from ovseg_ray.data import open_dataset
from ovseg_ray.data.squares import square
from ovseg_ray.embedding import EmbedConfig, embed
from ovseg_ray.embedding.embedder import Embedder
from ovseg_ray.embedding.job import part_images


def make_images(folder: Path, count: int, side: int) -> None:
    """JPEGs a third larger than the squares."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    height, width = side * 4 // 3, side * 16 // 9
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if not path.is_file():
            smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
            noisy = np.asarray(smooth, np.int16) + rng.integers(-12, 13, (height, width, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def bare(pixels: np.ndarray, config: EmbedConfig) -> float:
    """Images a second of the backbone alone, in this process."""
    embedder = Embedder(config)
    embedder(pixels[:32])  # warm
    started = time.perf_counter()
    embedder(pixels)
    return len(pixels) / (time.perf_counter() - started)


def streamed(images: Path, out: Path, config: EmbedConfig, workers: int) -> tuple[float, float]:
    """Images a second of the job between its first and its last part, and all its seconds."""
    shutil.rmtree(out, ignore_errors=True)
    dataset, started = open_dataset(images), time.time()
    embed(dataset, out, config, workers=workers)
    took = time.time() - started
    written = sorted(path.stat().st_mtime for path in out.glob("parts/*.parquet"))
    first = part_images(config) * min(workers, len(written) - 1)  # what the first parts of all actors hold
    return (len(dataset) - first) / (written[-1] - written[min(workers, len(written) - 1) - 1]), took


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--architecture")
    parser.add_argument("--dense", default="float16")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        # the bare loop gets what the command's processes get; read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(1)
    encoder = {"name": given.encoder, "architecture": given.architecture, "stride": 16}
    config = EmbedConfig.model_validate({"encoder": encoder, "squares": {"size": given.size}, "dense": given.dense})
    images = given.out / f"images-{given.size}"
    make_images(images, given.images, given.size)
    names = sorted(images.iterdir())[: given.images]
    sample = [square(np.asarray(Image.open(name)), given.size) for name in names[: min(given.images, 512)]]
    pixels = np.stack(sample)
    loops, jobs = [], []
    with connect():
        for _ in range(2):
            loops.append(bare(pixels, config))
            jobs.append(streamed(images, given.out / "store", config, workers=1))
    result = {
        "images": given.images,
        "bare_images_a_second": round(max(loops), 1),
        "embed_images_a_second": round(max(rate for rate, _ in jobs), 1),
        "ratio": round(max(rate for rate, _ in jobs) / max(loops), 3),
        "whole_seconds": round(min(took for _, took in jobs), 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
